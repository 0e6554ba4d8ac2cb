"""The tables of any set of runs: reconstruction, generation, perception, cost; seeds are averaged to mean and interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from svgbench.metrics.declared import names as declared
from svgbench.stages.graph import TRAININGS
from svgbench.tables.collect import RunRecord, group_name
from svgbench.tables.differences import difference_table
from svgbench.tables.measures import MEASURES
from svgbench.tables.standings import Entry, standings
from svgbench.tables.table import Table

BEHIND = {"tuning": "to tune the shift", "start": "start"}
"""Reasons why a run needs the training of another configuration."""


def report(records: list[RunRecord], *, against: str | None = None, contrasts: Sequence[Table] = ()) -> list[Table]:
    """The tables of these runs, without empty ones; each is followed by the differences from the row ``against``. ``contrasts``: tables to
    show before those of costs and failures."""
    whole = [row for record in records for row in record.scores]
    ends = {record.name: max((row["images_seen"] or 0 for row in record.scores), default=0) for record in records}
    rows = [row for row in whole if (row["images_seen"] or 0) == ends[row["run"]]]  # scores at the end of the training
    generated = rows if any(row["metric"] == "gfid" for row in rows) else []
    early = {row["run"] for row in whole} if len(rows) < len(whole) else set()
    along = [row for row in whole if row["run"] in early and row["steps"]]
    tables = partial(score_tables, labels={record.name: record.row for record in records}, against=against)
    candidates = [
        *tables("Reconstruction", rows, declared("reconstruction")),
        *tables(f"Generation: {_title('gfid')} by sampling steps and guidance", generated, ("rfid", "gfid"), column=_cell),
        *tables(f"Generation along the training: {_title('gfid')} by images seen", _most_steps(along), ("gfid",), column=_seen),
        *tables("Generation at the largest number of steps", _most_steps(rows), _beside_gfid(), column=_guided),
        *tables("Perception of frozen latents", rows, declared("perception"), parts=True),
        *contrasts,
        *closing(records),
    ]
    return [table for table in candidates if table.rows]


def closing(records: list[RunRecord]) -> list[Table]:
    """The last tables of every report: training cost and failed stages."""
    return [table for table in (cost_table(records), failure_table(records)) if table.rows]


def score_tables(
    title: str,
    rows: list[dict[str, Any]],
    metrics: tuple[str, ...],
    *,
    column: Callable[[dict[str, Any]], str] = lambda row: _title(row["metric"]),
    labels: Mapping[str, str] = MappingProxyType({}),
    parts: bool = False,
    against: str | None = None,
) -> list[Table]:
    """Scores of these metrics in columns of one protocol each, in the order of their runs; then the differences from the row
    ``against``. ``labels``: name of a run -> its row; ``parts``: whether each kind of latents has its own row."""

    def row(score: dict[str, Any]) -> str:
        name = labels.get(score["run"]) or group_name(score["run"])
        return f"{name}, {score['detail']['latents']}" if parts else name

    rows = [r for r in rows if r["metric"] in metrics]
    order = list(dict.fromkeys(group_name(r["run"]) for r in rows))  # the seeds of a row are adjacent
    names = list(dict.fromkeys(row(r) for r in sorted(rows, key=lambda r: order.index(group_name(r["run"])))))
    rows.sort(key=lambda r: (metrics.index(r["metric"]), r["steps"] or 0, r["images_seen"] or 0, r["guidance"] or 0))
    entries = [Entry(row(r), column(r), r) for r in rows]
    bare = list(dict.fromkeys(labels.get(r["run"]) or group_name(r["run"]) for r in rows))
    columns = list(dict.fromkeys(e.column for e in entries))
    differences = [] if against is None else [difference_table(title, entries, rows=names, columns=columns, baseline=against, names=bare)]
    return [standings(title, entries, rows=names, columns=columns), *differences]


def _beside_gfid() -> tuple[str, ...]:
    """The generation metrics except gFID, which has a separate table by steps and guidance."""
    return tuple(name for name in declared("generation") if name != "gfid")


def _most_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    most = max((r["steps"] or 0 for r in rows), default=0)
    return [r for r in rows if r["steps"] == most]


def _title(metric: str) -> str:
    """A metric's title with the arrow of its better direction."""
    return f"{MEASURES[metric].title} {MEASURES[metric].arrow}"


