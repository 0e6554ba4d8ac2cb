"""Arrays on disk filled by several processes. Their space is allocated first, so that a full disk raises an error instead of a signal."""

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
    """Creates a ``.npy`` file of zeros with all disk blocks allocated: writing to a mapped page without a block kills the process (SIGBUS).
    Raises StorageError when the disk is full."""
    with guarded(path):
        need_space(path.parent, math.prod(shape) * np.dtype(dtype).itemsize)
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def open_rows(path: Path) -> np.memmap:
    """The array of ``create``, memory-mapped for writing."""
    return np.lib.format.open_memmap(path, mode="r+")


def open_mapped(path: Path, shape: tuple[int, ...], dtype: type) -> Tensor:
    """A read-only memory-mapped array as a tensor. Raises BrokenArtifact when it does not have this shape and dtype."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # it is never written to
        return torch.from_numpy(rows.mapped_array(path, shape, dtype))
