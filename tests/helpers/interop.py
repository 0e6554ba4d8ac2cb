"""What official code answered: fixtures outside the repository, in the folder SVGBENCH_INTEROP or in shared/interop beside it."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from measured import note
from safetensors.torch import load_file

FOLDER = Path(os.environ.get("SVGBENCH_INTEROP", Path(__file__).parents[3] / "shared" / "interop"))


class Fixture(NamedTuple):
    """One official model: its parameters by their names, its constructor's arguments, inputs and answers."""

    state: dict[str, torch.Tensor]
    config: dict
    tensors: dict[str, torch.Tensor]


def fixture(name: str) -> Fixture:
    """The fixture of a name; skips the test where the folder is absent."""
    if not (FOLDER / f"{name}.json").is_file():
        pytest.skip(f"the official answers are not here ({FOLDER / name}.json); set SVGBENCH_INTEROP to their folder")
    spec = importlib.util.spec_from_file_location("interop_fill", FOLDER / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    about, tensors = json.loads((FOLDER / f"{name}.json").read_text()), load_file(FOLDER / f"{name}.safetensors")
    return Fixture(fill.state_dict(about["parameters"], tensors), about["config"], tensors)


def to_map(tokens: torch.Tensor) -> torch.Tensor:
    """[B, N, C] -> [B, C, h, w]."""
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference, relative to the largest number wanted; also a line in the file SVGBENCH_PARITY, for ``measured.py``."""
    assert got.shape == want.shape
    found = ((got - want).abs().max() / want.abs().max()).item()
    note("SVGBENCH_PARITY", error=found, numbers=want.numel())
    return found
