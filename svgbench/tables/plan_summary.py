"""A plan's summary (runs, nodes, sharing, remaining work and its cost), and the plan as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from svgbench.config.records import Manifest
from svgbench.lab.forecast.estimate import Estimates
from svgbench.lab.forecast.memory import on_gpus
from svgbench.lab.forecast.speed import Pace
from svgbench.lab.plan import Plan
from svgbench.tables.planned import duration, size
from svgbench.tables.table import Table


def summary(plan: Plan, made: Mapping[str, Manifest], estimates: Estimates, pace: Pace) -> dict[str, Any]:
    """Counts of a plan, and time and disk of its remaining nodes; ``made``: the manifests of the nodes that exist, by key."""
    uses = Counter(key for run in plan.runs for key in run.nodes)
    open_ = {key: estimate for key, estimate in estimates.nodes.items() if key not in made}
    return {
        "runs": len(plan.runs), "nodes": len(plan.nodes), "shared": sum(count > 1 for count in uses.values()),
        "uses": sum(uses.values()), "exist": len(made), "to_run": len(open_),
        "seconds": sum(pace.seconds(estimate, plan.nodes[key].stage) for key, estimate in open_.items()),
        "device_hours": sum(pace.device_seconds(estimate) for estimate in open_.values()) / 3600, "device": pace.unit.split("-")[0],
        "kept_bytes": sum(estimate.kept for estimate in open_.values()),
        "passing_bytes": max((estimate.passing for estimate in open_.values()), default=0),
    }  # fmt: skip


def summary_table(title: str, plan: Plan, made: Mapping[str, Manifest], estimates: Estimates, pace: Pace) -> Table:
    """The summary as two columns."""
    facts = summary(plan, made, estimates, pace)
    rows = [
        ["runs", str(facts["runs"])],
        ["nodes", str(facts["nodes"])],
        ["shared by several runs", f"{facts['shared']} ({facts['uses']} uses of {facts['nodes']} nodes)"],
        ["to run", f"{facts['to_run']} ({facts['exist']} exist)"],
        ["time, one after the other", duration(facts["seconds"])],
        [f"{facts['device']} hours", f"{facts['device_hours']:,.3g}"],
        ["disk", f"{size(facts['kept_bytes'])}, and {size(facts['passing_bytes'])} while a training keeps checkpoints"],
    ]
    return Table(title, ["what", "planned"], rows)


def content(plan: Plan, made: Mapping[str, Manifest], estimates: Estimates, pace: Pace) -> dict[str, Any]:
    """The plan as JSON: summary, assumptions, runs and nodes. Times are in seconds, sizes in bytes; those of an existing node are
    measured."""
    users: dict[str, list[str]] = {key: [] for key in plan.nodes}
    for run in plan.runs:
        for key in run.nodes:
            users[key].append(run.name)
    nodes = []
    for key, node in plan.nodes.items():
        estimate, manifest = estimates.nodes[key], made.get(key)
        nodes.append({
            "stage": node.stage, "cell": node.cell, "key": key, "runs": users[key], "state": "exists" if manifest else "to run",
            "flops": estimate.flops, "seconds": manifest.seconds if manifest else pace.seconds(estimate, node.stage),
            "bytes": sum(manifest.sizes.values()) if manifest else estimate.kept,
            **({"peak_memory_bytes": on_gpus(estimate.peak, pace.gpus).total} if estimate.peak and pace.gpus else {}),
        })  # fmt: skip
    return {
        "summary": summary(plan, made, estimates, pace),
        "assumed": estimates.notes,
        "runs": [run.name for run in plan.runs],
        "nodes": nodes,
    }
