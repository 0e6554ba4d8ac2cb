"""Checks every weights file that a plan needs, before its first stage runs; and what to say of bf16 on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from svgbench.config.cards import EncoderCard
from svgbench.lab.digests import covers
from svgbench.lab.plan import Node, Plan
from svgbench.metrics import judges
from svgbench.stages import graph


def check(plan: Plan, missing: set[str]) -> None:
    """Finds (or, if a network allows it, downloads) the weights of every encoder and judging network that a missing node opens.

    Raises BadWeights, with the field to set, for weights that are missing, do not match their card or have another digest.
    """
    seen: set[tuple[str, ...]] = set()
    for key in missing:
        _check_encoders(plan.nodes[key], seen)
        _check_judges(plan.nodes[key], seen)


def _check_encoders(node: Node, seen: set[tuple[str, ...]]) -> None:
    """Checks every encoder in a node's slice: the run's encoder and REPA's teacher."""
    from svgbench.weights import files as weights

    for path in graph.ENCODERS:
        encoder = graph.field(node.slice, path) if covers(graph.by_name(node.stage), path) else None
        if encoder is None or encoder["opened"] is None or (path, encoder["identity"]) in seen:
            continue  # a teacher is opened only if its loss has a weight
        seen.add((path, encoder["identity"]))
        option = "--weights FILE" if path == "encoder" else f"--set {path}.weights=FILE"
        weights.resolve(EncoderCard.model_validate(encoder["opened"]), encoder["weights"], option=option)


def _check_judges(node: Node, seen: set[tuple[str, ...]]) -> None:
    """Checks every judging network in a node's slice: extractors and perceptual distances."""
    for path, kind, setting in graph.JUDGES:
        if not covers(graph.by_name(node.stage), path):
            continue
        name, file = graph.field(node.slice, path), graph.field(node.slice, setting)
        left_out = path == "scores.perceptual" and name == "lpips" and not file  # the score is then shown as a dash
        unused = path.startswith("autoencoder.loss.") and not graph.field(node.slice, "autoencoder.loss.perceptual")
        if name is None or left_out or unused or (path, name, str(file)) in seen:
            continue
        seen.add((path, name, str(file)))
        judges.weights_file(kind, name, file, setting=setting)


def slow_on_cpu(plan: Plan, missing: set[str]) -> str:
    """A sentence about fields of bf16 in the missing nodes, for a run on a CPU; empty if there are none."""
    fields = sorted({field for key in missing for field in _in_bf16(plan.nodes[key].slice)})
    if not fields:
        return ""
    return (
        f"most CPUs compute bf16 more slowly than fp32, and this run has it in {', '.join(fields)}; "
        "'svgbench bench' measures both here, and --set FIELD=fp32 changes a field."
    )


def _in_bf16(part: dict[str, Any], path: str = "") -> Iterator[str]:
    """The dotted names of all fields ``precision`` that are bf16, except of an encoder that the run does not open."""
    for name, value in part.items():
        if isinstance(value, dict) and not ("opened" in value and value["opened"] is None):
            yield from _in_bf16(value, f"{path}{name}.")
        elif name == "precision" and value == "bf16":
            yield path + name
