"""The tables of a set of runs: reconstruction, generation, perception, cost; seeds folded into mean and interval.

Numbers stand in one column only when their protocols are equal; otherwise each protocol gets a column of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from statistics import mean, stdev
from typing import Any

from svgbench.config.records import Protocol
from svgbench.tables.collect import RunRecord
from svgbench.tables.table import Table

DIGITS = {"psnr": 2, "ssim": 3, "lpips": 3, "kid": 4, "precision": 3, "recall": 3, "depth_rmse": 3, "depth_arel": 3}
SAMPLES = ("sfid", "fd_dinov2", "is", "kid", "precision", "recall")
"""Scores of samples beside gFID."""
PERCEPTION = ("probe_top1", "probe_top5", "knn_top1", "logreg_top1", "miou", "macc", "depth_rmse", "depth_arel")
LOWER = {"gfid", "sfid", "fd_dinov2", "rfid", "rfd_dinov2", "lpips", "kid", "depth_rmse", "depth_arel"}
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
)  # fmt: skip
"""Two-sided 95 % Student t for 2, 3, ... seeds; the last for more."""


def report(records: list[RunRecord]) -> list[Table]:
    """The tables of these runs, empty ones left out."""
    whole = [row for record in records for row in record.scores]
    ends = {record.name: max((row["images_seen"] or 0 for row in record.scores), default=0) for record in records}
    rows = [row for row in whole if (row["images_seen"] or 0) == ends[row["run"]]]  # of networks at the end of their training
    early = {row["run"] for row in whole} if len(rows) < len(whole) else set()
    along = [row for row in whole if row["run"] in early and row["steps"]]
    tables = [
        score_table("Reconstruction", rows, ("rfid", "rfd_dinov2", "psnr", "ssim", "lpips")),
        score_table("Generation: gFID by sampling steps and guidance", rows, ("rfid", "gfid"), column=_cell),
        score_table("Generation along the training: gFID by images seen", _most_steps(along), ("gfid",), column=_seen),
        score_table("Generation at the most steps", _most_steps(rows), SAMPLES, row=_guided),
        score_table("Perception of frozen latents", rows, PERCEPTION, row=_latents),
        cost_table(records),
        failure_table(records),
    ]
    return [table for table in tables if table.rows]


def group_name(run: str) -> str:
    """A run's name without its seed."""
    return re.sub(r"\.seed-\d+", "", run)


def score_table(
    title: str,
    rows: list[dict[str, Any]],
    metrics: tuple[str, ...],
    *,
    column: Callable[[dict[str, Any]], str] = lambda row: row["metric"],
    row: Callable[[dict[str, Any]], str] = lambda row: group_name(row["run"]),
) -> Table:
    """Scores (seeds folded) under columns of one protocol each; the best of a column in bold where there are two or more."""
    rows = [r for r in rows if r["metric"] in metrics]
    rows.sort(key=lambda r: (metrics.index(r["metric"]), r["steps"] or 0, r["images_seen"] or 0, r["guidance"] or 0))
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for r in rows:
        cells.setdefault((row(r), column(r), r["protocol"]), []).append(r)
    made = {r["protocol"]: Protocol.model_validate(r["protocol_fields"]) for r in rows}
    order = list(dict.fromkeys(column(r) for r in rows))  # the protocols of one column stand side by side
    columns = sorted(dict.fromkeys((column(r), r["protocol"]) for r in rows), key=lambda c: order.index(c[0]))
    names = list(dict.fromkeys(row(r) for r in sorted(rows, key=lambda r: group_name(r["run"]))))
    marks = {note: i + 1 for i, note in enumerate(dict.fromkeys(made[p].note for _, p in columns))}
    best = {c: _best([cells[(n, *c)] for n in names if (n, *c) in cells]) for c in columns}
    table = Table(title, ["run", *(f"{name} [{marks[made[protocol].note]}]" for name, protocol in columns)], [])
    for name in names:
        texts = []
        for c in columns:
            own = cells.get((name, *c))
            text = _text(own) if own else "-"
            texts.append(f"**{text}**" if own and own is best[c] else text)
        table.rows.append([name, *texts])
    table.notes = [*_legend(rows, made, marks), *_apart(columns, made, marks), *_intervals(list(cells.values()))]
    return table


def _legend(rows: list[dict[str, Any]], made: dict[str, Protocol], marks: dict[str, int]) -> list[str]:
    """What the columns' marks mean."""
    counts: dict[str, set[int]] = {}
    for r in rows:
        counts.setdefault(made[r["protocol"]].note, set()).add(r["count"])
    return [f"[{mark}] {note}; count {', '.join(map(str, sorted(counts[note])))}" for note, mark in marks.items()]


def _apart(columns: list[tuple[str, str]], made: dict[str, Protocol], marks: dict[str, int]) -> list[str]:
    """Why columns of one name are two: which field of their protocols differs."""
    notes = []
    for number, (name, protocol) in enumerate(columns):
        first = next(p for n, p in columns[: number + 1] if n == name)
        if first != protocol:
            one, other = (marks[made[p].note] for p in (first, protocol))
            notes.append(f"[{one}] and [{other}] are not ranked together; they differ in {'; '.join(made[first].differs(made[protocol]))}")
    return list(dict.fromkeys(notes))


def _intervals(cells: list[list[dict[str, Any]]]) -> list[str]:
    """What stands around a number."""
    notes = []
    several = sorted({len(own) for own in cells if len(own) > 1})
    if several:
        notes.append(f"mean ± half of the 95 % t-interval over {' or '.join(map(str, several))} seeds")
    stated = list(dict.fromkeys(own[0]["detail"]["interval"] for own in cells if len(own) == 1 and own[0]["low"] is not None))
    if stated:
        notes.append(f"value (low, high): one seed, {'; or '.join(stated)}; the spread between seeds is not in it")
    return notes


def _most_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    most = max((r["steps"] or 0 for r in rows), default=0)
    return [r for r in rows if r["steps"] == most]


def _cell(row: dict[str, Any]) -> str:
    if row["metric"] == "rfid":
        return "floor: rFID"
    guidance = row["guidance"]
    return f"{row['steps']} steps" + ("" if guidance == 1 else f", guidance {guidance:g}")


def _seen(row: dict[str, Any]) -> str:
    guidance = row["guidance"]
    return f"{row['images_seen']:,} images" + ("" if guidance == 1 else f", guidance {guidance:g}")


def _guided(row: dict[str, Any]) -> str:
    return f"{group_name(row['run'])}, {_cell(row)}"


def _latents(row: dict[str, Any]) -> str:
    return f"{group_name(row['run'])}, {row['detail']['latents']}"


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
    return T_975[min(n, len(T_975) + 1) - 2] * stdev(values) / math.sqrt(n)


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
