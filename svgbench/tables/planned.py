"""Tables of plans: a plan's nodes with the runs that share them, and a preset's stages, each with operations, time and disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from svgbench.config.records import Manifest
from svgbench.lab.forecast.estimate import Estimate, Estimates
from svgbench.lab.forecast.memory import on_gpus, remarks
from svgbench.lab.forecast.speed import Pace
from svgbench.lab.plan import Plan, shown_cell
from svgbench.stages import graph
from svgbench.tables.table import Table

LEFT_OUT = "not counted: reading files, start-up, compilation."
MEASURED = "a node that exists shows the time it took and the disk it holds."


def plan_table(title: str, plan: Plan, made: Mapping[str, Manifest], estimates: Estimates, pace: Pace) -> Table:
    """One row per node, with its run, or the number of runs; ``made``: the manifests of existing nodes, by key."""
    users: dict[str, list[str]] = {key: [] for key in plan.nodes}
    for run in plan.runs:
        for key in run.nodes:
            users[key].append(run.name)
    rows = []
    for key, node in plan.nodes.items():
        estimate, manifest = estimates.nodes[key], made.get(key)
        seconds = manifest.seconds if manifest else pace.seconds(estimate, node.stage)
        kept = sum(manifest.sizes.values()) if manifest else estimate.kept
        state = "exists" if manifest else "to run"
        used = users[key][0] if len(users[key]) == 1 < len(plan.runs) else str(len(users[key]))
        rows.append(
            [node.stage, cell_text(node.cell), key[:12], used, state, *_figures(estimate.flops, seconds, kept), *_peak(estimate, pace)]
        )
    open_ = {key: estimate for key, estimate in estimates.nodes.items() if key not in made}
    shared = [key for key, names in users.items() if len(names) > 1]
    runs = "1 run" if len(plan.runs) == 1 else f"{len(plan.runs)} runs"
    notes = [f"{runs}, {len(plan.nodes)} nodes, {len(made)} exist, {len(open_)} to run."]
    notes += [MEASURED] if made else []
    if shared:
        notes.append(f"{len(shared)} nodes serve several runs: {sum(map(len, users.values()))} uses of {len(plan.nodes)} nodes.")
    if open_:
        notes += totals([(plan.nodes[key].stage, estimate) for key, estimate in open_.items()], pace)
    columns = ["stage", "cell", "key", "runs", "state", "work", "time", "disk", *_peak_column(pace)]
    return Table(title, columns, rows, [*notes, *estimates.notes], keys=2)


def stage_table(
    title: str, nodes: Iterable[tuple[graph.Stage, Mapping[str, Any], Estimate]], assumptions: Iterable[str], pace: Pace
) -> Table:
    """One row for each stage and cell of one run; none needs to exist."""
    nodes = list(nodes)
    rows = [
        [stage.name, cell_text(cell), *_figures(estimate.flops, pace.seconds(estimate, stage.name), estimate.kept), *_peak(estimate, pace)]
        for stage, cell, estimate in nodes
    ]
    notes = totals([(stage.name, estimate) for stage, _, estimate in nodes], pace)
    return Table(title, ["stage", "cell", "work", "time", "disk", *_peak_column(pace)], rows, [*notes, *assumptions], keys=2)


def totals(nodes: list[tuple[str, Estimate]], pace: Pace) -> list[str]:
    """Notes with the totals over all nodes."""
    seconds = sum(pace.seconds(estimate, stage) for stage, estimate in nodes)
    device = sum(pace.device_seconds(estimate) for _, estimate in nodes) / 3600
    kept, passing = sum(estimate.kept for _, estimate in nodes), max(estimate.passing for _, estimate in nodes)
    return [
        f"planned: {duration(seconds)} one after the other, {device:,.3g} {pace.unit}, {size(kept)} of disk, "
        f"{size(passing)} more while a training keeps checkpoints.",
        f"pace {pace.source}.",
        LEFT_OUT,
        *memory_notes(nodes, pace),
    ]


def memory_notes(nodes: Iterable[tuple[str, Estimate]], pace: Pace) -> list[str]:
    """Notes on stages that need micro-batches on these GPUs, or do not fit."""
    return remarks([(stage, estimate.peak) for stage, estimate in nodes if estimate.peak], pace.gpus) if pace.gpus else []


def _peak_column(pace: Pace) -> list[str]:
    return ["GPU memory"] if pace.gpus else []


def _peak(estimate: Estimate, pace: Pace) -> list[str]:
    """Planned peak memory of one GPU."""
    if not pace.gpus:
        return []
    return [size(on_gpus(estimate.peak, pace.gpus).total) if estimate.peak else "-"]


def cell_text(cell: Mapping[str, Any]) -> str:
    """``steps=25 guidance=4``."""
    return " ".join(f"{name}={value:g}" for name, value in shown_cell(cell).items())


def _figures(flops: float, seconds: float, kept: int) -> list[str]:
    return [operations(flops) if flops else "-", duration(seconds) if seconds else "-", size(kept) if kept else "-"]


def duration(seconds: float) -> str:
    """Time as text: seconds, minutes or hours, with at most three digits."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def size(count: float) -> str:
    """Bytes as text, with units in powers of 1000."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def operations(count: float) -> str:
    """Floating-point operations as text."""
    return _scaled(count / 1e9, ("GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"))


def _scaled(number: float, units: tuple[str, ...]) -> str:
    unit = 0
    while number >= 999.5 and unit < len(units) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.3g} {units[unit]}"
