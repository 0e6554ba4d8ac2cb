"""The tables of a set of runs: reconstruction, generation, perception, cost; seeds folded into mean and interval.

Numbers stand in one column only when their protocols are equal; otherwise each protocol gets a column of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from statistics import mean, stdev
from typing import Any

from svgbench.tables.collect import RunRecord
from svgbench.tables.table import Table

DIGITS = {"psnr": 2, "ssim": 3, "lpips": 3, "kid": 4, "precision": 3, "recall": 3}
LOWER = {"gfid", "rfid", "lpips", "kid"}
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % Student t for n seeds."""


def report(records: list[RunRecord]) -> list[Table]:
    """The tables of these runs, empty ones left out."""
    rows = [row for record in records for row in record.scores]
    tables = [
        score_table("Reconstruction", rows, ("rfid", "psnr", "ssim", "lpips"), lambda r: r["metric"]),
        score_table("Generation: gFID by steps and guidance", rows, ("gfid",), _cell),
        score_table(
            "Generation: at the most steps", _most_steps(rows), ("is", "kid", "precision", "recall"), lambda r: f"{r['metric']} {_cell(r)}"
        ),
        score_table("Perception of frozen latents", rows, ("probe_top1", "probe_top5", "knn_top1", "miou", "macc"), _latents),
        cost_table(records),
        failure_table(records),
    ]
    return [table for table in tables if table.rows]


def group_name(run: str) -> str:
    """A run's name without its seed."""
    return re.sub(r"\.seed-\d+", "", run)


def score_table(title: str, rows: list[dict[str, Any]], metrics: tuple[str, ...], column: Callable[[dict[str, Any]], str]) -> Table:
    """Runs (seeds folded) against columns of one protocol each; best of a column in bold where there are two or more."""
    rows = [row for row in rows if row["metric"] in metrics]
    rows.sort(key=lambda r: (metrics.index(r["metric"]), r["steps"] or 0, r["guidance"] or 0))
    protocols: dict[str, list[str]] = {}
    for row in rows:
        protocols.setdefault(column(row), [])
        if row["protocol"] not in protocols[column(row)]:
            protocols[column(row)].append(row["protocol"])
    columns = [(name, protocol) for name, several in protocols.items() for protocol in several]
    groups = list(dict.fromkeys(group_name(row["run"]) for row in rows))
    cells: dict[tuple[str, tuple[str, str]], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((group_name(row["run"]), (column(row), row["protocol"])), []).append(row)
    marks = {p: i + 1 for i, p in enumerate(dict.fromkeys(p for _, p in columns))}
    table = Table(title, ["run", *(f"{name} [{marks[protocol]}]" for name, protocol in columns)], [])
    best = {c: _best([cells[g, c] for g in groups if (g, c) in cells]) for c in columns}
    for group in groups:
        texts = []
        for c in columns:
            own = cells.get((group, c))
            text = _text(own) if own else "-"
            texts.append(f"**{text}**" if own and own is best[c] else text)
        table.rows.append([group, *texts])
    counts = {p: sorted({r["count"] for r in rows if r["protocol"] == p}) for p in marks}
    table.notes = [f"[{i}] {p}; count {', '.join(map(str, counts[p]))}" for p, i in marks.items()]
    seeds = {g: len({r["seed"] for r in rows if group_name(r["run"]) == g}) for g in groups}
    if any(n > 1 for n in seeds.values()):
        numbers = ", ".join(map(str, sorted(set(seeds.values()))))
        table.notes.append(f"mean +- half of the 95 % t-interval over seeds ({numbers} seeds a row)")
    if any(n == 1 for n in seeds.values()):
        table.notes.append(
            "one seed: value (low, high), the interval of the protocol's resampling; it does not hold the spread between seeds"
        )
    return table


def _most_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    most = max((r["steps"] or 0 for r in rows), default=0)
    return [r for r in rows if r["steps"] == most]


def _cell(row: dict[str, Any]) -> str:
    guidance = row["guidance"]
    return f"{row['steps']} steps" + ("" if guidance == 1 else f", guidance {guidance:g}")


def _latents(row: dict[str, Any]) -> str:
    which = row["detail"].get("latents")
    return f"{row['metric']} {which}" if which else row["metric"]


def _text(rows: list[dict[str, Any]]) -> str:
    digits = DIGITS.get(rows[0]["metric"], 2)
    values = [r["value"] for r in rows]
    if len(values) > 1:
        return f"{mean(values):.{digits}f} ± {half_interval(values):.{digits}f}"
    row = rows[0]
    if row["low"] is None:
        return f"{row['value']:.{digits}f}"
    return f"{row['value']:.{digits}f} ({row['low']:.{digits}f}, {row['high']:.{digits}f})"


def half_interval(values: list[float]) -> float:
    """Half the 95 % Student t interval of a mean over seeds."""
    n = len(values)
    return T_975.get(n, 1.96) * stdev(values) / math.sqrt(n)


def _best(cells: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]] | None:
    cells = list(cells)
    if len(cells) < 2:
        return None
    sign = 1 if cells[0][0]["metric"] in LOWER else -1
    return min(cells, key=lambda rows: sign * mean(r["value"] for r in rows))


def cost_table(records: list[RunRecord]) -> Table:
    """What each training stage cost: rate, model-FLOP utilisation, peak memory."""
    table = Table(
        "Training cost", ["run", "stage", "images seen", "images/s", "MFU", "GFLOP/image", "peak memory", "seconds", "device"], []
    )
    for record in records:
        for stage in record.about["stages"]:
            cost = stage["cost"]
            if stage["stage"] not in ("autoencoder", "diffusion") or "images_per_second" not in cost:
                continue
            host = stage["host"]
            threads = f", {host['threads']} threads" if host.get("device") == "cpu" and "threads" in host else ""
            rate = [f"{cost['images_seen']:,}", f"{cost['images_per_second']:.0f}", f"{100 * cost['utilisation']:.0f} %"]
            size = [f"{cost['flops_per_image'] / 1e9:.3f}", f"{cost['peak_memory_bytes'] / 1e9:.2f} GB", f"{stage['seconds']:.0f}"]
            table.rows.append([record.name, stage["stage"], *rate, *size, f"{host.get('device', '?')}{threads}"])
    if table.rows:
        table.notes = ["MFU: counted FLOPs (1 multiply-add = 2) a second over the matrix-product rate measured in the same process"]
    return table


def failure_table(records: list[RunRecord]) -> Table:
    """Runs with failed stages and why."""
    rows = [[r.name, stage, why] for r in records for stage, why in r.about["failures"].items()]
    return Table("Failed", ["run", "stage", "reason"], rows)
