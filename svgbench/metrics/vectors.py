"""Labelled vectors of a data set, in memory or memory-mapped, read in blocks: only one block at a time is in full precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from svgbench.errors import BadData

BLOCK = 1 << 14
"""Number of rows in a block."""


class Standard(NamedTuple):
    """Moments that standardise vectors (a batch norm without affine), float64 [D] each."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """Standardised vectors, float32 [B, D]."""
        return ((vectors.double() - self.mean) / self.deviation.clamp_min(1e-6)).float()


def near(vectors: Tensor, device: torch.device) -> Tensor:
    """Moves the vectors to a GPU when they need at most half of its free memory; this changes only the speed."""
    if device.type == "cuda" and vectors.numel() * vectors.element_size() <= torch.cuda.mem_get_info(device)[0] // 2:
        return vectors.to(device)
    return vectors


def rows(vectors: Tensor, indices: Tensor, device: torch.device) -> Tensor:
    """Float32 rows [B, D] of vectors [N, D] (float32 or bfloat16, on any device), moved to ``device``."""
    return vectors[indices.to(vectors.device)].to(device).float()


def blocks(vectors: Tensor, device: torch.device, size: int = BLOCK) -> Iterator[Tensor]:
    """All rows in order, float32 [up to ``size``, D] on the device."""
    for part in vectors.split(size):
        yield part.to(device).float()


def split(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random indices of the images to fit, and of the held-out tenth on which settings are chosen."""
    order = torch.randperm(count, generator=generator)
    held = max(1, count // 10)
    return order[held:], order[:held]


def moments(vectors: Tensor, indices: Tensor, device: torch.device) -> Standard:
    """Mean and unbiased standard deviation of the rows ``indices`` in float64, in two passes over blocks."""
    parts = indices.sort().values.split(BLOCK)
    mean = torch.zeros(vectors.shape[1], dtype=torch.float64, device=device)
    for part in parts:
        mean += rows(vectors, part, device).double().sum(0)
    mean /= len(indices)
    squares = torch.zeros_like(mean)
    for part in parts:
        squares += (rows(vectors, part, device).double() - mean).square().sum(0)
    return Standard(mean, (squares / (len(indices) - 1)).sqrt())


def check(train_x: Tensor, train_y: Tensor, val_x: Tensor, val_y: Tensor, classes: int | None, device: torch.device) -> int:
    """The number of classes. Raises BadData when vectors, labels and ``classes`` do not fit each other."""
    if train_x.ndim != 2 or val_x.ndim != 2 or train_x.shape[1] != val_x.shape[1]:
        raise BadData(f"training vectors {list(train_x.shape)} and validation vectors {list(val_x.shape)} do not fit; both must be [N, D].")
    if len(train_x) != len(train_y) or len(val_x) != len(val_y) or not len(val_x):
        raise BadData(f"{len(train_x)} + {len(val_x)} vectors have {len(train_y)} + {len(val_y)} labels; each needs one.")
    if len(train_x) < 3:
        raise BadData(f"a probe needs 3 training images or more, there are {len(train_x)}.")
    classes = classes or int(max(train_y.max(), val_y.max())) + 1
    for name, labels in (("training", train_y), ("validation", val_y)):
        bad = (labels < 0) | (labels >= classes)
        if bool(bad.any()):
            place = int(bad.nonzero()[0])
            raise BadData(
                f"{name} image {place} has label {int(labels[place])}, there are {classes} classes (0 to {classes - 1}); "
                "the labels are of another data set."
            )
    if bool((train_y == train_y[0]).all()):
        raise BadData(f"all {len(train_y)} training images are of class {int(train_y[0])}; a probe needs two classes or more.")
    if len(train_x) < classes:
        raise BadData(f"{len(train_x)} training images cannot represent {classes} classes; give a probe as many images as classes or more.")
    for name, vectors in (("training", train_x), ("validation", val_x)):
        check_finite(vectors, f"{name} image", device)
    return classes


def check_finite(vectors: Tensor, what: str, device: torch.device, *, first: int = 0) -> None:
    """Raises BadData that names the first non-finite row of vectors [N, D]; ``first``: the number of row 0."""
    for number, block in enumerate(blocks(vectors, device)):
        good = block.isfinite().all(1)
        if not bool(good.all()):
            place = first + number * BLOCK + int((~good).nonzero()[0])
            raise BadData(f"the latents of {what} {place} are not finite; check that image, or train the autoencoder again.")
