"""The records of finished and failed runs under an output directory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svgbench.errors import BadInput, BrokenArtifact, unknown


@dataclass(frozen=True)
class RunRecord:
    """What one run's directory says."""

    name: str
    place: Path
    about: dict[str, Any]
    """``run.json``: encoder, stages with their cost, failures."""
    scores: list[dict[str, Any]]


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
            about, scores = (json.loads((place / f).read_text()) for f in ("run.json", "scores.json"))
        except (OSError, ValueError) as error:
            raise BrokenArtifact(f"{place}: its records cannot be read ({error}); run its command again to write them anew.") from None
        if any("protocol_fields" not in row for row in scores):
            raise BrokenArtifact(f"{place}: its scores were written by an earlier version; run its command again, networks are kept.")
        records.append(RunRecord(name, place, about, scores))
    return records
