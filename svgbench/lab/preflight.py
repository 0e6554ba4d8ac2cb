"""Checks every weights file that a plan needs, before its first stage runs."""

from __future__ import annotations

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
