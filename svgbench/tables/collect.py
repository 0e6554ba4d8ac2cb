"""The records of finished and failed runs under an output directory."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from svgbench.config.contrasts import group_name
from svgbench.config.names import checked_name
from svgbench.config.records import RECORD_LOCK, RUN_FORMAT, SEALED, NewerRecord, unseal
from svgbench.config.schema import RunConfig
from svgbench.errors import BadConfig, BadInput, BrokenArtifact, unknown
from svgbench.lab.record import images_trained
from svgbench.lab.store import Store
from svgbench.shelf import read_yaml

AGAIN = "run the command that made the run (svgbench run, ablate or import) again: it writes the record again from the store."
WRITING_SECONDS = 1.0
"""Seconds for which a record whose digests do not match is read again, because another process may be writing it."""
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class RunRecord:
    """The record in one run's directory."""

    name: str
    place: Path
    about: dict[str, Any]
    """``run.json``: encoder, stages with their cost, failures."""
    scores: list[dict[str, Any]]
    known: RunConfig | None = None
    """The run's configuration, if this process already has it."""
    label: str | None = None
    """The values of the experiment's axes without the seed, if the report is of an experiment."""

    @property
    def row(self) -> str:
        """The row of a table that the run belongs to: its label, or its name without the seed."""
        return self.label or group_name(self.name)

    @property
    def title(self) -> str:
        """Name of the run in a table of single runs: its label with the seed, or its name."""
        return f"{self.label}, seed={self.seed}" if self.label else self.name

    @property
    def seed(self) -> int:
        """The run's seed, from its scores; for a run without scores, from its name, which omits seed 0."""
        if self.scores:
            return int(self.scores[0]["seed"])
        match = re.search(r"(?:^|\.)seed-(\d+)", self.name)
        return int(match[1]) if match else 0

    def stage(self, name: str) -> dict[str, Any] | None:
        """The first entry of this name in ``run.json`` for a finished stage. A continued training has the name of the earlier one."""
        return next((stage for stage in self.about["stages"] if stage["stage"].removeprefix("continued-") == name), None)

    @property
    def images_seen(self) -> int | None:
        """Training images of the finished transformer; None if it is not finished or comes from a release."""
        return self.images_at(1.0)

    def images_at(self, share: float) -> int | None:
        """Training images of the transformer after a share of its training (``sampling.trained``); None as for ``images_seen``."""
        trained, before = images_trained(self.about["stages"])
        return trained and before + round(trained * share)

    @property
    def behind(self) -> list[dict[str, Any]]:
        """The entries of stages of other configurations: for its tuning, and of the training that it continues."""
        return self.about.get("behind", [])

    @property
    def has_digests(self) -> bool:
        """Whether ``run.json`` holds the digests of the record's sources; earlier versions did not write them."""
        return "files" in self.about

    def config(self) -> dict[str, Any]:
        """The run's ``config.yaml``, empty if there is none."""
        if self.known is not None:
            return self.known.model_dump(mode="json")
        path = self.place / "config.yaml"
        try:
            return read_yaml(path) if path.is_file() else {}
        except BadConfig as error:
            raise BrokenArtifact(f"{str(error).removesuffix('.')}; {AGAIN}") from None


def collect(out: Path, names: list[str] | None = None, *, recorded: Mapping[str, RunConfig] | None = None) -> list[RunRecord]:
    """The runs under ``out`` in name order, or the named ones in the given order. Raises BrokenArtifact for a damaged record: its files
    are compared with the digests in ``run.json``; ``run.json`` and the manifests of existing artifacts, with their own digests.
    ``recorded``: configurations of runs whose files and manifests the same command has just compared (``lab.record``)."""
    if not out.is_dir():
        raise BadInput(f"{out} does not exist; run something first, for example: svgbench run --encoder dinov3.")
    folders = {p.parent.name: p.parent for p in sorted(out.glob("*/run.json"))}
    if names is None:
        names = list(folders)
    store = Store(out / "store")
    records = []
    for name in names:
        if name not in folders:
            raise unknown("run", checked_name(name), folders)
        if recorded and name in recorded:
            records.append(replace(read_run(folders[name], None), known=recorded[name]))
        else:
            records.append(read_run(folders[name], store))
    return records


def without_digests(records: list[RunRecord]) -> str | None:
    """A sentence about what cannot be checked in records of earlier versions; None if all records hold their digests."""
    names = [record.name for record in records if not record.has_digests]
    if not names:
        return None
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"written by an earlier version, without digests to check their numbers by: {', '.join(names[:3])}{more}; {AGAIN}"


def read_run(place: Path, store: Store | None) -> RunRecord:
    """The record in a run's directory. One whose digests do not match is read again: another process may have written it meanwhile, or
    is still writing it (``RECORD_LOCK``)."""
    end, again = time.monotonic() + WRITING_SECONDS, False
    while True:
        try:
            return _read(place, store)
        except BrokenArtifact:
            if again and (time.monotonic() >= end or not (place / RECORD_LOCK).exists()):
                raise
            again = True
            time.sleep(LOOK_SECONDS)


def _read(place: Path, store: Store | None) -> RunRecord:
    path, raw = place / "run.json", {}
    try:
        about = unseal(path.read_bytes(), RUN_FORMAT)
        digests, entries = (
            about.get("files", {}),
            [(entry["stage"], entry["key"], entry.get("manifest")) for entry in (*about["stages"], *about.get("behind", ()))],
        )
        for name in dict.fromkeys([*(digests if store else ()), "scores.json"]):
            path = place / name
            raw[name] = path.read_bytes()
        path = place / "scores.json"
        scores = from_json(raw["scores.json"])
        kept = all("protocol_fields" in row for row in scores)
    except NewerRecord as error:
        raise BrokenArtifact(f"{path}: written by a newer svgbench (record {error}); update svgbench.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenArtifact(f"{path}: is damaged or cannot be read ({error}); {AGAIN}") from None
    for name, content in raw.items():
        if digests and hashlib.sha256(content).hexdigest() != digests.get(name):
            raise BrokenArtifact(f"{place / name}: its bytes are not those that run.json lists; {AGAIN}")
    for stage, key, wanted in entries:
        if wanted is not None and store is not None and store.digest(stage, key) not in (wanted, None):
            _check_made_again(store, stage, key)
    if not kept:
        raise BrokenArtifact(f"{place}: its scores were written by an earlier version; {AGAIN}")
    return RunRecord(place.name, place, about, scores)


def _check_made_again(store: Store, stage: str, key: str) -> None:
    """Raises BrokenArtifact for a manifest that differs from the one in a record, unless the artifact was made again since."""
    artifact, place = store.look(stage, key), store.place(stage, key)
    if artifact is None or artifact.manifest.format < SEALED:
        what = "is missing" if artifact is None else "was changed after it was written"
        raise BrokenArtifact(f"{place / 'manifest.json'}: {what}; remove the directory {place} and {AGAIN}")