def _cell(row: dict[str, Any]) -> str:
    return f"floor: {_title('rfid')}" if row["metric"] == "rfid" else _with_guidance(f"{row['steps']} steps", row["guidance"])


def _seen(row: dict[str, Any]) -> str:
    return _with_guidance(f"{row['images_seen']:,} images", row["guidance"])


def _guided(row: dict[str, Any]) -> str:
    return _with_guidance(_title(row["metric"]), row["guidance"])


def _with_guidance(what: str, guidance: float) -> str:
    return what if guidance == 1 else f"{what}, guidance {guidance:g}"


def cost_table(records: list[RunRecord]) -> Table:
    """Cost of each training stage: images per second, model-FLOP utilisation, peak memory."""
    columns = ["run", "stage", "images seen", "images/s", "MFU", "GFLOP/image", "peak memory", "seconds", "device"]
    table = Table("Training cost", columns, [], kind="cost", keys=2)
    for record in records:
        for stage in (*record.behind, *record.about["stages"]):
            cost = stage["cost"]
            if stage["stage"] not in TRAININGS or "images_per_second" not in cost:
                continue
            name = f"{stage['stage']} ({BEHIND[stage['why']]})" if "why" in stage else stage["stage"]
            host = stage["host"]
            threads = host.get("threads") if host.get("device") == "cpu" else None
            rate = [f"{cost['images_seen']:,}", f"{cost['images_per_second']:.0f}", f"{100 * cost['utilisation']:.0f} %"]
            size = [f"{cost['flops_per_image'] / 1e9:.3f}", f"{cost['peak_memory_bytes'] / 1e9:.2f} GB", f"{stage['seconds']:.0f}"]
            device = host.get("device", "?") + (f", {threads} thread{'' if threads == 1 else 's'}" if threads else "")
            table.rows.append([record.title, name, *rate, *size, device])
    _name_directories(table, records)
    if table.rows:
        table.notes = [
            "MFU: counted FLOPs (1 multiply-add = 2) per second of the trained networks and their losses, without frozen encoders, divided "
            "by the matrix-product rate measured in the same process",
            *_rates(records),
        ]
    return table


def _rates(records: list[RunRecord]) -> list[str]:
    """The rates that the utilisations are shares of, with precision and shape; records of older versions do not name them."""
    shares: dict[str, list[float]] = {}
    for record in records:
        for stage in (*record.behind, *record.about["stages"]):
            cost = stage["cost"]
            if stage["stage"] in TRAININGS and "product_rate_of" in cost:
                device = stage["host"].get("device_name") or stage["host"].get("device", "?")
                shares.setdefault(f"{cost['product_rate_of']}, on {device}", []).append(cost["product_rate"])
    return [f"share of {_teraflops(rates)} TFLOP/s: {name}" for name, rates in sorted(shares.items())]


def _teraflops(rates: list[float]) -> str:
    """A rate in TFLOP/s, or the lowest and the highest of several."""
    texts = dict.fromkeys(f"{rate / 1e12:.3g}" for rate in (min(rates), max(rates)))
    return " to ".join(texts)


def failure_table(records: list[RunRecord]) -> Table:
    """Runs with failed stages, and the reasons."""
    rows = [[r.title, stage, why] for r in records for stage, why in r.about["failures"].items()]
    table = Table("Failed", ["run", "stage", "reason"], rows, keys=2)
    _name_directories(table, records)
    return table


def _name_directories(table: Table, records: list[RunRecord]) -> None:
    """Adds a column with the name of each run's directory if rows are named by labels."""
    names = {record.title: record.name for record in records if record.label}
    if names and table.rows:
        table.columns.append("directory")
        table.rows = [[*row, names.get(row[0], row[0])] for row in table.rows]
