"""The order of training images. It depends only on seed and position in the run, so no state has to be saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


def stable_hash(*words: int | str, bits: int = 63) -> int:
    """A number of ``bits`` bits from the words; the same in every process and version."""
    text = "\x1f".join(str(word) for word in words).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "little") % (1 << bits)


@dataclass(frozen=True)
class Batch:
    """This rank's share of one update: image indices, and their positions in the run."""

    indices: Tensor
    """Indices into the data set, [b] int64."""
    positions: Tensor
    """Number of images seen in the run before each of these images, [b] int64; the key of every random draw."""
    size: int
    """Number of images in the GLOBAL batch; a loss is the sum over local images divided by this, in every micro-batch and on every rank."""
    images_seen: int = 0
    """Number of images seen in the run before this update, the same on all ranks; losses that start later depend on it."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What the task has loaded for these images: name -> tensor [b, ...] on the device, or a list of b entries."""

    def __len__(self) -> int:
        return len(self.indices)

    def micro_batches(self, limit: int | None) -> Iterator[Batch]:
        """Consecutive pieces of at most ``limit`` images with the same ``size``; one piece if None, no piece if this rank has no images."""
        for start in range(0, len(self), limit or max(len(self), 1)):
            piece = slice(start, start + limit if limit else None)
            data = {name: rows[piece] for name, rows in self.data.items()}
            yield replace(self, indices=self.indices[piece], positions=self.positions[piece], data=data)

    def holding(self, **more: Any) -> Batch:
        """The same batch with further ``data``."""
        return replace(self, data={**self.data, **more})


class Order:
    """A permutation of ``count`` images for each epoch. A batch may contain the end of one epoch and the start of the next."""

    def __init__(self, count: int, *, seed: int) -> None:
        if count < 1:
            raise ValueError("an order needs at least one image")
        self._count, self._seed = count, seed
        self._epochs: dict[int, np.ndarray] = {}

    def epoch(self, number: int) -> np.ndarray:
        """The permutation [count] int64 of one epoch: the argsort of 64-bit Philox draws keyed by seed and epoch (ties in index order)."""
        if number not in self._epochs:
            for old in [n for n in self._epochs if n != number - 1]:
                del self._epochs[old]
            generator = np.random.Philox(key=stable_hash(self._seed, "order", number, bits=128))
            self._epochs[number] = np.argsort(generator.random_raw(self._count), kind="stable")
        return self._epochs[number]

    def images(self, positions: np.ndarray) -> np.ndarray:
        """The image index at each position [n] of the run, int64 [n]."""
        epochs, places = np.divmod(positions, self._count)
        chosen = np.empty(len(positions), dtype=np.int64)
        for number in np.unique(epochs):
            here = epochs == number
            chosen[here] = self.epoch(int(number))[places[here]]
        return chosen

    def batch(self, images_seen: int, size: int, *, rank: int = 0, world: int = 1) -> Batch:
        """The share of ``rank`` in the update for positions [images_seen, images_seen + size)."""
        positions = np.arange(images_seen + rank, images_seen + size, world, dtype=np.int64)
        return Batch(torch.from_numpy(self.images(positions)), torch.from_numpy(positions), size, images_seen)

    def batches(self, start: int, stop: int, size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The shares of ``rank`` in the updates for positions [start, stop), ``size`` each; the last one may be smaller."""
        for images_seen in range(start, stop, size):
            yield self.batch(images_seen, min(size, stop - images_seen), rank=rank, world=world)
