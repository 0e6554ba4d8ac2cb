"""A run's directory: its lock, and its files for users and for ``report``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from svgbench.config import cards
from svgbench.config.records import PICTURE, RECORD_LOCK, RECORDED, RUN_FORMAT, Manifest, Score, digest, seal, unseal
from svgbench.lab.execute import text_of
from svgbench.lab.finished import Finished
from svgbench.lab.plan import Node, Plan, Run, Why
from svgbench.lab.schedule import Outcome
from svgbench.lab.store import Store, locked
from svgbench.machine.files import TEMPORARY, failpoint, guarded, write_atomic
from svgbench.stages import graph

ROWS = 1
"""Version of the rows of a run's ``scores.json``; increase it when rows change, so that finished runs are written again."""
WRITING_SECONDS = 60.0
"""How long a process waits while another one writes the same run's record."""


@contextmanager
def owned(out: Path, run: Run) -> Iterator[Path]:
    """The run's directory, locked by this process. Raises Occupied (exit 7) if another process works on the run."""
    with guarded(out):
        place = out / run.name
        place.mkdir(parents=True, exist_ok=True)
        lock = place / "lock"
        with locked(lock, what=f"run '{run.name}'"):
            yield place
            lock.unlink(missing_ok=True)


def record(plan: Plan, run: Run, out: Path, outcome: Outcome, extra: Path | None = None, *, finished: Finished | None = None) -> None:
    """Writes the run's directory: config.yaml, scores.json, overview.png, run.json; readable without svgbench. ``run.json`` holds the
    digests of the other files, of the manifests they come from, and of itself. A directory that is up to date is left unchanged, and its
    scores are not read; a damaged one is written again. One process writes at a time."""
    store = Store(out / "store")
    finished = finished or Finished(plan, store)
    place = out / run.name
    card = cards.find(run.config.encoder.card, run.config.preset, extra)
    scored, stages, behind, failures, picture = _stages_of(plan, run, outcome, finished)
    config = run.config.model_dump(mode="json")
    made_of = [[node.key, node.cell, manifest.files["scores.json"]] for node, manifest in scored]
    content = {
        "run": run.name, "encoder": card.name, "family": card.family, "kind": card.kind, "stages": stages, "failures": failures,
        "config": digest(config), "scores": digest([ROWS, made_of]), "format": RUN_FORMAT,
        **({"behind": behind} if behind else {}),
    }  # fmt: skip
    names = [*RECORDED, *([PICTURE] if picture else [])]
    if _is_current(place, content, names) and not _half_written(place):
        return
    with guarded(place, vanished=True):
        place.mkdir(parents=True, exist_ok=True)
        lock = place / RECORD_LOCK
        with locked(lock, what=f"the record of run '{run.name}'", patience=WRITING_SECONDS):
            for name in _half_written(place):
                (place / name).unlink(missing_ok=True)
            files = {"config.yaml": yaml.safe_dump(config, sort_keys=False).encode()}
            files["scores.json"] = _indented(_rows(run, card, store, scored, stages))
            if picture:
                files[PICTURE] = store.content(picture, PICTURE)
            for name, raw in files.items():
                write_atomic(place / name, raw)
                failpoint("record.written")
            digests = {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()}
            write_atomic(place / "run.json", seal({**content, "files": digests}))  # last: its digests reveal mixed files of two attempts
            lock.unlink()


