"""Arrays on disk that many processes fill: their space is taken before the first byte, so a full disk is an error and never a signal."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svgbench.machine import rows
from svgbench.machine.files import guarded, need_space


def create(path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    """A ``.npy`` of zeros with all its blocks allocated (a memory-mapped page that cannot be written kills the process by SIGBUS)."""
    with guarded(path):
        need_space(path.parent, math.prod(shape) * np.dtype(dtype).itemsize)
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def open_rows(path: Path) -> np.ndarray:
    """The array of ``create``, to be filled in place."""
    return np.lib.format.open_memmap(path, mode="r+")


def open_mapped(path: Path, shape: tuple[int, ...], dtype: type) -> Tensor:
    """A read-only mapped array as a tensor, of which nothing is read yet; BrokenArtifact when it is not of this shape and type."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # nobody writes into it
        return torch.from_numpy(rows.mapped_array(path, shape, dtype))
