"""The plan of the diagnoses that figures and explanations need, from the artifacts in the records of finished runs.

Nothing is trained here: if a run lacks an input of a diagnosis, the error gives the command that computes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from svgbench.config import cards
from svgbench.config.choices import OBJECTIVES
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput
from svgbench.lab.plan import Node, Plan, Run, node_of
from svgbench.lab.store import Store
from svgbench.metrics import judges
from svgbench.metrics.latent_figures import NO_DECODER
from svgbench.stages import graph

FIGURES = tuple(stage.name for stage in graph.DIAGNOSES if stage.name not in (*graph.CARD, graph.EXPLANATION))
"""The diagnoses for figures."""
NEEDED = (*dict.fromkeys(need for name in FIGURES for need in graph.by_name(name).needs), "reconstructions", "samples")
"""Inputs of the diagnoses for figures, and artifacts that figures read directly."""


def recorded(stages: list[dict[str, Any]], first: tuple[str, ...] = ()) -> dict[str, Node]:
    """The finished stages of a run's record (``run.json``) as nodes, by the names that other stages need; for several cells, the last one.
    ``first``: names for which a stage that replaces another is ignored (``graph.Stage.first``)."""
    known = {stage.name: stage for stage in graph.STAGES}
    nodes: dict[str, Node] = {}
    for entry in stages:
        name = known[entry["stage"]].provides or entry["stage"] if entry["stage"] in known else None
        if name and not (name in first and name in nodes):
            nodes[name] = Node(entry["stage"], entry["key"], {}, {}, {}, entry["cell"])
    return nodes


def sampled(stages: list[dict[str, Any]]) -> dict[tuple[int, float], Node]:
    """(steps, guidance) -> the samples of a run's record from the end of the training, as nodes."""
    cells = [Node(entry["stage"], entry["key"], {}, {}, {}, entry["cell"]) for entry in stages if entry["stage"] == "samples"]
    whole = [node for node in cells if node.cell.get("sampling.trained", 1.0) == 1]
    return {(node.cell["sampling.steps"], node.cell["sampling.guidance"]): node for node in whole}


def lacking(
    name: str, stages: list[dict[str, Any]], store: Store, needs: Collection[str] = NEEDED, given: Mapping[str, Node] | None = None
) -> str | None:
    """A sentence about the first missing input (``needs``) and how to compute it; None if nothing is missing. ``given``: nodes that are
    inputs besides, or instead of, those of their names in the record."""
    provided = {**recorded(stages), **(given or {})}
    for need in dict.fromkeys([*needs, *(given or {})]):
        node = provided.get(need)
        if node is None or store.manifest(node.stage, node.key) is None:
            experiment = store.root.parent / name / "experiment.yaml"
            command = (
                shlex.join(["svgbench", "ablate", str(experiment), "--out", str(store.root.parent)])
                if experiment.exists()
                else "the command that made the run (svgbench run or ablate)"
            )
            return f"run '{name}' has no finished {need}; run {command} again to compute it."
    return None


def without_velocity(name: str, config: RunConfig) -> str | None:
    """A sentence about a run without a transformer that has velocities, which figures and explanations read; None if it has one."""
    if not config.generation:
        return f"run '{name}' was made with --no-generation and has no transformer"
    objective = config.diffusion.objective
    if not OBJECTIVES[objective].rounds:
        return None
    return f"run '{name}' has the objective {objective}, whose transformer makes tokens in rounds and has no velocity"


