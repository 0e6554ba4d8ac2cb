"""Reads the pre-cropped image store: every split is memory-mapped, for random batches.

``packing`` describes and writes the files; ``packed`` verifies them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from svgbench.errors import BrokenArtifact
from svgbench.images import packed
from svgbench.machine import arrays
from svgbench.machine.feed import Rows

BATCH, WARM_IMAGES = 256, 4096
"""Batch size of the reading test, and the number of images from which it draws."""


@dataclass(frozen=True)
class ImageSet:
    """One split, memory-mapped and read-only."""

    images: Tensor
    """uint8 [N, 3, H, W]"""
    labels: Tensor
    """int64 [N]"""
    masks: Tensor | None
    """uint8 [N, H, W]: 0 background, 1 + label on the object; None if the source has no masks."""

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        """A copy of the images ``indices`` [B], uint8 [B, 3, H, W], in that order."""
        return self.rows(torch.as_tensor(indices, dtype=torch.int64)).read()

    def rows(self, indices: Tensor) -> Rows:
        """The images ``indices`` [B], not yet read, for ``Task.load``."""
        return Rows(self.images, indices)


@dataclass(frozen=True)
class Images:
    """A store of pre-cropped images."""

    train: ImageSet
    val: ImageSet
    classes: tuple[str, ...]
    resolution: int
    skipped: tuple[str, ...]
    """Paths of unreadable images that were left out."""


def open_images(directory: Path) -> Images:
    """Opens the store in a directory, or the packed store that it refers to. Raises BrokenArtifact when files are missing or differ from
    ``images.json``."""
    place, about, counts = packed.resolved(directory)
    sets = {}
    try:
        for split in packed.SPLITS:
            files = [arrays.open_mapped(place / name, *facts)[: counts[split]] for name, facts in packed.rows(about, split).items()]
            sets[split] = ImageSet(files[0], files[1], files[2] if len(files) == 3 else None)
        skipped = tuple(entry["path"] for entry in about["skipped"])
        return Images(sets["train"], sets["val"], tuple(about["classes"]), int(about["resolution"]), skipped)
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenArtifact(f"{directory}: is not a complete store of images ({error}); remove the directory and run again.") from None


def reading_speed(images: ImageSet, *, seconds: float = 2.0) -> float:
    """Images per second that one core reads: random batches of 256 from the first 4096 images, copied once these are in memory. Measures
    the CPU time of one thread, so that a busy machine gives the same result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    available = min(len(images), WARM_IMAGES)
    generator, count = torch.Generator().manual_seed(0), 0
    try:
        for start in range(0, available, BATCH):
            images.batch(range(start, min(start + BATCH, available)))
        begun = time.thread_time()
        while (spent := time.thread_time() - begun) < seconds:
            images.batch(torch.randint(available, (BATCH,), generator=generator))
            count += BATCH
    finally:
        torch.set_num_threads(threads)
    return count / spent
