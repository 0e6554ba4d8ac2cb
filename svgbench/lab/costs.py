"""Measured costs of tokenizers under an output directory: ``costs/NAME.json``, with a digest like a run's record. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svgbench.config.names import checked_name
from svgbench.config.records import RUN_FORMAT, NewerRecord, Score, seal, unseal
from svgbench.errors import BrokenArtifact
from svgbench.machine.files import guarded, write_atomic

FOLDER = "costs"


def write_cost(out: Path, name: str, about: dict[str, Any], scores: Sequence[Score]) -> Path:
    """Writes the measured costs of one tokenizer, replacing an earlier measurement with the same name. ``about``: encoder, family, kind,
    random_weights, host."""
    place = out / FOLDER / f"{checked_name(name, 'the name of a tokenizer')}.json"
    content = {**about, "name": name, "format": RUN_FORMAT, "scores": [score.model_dump(mode="json") for score in scores]}
    with guarded(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, seal(content))
    return place


def read_costs(out: Path) -> dict[Path, dict[str, Any]]:
    """File -> content of every measured cost, sorted by file name. Raises BrokenArtifact for a damaged file or one of a newer version."""
    return {path: _read(path) for path in sorted((out / FOLDER).glob("*.json"))}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = unseal(path.read_bytes(), RUN_FORMAT)
        for score in content["scores"]:
            Score.model_validate(score)
    except NewerRecord as error:
        raise BrokenArtifact(f"{path}: written by a newer svgbench (record {error}); update svgbench.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenArtifact(f"{path}: is damaged or cannot be read ({error}); measure it again: svgbench cost.") from None
    return content
