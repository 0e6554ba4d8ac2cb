"""The records of finished and failed runs under an output directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from svgbench.errors import BadConfig, BadInput, BrokenArtifact, unknown
from svgbench.shelf import read_yaml


@dataclass(frozen=True)
class RunRecord:
    """What one run's directory says."""

    name: str
    place: Path
    about: dict[str, Any]
    """``run.json``: encoder, stages with their cost, failures."""
    scores: list[dict[str, Any]]

    @property
    def seed(self) -> int:
        """The run's seed: its scores say it; of a run without any its name does, where 0 is not said."""
        if self.scores:
            return int(self.scores[0]["seed"])
        found = re.search(r"(?:^|\.)seed-(\d+)", self.name)
        return int(found[1]) if found else 0

    def stage(self, name: str) -> dict[str, Any] | None:
        """What ``run.json`` says of a finished stage, the first of its name."""
        return next((stage for stage in self.about["stages"] if stage["stage"] == name), None)

    def config(self) -> dict[str, Any]:
        """The run's ``config.yaml``, empty where there is none."""
        path = self.place / "config.yaml"
        try:
            return read_yaml(path) if path.is_file() else {}
        except BadConfig as error:
            raise BrokenArtifact(f"{str(error).removesuffix('.')}; run its command again to write it anew.") from None


def collect(out: Path, names: list[str] | None = None) -> list[RunRecord]:
    """The runs under ``out`` in name order, or the named ones in the given order."""
    if not out.is_dir():
        raise BadInput(f"{out} does not exist; run something first, for example: svgbench run --encoder dinov3.")
    found = {p.parent.name: p.parent for p in sorted(out.glob("*/run.json"))}
    if names is None:
        names = list(found)
    records = []
    for name in names:
        if name not in found:
            raise unknown("run", name, found)
        place = found[name]
        try:
            about, scores = (from_json((place / f).read_bytes()) for f in ("run.json", "scores.json"))
        except (OSError, ValueError) as error:
            raise BrokenArtifact(f"{place}: its records cannot be read ({error}); run its command again to write them anew.") from None
        if any("protocol_fields" not in row for row in scores):
            raise BrokenArtifact(f"{place}: its scores were written by an earlier version; run its command again, networks are kept.")
        records.append(RunRecord(name, place, about, scores))
    return records
