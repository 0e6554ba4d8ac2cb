"""Writes and opens diffusion artifacts: ``sit.json``, ``sit.safetensors``, and weights from earlier in the training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.nets.objectives import OBJECTIVES, objective_of
from svgbench.stages.graph import WEAK, snapshot


def write_description(out: Path, sizes: dict[str, Any], classes: Sequence[str], *, objective: str, prediction: str = "velocity") -> None:
    """Writes ``sit.json``: what ``open_transformer`` needs besides the weights."""
    content = {"sizes": sizes, "classes": classes, "objective": objective, "prediction": prediction}
    write_atomic(out / "sit.json", (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def spacing_of(start: Path, grid: int, positions: str) -> float:
    """Distance between the positions of neighbouring tokens when the transformer of an artifact continues with latents of ``grid``
    positions per side; ``positions``: interpolated or recomputed."""
    sizes = json.loads((start / "sit.json").read_text())["sizes"]
    return sizes.get("spacing", 1.0) * (sizes["grid"] / grid if positions == "interpolated" else 1.0)


def open_transformer(place: Path, runtime: Runtime, weights: str = snapshot(1)) -> tuple[Any, list[str]]:
    """The trained model of a diffusion artifact, frozen, called as (x [B, C, h, w], times [B], labels [B]) by its objective, and the names
    of its classes. ``weights``: one of the artifact's files."""
    about = json.loads((place / "sit.json").read_text())
    objective = OBJECTIVES[about["objective"]]
    model = objective.network(**about["sizes"])
    model.load_state_dict(load_file(place / weights))
    model = model.to(runtime.torch_device).eval().requires_grad_(False)
    return objective.wrap(model, about["prediction"]), about["classes"]


def open_weak(place: Path, runtime: Runtime) -> Any:
    """The weak model of autoguidance, of the same objective."""
    return open_transformer(place, runtime, WEAK)[0]


def as_velocity(model: Any) -> nn.Module:
    """A model of any objective as a velocity model of the straight path: velocities [B, C, h, w]."""
    return OBJECTIVES[objective_of(model)].as_velocity(model)
