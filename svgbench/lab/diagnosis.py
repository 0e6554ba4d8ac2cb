"""The plan of what figures look at: diagnoses of finished runs, standing on the artifacts that the runs' own records name.

Nothing here trains: a run that lacks what a diagnosis stands on is named, with the command that makes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput
from svgbench.lab.plan import Node, Plan, Run, node_of
from svgbench.lab.store import Store
from svgbench.stages import graph

NEEDED = (*dict.fromkeys(need for stage in graph.DIAGNOSES for need in stage.needs), "reconstructions", "samples")
"""What diagnoses stand on, and what is drawn as it is."""


def recorded(stages: list[dict[str, Any]]) -> dict[str, Node]:
    """What a run's record (``run.json``) says it has, as nodes under the names that others need them by; of a stage with cells the last."""
    known = {stage.name: stage for stage in graph.STAGES}
    found = {}
    for entry in stages:
        if entry["stage"] in known:
            found[known[entry["stage"]].provides or entry["stage"]] = Node(entry["stage"], entry["key"], {}, {}, {}, entry["cell"])
    return found


def lacking(name: str, stages: list[dict[str, Any]], store: Store) -> str | None:
    """What a run lacks of what figures stand on, in a sentence that says what to do; None where it lacks nothing."""
    provided = recorded(stages)
    for need in NEEDED:
        node = provided.get(need)
        if node is None or store.manifest(node.stage, node.key) is None:
            experiment = store.root.parent / name / "experiment.yaml"
            command = (
                shlex.join(["svgbench", "ablate", str(experiment), "--out", str(store.root.parent)])
                if experiment.exists()
                else "the command that made the run (svgbench run or ablate)"
            )
            return f"run '{name}' has no finished {need}; run {command} again, which makes what is missing."
    return None


def diagnosis_plan(runs: Mapping[str, tuple[RunConfig, list[dict[str, Any]]]], store: Store) -> Plan:
    """The diagnoses of runs, by name: configuration and recorded stages. The plan holds the finished nodes they stand on too."""
    nodes: dict[str, Node] = {}
    plan = []
    for name, (config, stages) in runs.items():
        reason = lacking(name, stages, store)
        if reason:
            raise BadInput(reason)
        provided, own = recorded(stages), []
        for stage in graph.DIAGNOSES:
            inputs = {need: provided[need] for need in stage.needs}
            node = node_of(stage, config.model_dump(mode="json"), inputs, {})
            nodes |= {one.key: one for one in inputs.values()} | {node.key: node}
            own.append(node.key)
        plan.append(Run(name, config, tuple(own)))
    return Plan(nodes, tuple(plan))