def _is_current(place: Path, content: dict[str, Any], names: list[str]) -> bool:
    """Whether a run's directory already has this content, with unchanged files."""
    try:
        about = unseal((place / "run.json").read_bytes(), RUN_FORMAT)
        files = about.pop("files")
        if list(files) != names or about != content:
            return False
        return all(hashlib.sha256((place / name).read_bytes()).hexdigest() == files[name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _half_written(place: Path) -> list[str]:
    """Temporary files of killed writers; no other process writes them while this one holds the record's lock."""
    ends = tuple(f"-{name}" for name in (*RECORDED, PICTURE, "run.json"))
    return [name for name in os.listdir(place) if name.startswith(TEMPORARY) and name.endswith(ends)]


def _indented(content: Any) -> bytes:
    """Indented JSON. Its encoder is slow, so only for files that are written."""
    return (json.dumps(content, indent=1) + "\n").encode()


def _stages_of(
    plan: Plan, run: Run, outcome: Outcome, finished: Finished
) -> tuple[list[tuple[Node, Manifest]], list[dict[str, Any]], list[dict[str, Any]], dict[str, str], Manifest | None]:
    """A run's nodes with scores, finished stages with their cost (also those of other configurations that it needs), failed stages with
    their reason, and the artifact of its picture."""
    scored: list[tuple[Node, Manifest]] = []
    stages: list[dict[str, Any]] = []
    behind: list[dict[str, Any]] = []
    failures = {}
    picture = None
    for key in run.nodes:
        node = plan.nodes[key]
        why = run.reason(key)
        if key in outcome.failed:
            failures.update(_failure(node, why, str(outcome.failed[key])))
        artifact = finished.look(key)
        if artifact is None:
            continue
        manifest = artifact.manifest
        entry = {
            "stage": node.stage, "key": key, "manifest": artifact.digest, "cell": node.cell, "seconds": manifest.seconds,
            "cost": manifest.cost, "host": manifest.host,
        }  # fmt: skip
        if why is not None:
            behind.append({**entry, "why": why})
            continue
        stages.append(entry)
        if graph.by_name(node.stage).scores:
            scored.append((node, manifest))
        if node.stage == "overview":
            picture = manifest
    return scored, stages, behind, failures, picture


def _failure(node: Node, why: Why | None, reason: str) -> dict[str, str]:
    """A failed node and its reason. A failed node of another configuration counts as the failure of the stage that needs it."""
    if why is None:
        return {text_of(node): reason}
    of_autoencoder = (graph.by_name(node.stage).provides or node.stage) == "autoencoder"
    needing = "shift-choice" if why == "tuning" else "continued-autoencoder" if of_autoencoder else "continued-diffusion"
    return {needing: f"{text_of(node)}: {reason}"}


def _rows(
    run: Run, card: cards.EncoderCard, store: Store, scored: list[tuple[Node, Manifest]], stages: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The scores of a run, read from its artifacts."""
    rows = [_row(run, card, node, manifest, score) for node, manifest in scored for score in store.scores(node.stage, node.key, manifest)]
    trained, before = images_trained(stages)
    for row in rows:
        row["images_seen"] = trained and before + round(trained * row.pop("trained"))
    return rows


def images_trained(stages: list[dict[str, Any]]) -> tuple[int | None, int]:
    """Images that the transformer of a run's record was trained on, and those of the training that it continues."""
    cost: dict[str, Any] = next((s["cost"] for s in stages if s["stage"] in ("diffusion", "continued-diffusion")), {})
    return cost.get("images_seen"), cost.get("images_before", 0)


def _row(run: Run, card: cards.EncoderCard, node: Node, manifest: Manifest, score: Score) -> dict[str, Any]:
    """One score as ``report --format json`` prints it."""
    autoencoder, replacement = run.config.autoencoder, run.config.latents.align
    codec = card.kind == "codec"
    align = f"{autoencoder.align}, then {replacement}" if replacement else autoencoder.align
    return {
        "run": run.name, "encoder": card.name, "family": card.family, "align": None if codec else align,
        "residual_channels": 0 if codec else autoencoder.residual.channels, "preset": run.config.preset, "seed": run.config.seed,
        "metric": score.metric, "value": score.value, "low": score.low, "high": score.high, "count": score.count,
        "steps": node.cell.get("sampling.steps"), "guidance": node.cell.get("sampling.guidance"),
        "protocol": score.protocol.text, "protocol_fields": score.protocol.model_dump(mode="json"),
        "detail": score.detail, "key": node.key, "trained": node.cell.get("sampling.trained", 1.0), "seconds": manifest.seconds,
    }  # fmt: skip
