"""Chooses the sampling shift of a tokenizer among candidates, by the gFID of samples that are in no table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svgbench.config.sampling import Tuning
from svgbench.errors import SvgbenchError
from svgbench.machine.files import write_atomic

if TYPE_CHECKING:
    from svgbench.machine.runtime import Runtime

CHOICE = "choice.json"


def candidate(shift: float) -> str:
    """Name of the input with a candidate's scores."""
    return f"shift {shift:g}"


def choose(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes ``choice.json``: ``shift``, the candidate with the lowest gFID (the first if equal); ``candidates``, the score of each;
    ``text``, how they were compared; ``edge``, whether the choice is the smallest or largest candidate, so that a better shift may
    lie outside their range."""
    tuning = Tuning.model_validate(slice_["sampling"]["tuning"])
    rows = []
    for shift in tuning.shifts:
        scores = json.loads((inputs[candidate(shift)] / "scores.json").read_bytes())
        score = next((score for score in scores if score["metric"] == "gfid"), None)
        if score is None:
            raise SvgbenchError(f"{inputs[candidate(shift)]}: has no gFID, so the shift cannot be tuned; set sampling.shift to a number.")
        rows.append({"shift": shift, "gfid": score["value"], "low": score["low"], "high": score["high"], "count": score["count"]})
    best = min(rows, key=lambda row: row["gfid"])
    made = {
        "shift": best["shift"],
        "edge": best["shift"] in (min(tuning.shifts), max(tuning.shifts)),
        "text": tuning.text,
        "tuning": tuning.model_dump(mode="json"),
        "candidates": rows,
    }
    write_atomic(out / CHOICE, (json.dumps(made, indent=1) + "\n").encode())
    runtime.notify(sentence(made))
    return {}


def chosen(place: Path | None) -> dict[str, Any] | None:
    """The content of a finished choice; None if there is none."""
    return None if place is None else json.loads((place / CHOICE).read_bytes())


def sentence(made: dict[str, Any]) -> str:
    """The choice as a sentence."""
    scores = ", ".join(f"{row['gfid']:.2f} at {row['shift']:g}" for row in made["candidates"])
    tuning = made["tuning"]
    edge = "; it is the smallest or largest candidate, so a better one may lie outside their range" if made["edge"] else ""
    return f"sampling shift tuned to {made['shift']:g}: gFID {scores} (seed {tuning['seed']}, {tuning['steps']} steps){edge}."
