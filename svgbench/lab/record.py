"""A run's own directory: who owns it, and what is written there for people and for ``report``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import from_json

from svgbench.config import cards
from svgbench.config.records import Manifest, Protocol, digest
from svgbench.lab.execute import text_of
from svgbench.lab.plan import Finished, Node, Plan, Run
from svgbench.lab.schedule import Outcome
from svgbench.lab.store import Store, locked
from svgbench.stages import graph
from svgbench.world.files import guarded, write_atomic

ROWS = 1
"""Version of a row of a run's ``scores.json``; raise it when rows say more or otherwise, so that finished runs are written anew."""


@contextmanager
def owned(out: Path, run: Run) -> Iterator[Path]:
    """The run's own directory, owned by this process; Occupied (exit 7) when another process works on the run."""
    with guarded(out):
        place = out / run.name
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / "lock", what=f"run '{run.name}'"):
            yield place


def record(plan: Plan, run: Run, out: Path, outcome: Outcome, extra: Path | None = None, *, finished: Finished | None = None) -> None:
    """Writes the run's directory: config.yaml, scores.json, overview.png, run.json; readable without this program. What says the same
    already, by the digests in manifests, is left as it is, its scores unread."""
    store = Store(out / "store")
    finished = finished or Finished(plan, store)
    place = out / run.name
    card = cards.find(run.config.encoder.card, run.config.preset, extra)
    scored, stages, failures, picture = _found(plan, run, store, outcome, finished)
    config = run.config.model_dump(mode="json")
    behind = [[node.key, node.cell, manifest.files["scores.json"]] for node, manifest in scored]
    content = {
        "run": run.name, "encoder": card.name, "family": card.family, "kind": card.kind, "stages": stages, "failures": failures,
        "config": digest(config), "scores": digest([ROWS, behind]),
    }  # fmt: skip
    names = ["config.yaml", "scores.json", "run.json", *(["overview.png"] if picture else [])]
    with guarded(place):
        if all((place / name).is_file() for name in names) and _says(place / "run.json", content):
            return
        rows = _rows(run, card, store, scored, stages)
        place.mkdir(parents=True, exist_ok=True)
        (place / "run.json").unlink(missing_ok=True)  # what follows is of another state until it is written again
        write_atomic(place / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
        write_atomic(place / "scores.json", _indented(rows))
        if picture:
            write_atomic(place / "overview.png", picture.read_bytes())
        write_atomic(place / "run.json", _indented(content))


def _says(path: Path, content: dict[str, Any]) -> bool:
    """Whether a JSON file says this already."""
    try:
        return json.dumps(from_json(path.read_bytes())) == json.dumps(content)
    except ValueError:
        return False


def _indented(content: Any) -> bytes:
    """JSON for people; json's encoder in Python, which is slow: of what is written, not of what is compared."""
    return (json.dumps(content, indent=1) + "\n").encode()


def _found(
    plan: Plan, run: Run, store: Store, outcome: Outcome, finished: Finished
) -> tuple[list[tuple[Node, Manifest]], list[dict[str, Any]], dict[str, str], Path | None]:
    """What a run has: nodes with scores, finished stages with their cost, failed stages with their reason, the file of its picture."""
    scored: list[tuple[Node, Manifest]] = []
    stages = []
    failures = {}
    picture = None
    for key in run.nodes:
        node = plan.nodes[key]
        if key in outcome.failed:
            failures[text_of(node)] = str(outcome.failed[key])
        manifest = finished.manifest(key)
        if manifest is None:
            continue
        stages.append(
            {"stage": node.stage, "key": key, "cell": node.cell, "seconds": manifest.seconds, "cost": manifest.cost, "host": manifest.host}
        )
        if graph.by_name(node.stage).scores:
            scored.append((node, manifest))
        if node.stage == "overview":
            picture = store.place(node.stage, key) / "overview.png"
    return scored, stages, failures, picture


def _rows(
    run: Run, card: cards.EncoderCard, store: Store, scored: list[tuple[Node, Manifest]], stages: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The scores of a run, read from its artifacts."""
    rows = [_row(run, card, node, own, score) for node, own in scored for score in store.scores(node.stage, node.key, own)]
    trained = next((s["cost"].get("images_seen") for s in stages if s["stage"] == "diffusion"), None)
    for row in rows:
        row["images_seen"] = trained and round(trained * row.pop("trained"))
    return rows


def _row(run: Run, card: cards.EncoderCard, node: Node, manifest: Manifest, score: dict[str, Any]) -> dict[str, Any]:
    """One score as ``report --format json`` prints it."""
    autoencoder = run.config.autoencoder
    codec = card.kind == "codec"
    return {
        "run": run.name, "encoder": card.name, "family": card.family, "align": None if codec else autoencoder.align,
        "residual_channels": 0 if codec else autoencoder.residual.channels, "preset": run.config.preset, "seed": run.config.seed,
        "metric": score["metric"], "value": score["value"], "low": score["low"], "high": score["high"], "count": score["count"],
        "steps": node.cell.get("sampling.steps"), "guidance": node.cell.get("sampling.guidance"),
        "protocol": Protocol.model_validate(score["protocol"]).text, "protocol_fields": score["protocol"],
        "detail": score["detail"], "key": node.key, "trained": node.cell.get("sampling.trained", 1.0), "seconds": manifest.seconds,
    }  # fmt: skip
