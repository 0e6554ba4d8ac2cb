"""Digests of the files that a node opens: the node's key contains them instead of the paths."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svgbench.config import cards
from svgbench.errors import BadInput
from svgbench.metrics import judges, six_spaces
from svgbench.stages import graph

if TYPE_CHECKING:
    from svgbench.lab.plan import Node


def digests_of(stage: graph.Stage, config: dict[str, Any], judged: dict[tuple[str, ...], str] | None = None) -> dict[str, str | None]:
    """Field that names a file -> digest of the file, which replaces the path in a key. ``config``: of a run, or the stage's
    slice of it; ``judged``: a cache of the identities of judging networks."""
    judged = {} if judged is None else judged
    identities: dict[str, str | None] = {}
    for path in sorted(graph.PATHS):
        if covers(stage, path):
            file = graph.field(config, path)
            if file:
                identities[path] = f"sha256:{cards.digest_of(Path(file), path)}"
    for name, kind, weights in graph.JUDGES:
        if covers(stage, name):
            file = graph.field(config, weights)
            unused = graph.field(config, name) == "lpips" and not file  # the stage omits this score or raises an error
            judge = (kind, graph.field(config, name), str(file), weights)
            if not unused and judge not in judged:
                judged[judge] = f"sha256:{judges.identity(kind, graph.field(config, name), file, setting=weights)}"
            identities[weights] = None if unused else judged[judge]
    if covers(stage, graph.REFERENCE) and (given := graph.field(config, graph.REFERENCE)):
        first = graph.field(config, "scores.extractor") if covers(stage, "scores.extractor") else None
        judge = ("reference", str(given), str(first), graph.REFERENCE)
        if judge not in judged:
            judged[judge] = f"sha256:{judges.reference_identity(Path(given), first)}"
        identities[graph.REFERENCE] = judged[judge]
    if covers(stage, graph.FDR6) and graph.holds(config, graph.FDR6):
        folder = graph.field(config, graph.FDR6)
        networks = ("fdr6", str(folder))
        if networks not in judged:
            judged[networks] = f"sha256:{six_spaces.folder_identity(Path(folder))}"
        identities[graph.FDR6] = judged[networks]
    return identities


def check_files(node: Node) -> None:
    """Raises BadInput if a file named by a node's configuration or encoder card has changed since its key was computed."""
    stage = graph.by_name(node.stage)
    changed = [(path, graph.field(node.slice, path)) for path, digest in digests_of(stage, node.slice).items()
               if graph.field(node.identity, path) != digest]  # fmt: skip
    for path in graph.ENCODERS:
        encoder = graph.field(node.slice, path) if covers(stage, path) else None
        if encoder and encoder["opened"] is not None:
            card, weights = cards.EncoderCard.model_validate(encoder["opened"]), encoder["weights"]
            if cards.identity(card, Path(weights) if weights else None, encoder.get("weights_key")) != encoder["identity"]:
                changed.append((f"{path}.weights", weights or card.weights.file))
    if changed:
        field, file = changed[0]
        raise BadInput(f"{file or field}: changed after this run was planned ({field}); run the same command again.")


def covers(stage: graph.Stage, path: str) -> bool:
    """Whether a stage's slice holds a dotted field."""
    return _among(stage.slice, path)


@cache
def _among(fields: tuple[str, ...], path: str) -> bool:
    return any(path == covered or path.startswith(covered + ".") for covered in fields)