def diagnosis_plan(
    runs: Mapping[str, tuple[RunConfig, list[dict[str, Any]]]],
    store: Store,
    wanted: Collection[str] = FIGURES,
    given: Mapping[str, Mapping[str, Node]] | None = None,
) -> Plan:
    """The plan of the diagnoses in ``wanted`` of runs: name -> (configuration, recorded stages). It also contains the finished nodes that
    are their inputs. ``given``: run -> input -> node, for inputs besides, or instead of, those that the stage names."""
    nodes: dict[str, Node] = {}
    plan = []
    for name, (config, stages) in runs.items():
        own = dict((given or {}).get(name, {}))
        needs = NEEDED if graph.EXPLANATION not in wanted else graph.by_name(graph.EXPLANATION).needs
        reason = lacking(name, stages, store, needs, own)
        if reason:
            raise BadInput(reason)
        keys = []
        for stage in graph.DIAGNOSES:
            if stage.name not in wanted:
                continue
            provided = recorded(stages, stage.first)
            inputs = {need: provided[need] for need in (*stage.needs, *(name for name in stage.also if name in provided))} | own
            node = node_of(stage, config.model_dump(mode="json"), inputs, {})
            nodes |= {one.key: one for one in inputs.values()} | {node.key: node}
            keys.append(node.key)
        plan.append(Run(name, config, tuple(keys)))
    return Plan(nodes, tuple(plan))


def card_plan(
    encoders: Mapping[str, RunConfig], runs: Mapping[str, tuple[RunConfig, list[dict[str, Any]]]], store: Store
) -> tuple[Plan, dict[str, str]]:
    """The plan of diffusability cards: of ``encoders`` alone (name -> resolved configuration), and of finished ``runs`` (name ->
    configuration, recorded stages). Also the tokenizers without an interpolated FID, and why."""
    nodes: dict[str, Node] = {}
    plan: list[Run] = []
    reasons: dict[str, str] = {}
    for name, config in encoders.items():
        plain = config.model_dump(mode="json")
        made = {"images": node_of(graph.by_name("images"), plain, {}, {}), "autoencoder": node_of(graph.by_name("adoption"), plain, {}, {})}
        kind = cards.EncoderCard.model_validate(plain["encoder"]["opened"]).kind
        plan.append(Run(name, config, _card_nodes(name, plain, made, kind == "codec", nodes, reasons)))
    for name, (config, stages) in runs.items():
        if reason := lacking(name, stages, store, ("images", "autoencoder", "statistics")):
            raise BadInput(reason)
        plan.append(
            Run(name, config, _card_nodes(name, config.model_dump(mode="json"), recorded(stages, ("statistics",)), True, nodes, reasons))
        )
    return Plan(nodes, tuple(plan)), reasons


def diagnosed(runs: Mapping[str, tuple[RunConfig, list[dict[str, Any]]]], store: Store) -> dict[str, dict[str, float]]:
    """The figures of the finished diffusability cards of runs (as in ``card_plan``): run -> metric -> value, without runs that have no
    card."""
    found: dict[str, dict[str, float]] = {}
    for name, one in runs.items():
        if lacking(name, one[1], store, ("images", "autoencoder", "statistics")):
            continue
        plan, _ = card_plan({}, {name: one}, store)
        finished = [node for node in plan.nodes.values() if node.stage in graph.CARD and store.manifest(node.stage, node.key)]
        scores = {score.metric: score.value for node in finished for score in store.scores(node.stage, node.key)}
        found |= {name: scores} if scores else {}
    return found


def _card_nodes(
    name: str, plain: dict[str, Any], provided: Mapping[str, Node], decodes: bool, nodes: dict[str, Node], reasons: dict[str, str]
) -> tuple[str, ...]:  # fmt: skip
    """Adds the nodes of one card to ``nodes``, or the reason why its interpolated FID is left out to ``reasons``; returns their keys."""
    reason = _unjudged(plain) if decodes else NO_DECODER
    if reason is not None:
        reasons[name] = reason
    keys = []
    for stage in (graph.by_name(one) for one in graph.CARD[: 1 if reason else None]):
        inputs = {need: provided[need] for need in (*stage.needs, *(one for one in stage.also if one in provided))}
        node = node_of(stage, plain, inputs, {})
        nodes |= {one.key: one for one in inputs.values()} | {node.key: node}
        keys.append(node.key)
    return tuple(keys)


def _unjudged(plain: dict[str, Any]) -> str | None:
    """Why the extractor of a configuration cannot be opened; None if it can."""
    name, file = (graph.field(plain, path) for path in graph.EXTRACTOR)
    if file or judges.trained_on("features", name):
        return None
    return f"'{name}' needs its weights file: --set scores.extractor_weights=FILE."
