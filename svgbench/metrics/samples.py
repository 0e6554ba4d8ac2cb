"""Checks that a set of images can be scored: complete, distinct, of the right size and type.

Protocol: exactly the promised number of images; uint8 [N, 3, H, W] of the reference's size; one label per image, within the classes; no two
generated images are identical in every byte (each comes from different noise, so an identical pair means that a rank or a shard was written
twice). Images of one flat colour are exempt: a collapsed model draws many, and its score should show this. Limit: it does not check which
checkpoint the images are from; the store's keys do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.errors import BadData, NumericalError
from svgbench.machine.copies import sent_to_host
from svgbench.machine.runtime import Runtime


def to_uint8(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] of floats, round(255 x) after a clamp to [0, 1]; halves are rounded to even."""
    if not images.isfinite().all():
        raise _not_finite()
    return _rounded(images)


def sent_as_uint8(images: Tensor) -> Callable[[], Tensor]:
    """Begins to round images [B, 3, H, W] as ``to_uint8``, on their device, and to copy them to the host, without waiting. The returned
    function waits and returns uint8 [B, 3, H, W] in host memory, or raises NumericalError."""
    wait = sent_to_host([_rounded(images), images.isfinite().all()])

    def arrived() -> Tensor:
        rounded, finite = wait()
        if not finite:
            raise _not_finite()
        return rounded

    return arrived


def _rounded(images: Tensor) -> Tensor:
    return images.float().clamp(0, 1).mul(255).round().to(torch.uint8)


def _not_finite() -> NumericalError:
    return NumericalError("images hold NaN or infinity and cannot be scored; check the model that made them.")


def check_samples(
    images: Any,
    labels: Any,
    expected_count: int,
    *,
    size: tuple[int, int] | None = None,
    classes: int | None = None,
    distinct: bool = True,
    runtime: Runtime | None = None,
) -> None:
    """Raises BadData for a set of images (numpy array, memmap or tensor) and labels [N] that would give a meaningless number.

    ``size``: height and width of the reference in pixels; ``classes``: number of classes; ``distinct``: off for reconstructions, whose
    originals may repeat; ``runtime``: all its ranks share the search for equal images and get the same result.
    """
    shape, kind = tuple(images.shape), str(images.dtype).removeprefix("torch.")
    if kind.startswith("float") and not _finite(images):
        raise NumericalError("the images hold NaN or infinity and cannot be scored; check the model that made them.")
    if kind != "uint8":
        raise BadData(f"the images are {kind}; metrics take uint8 in 0..255, so round them first.")
    if len(shape) != 4 or shape[1] != 3:
        raise BadData(f"the images have shape {list(shape)}; metrics take [N, 3, H, W].")
    if len(images) != expected_count:
        word = "missing" if len(images) < expected_count else "too many"
        raise BadData(f"{abs(expected_count - len(images))} of {expected_count} images are {word}; draw the samples again.")
    if size is not None and shape[2:] != size:
        raise BadData(f"the images are {shape[2]} x {shape[3]} px, the reference {size[0]} x {size[1]}; resize them.")
    if labels is not None:
        _check_labels(np.asarray(labels), expected_count, classes)
    if distinct:
        _check_distinct(images, runtime)


def _check_labels(labels: np.ndarray, count: int, classes: int | None) -> None:
    """Raises BadData unless there is one integer label per image, within the classes."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise BadData(f"the labels are {labels.dtype} {list(labels.shape)}; {count} images need {count} whole numbers.")
    if classes is not None and count and not (labels.min() >= 0 and labels.max() < classes):
        raise BadData(f"labels run from {labels.min()} to {labels.max()}, outside 0..{classes - 1}; the samples are of another data set.")


def _finite(images: Any) -> bool:
    """Whether all values are finite, checked one image at a time."""
    return all(bool(np.isfinite(np.asarray(images[index])).all()) for index in range(len(images)))


def _check_distinct(images: Any, runtime: Runtime | None) -> None:
    """Raises BadData if two images that are not flat are equal in every byte."""
    if pairs := doubled(images, runtime):
        raise BadData(
            f"{doubled_note(pairs, len(images))}; each sample has different noise, so a file or a part was written twice: "
            "draw the set again, or leave the copies out."
        )


def doubled_note(pairs: Sequence[tuple[int, int]], count: int) -> str:
    """The number of duplicates among ``count`` images, and the first one, as text."""
    return f"{len(pairs)} of {count} images are doubled (first: {pairs[0][1]} equals {pairs[0][0]} in every byte)"


def doubled(images: Any, runtime: Runtime | None = None) -> list[tuple[int, int]]:
    """Index pairs (first, copy) of images [N, 3, H, W] that equal an earlier one in every byte; images of one flat colour are left out."""

    def print_of(index: int) -> np.ndarray:
        image = np.ascontiguousarray(images[index].cpu() if isinstance(images, Tensor) else images[index])
        if (image == image[:, :1, :1]).all():
            return np.zeros(2, dtype=np.int64)
        return np.frombuffer(hashlib.blake2b(image.data, digest_size=16).digest(), dtype=np.int64)

    prints = np.zeros((len(images), 2), dtype=np.int64)
    mine = range(len(images)) if runtime is None else runtime.shard(len(images))
    with ThreadPoolExecutor() as pool:
        for index, digest in zip(mine, pool.map(print_of, mine), strict=True):
            prints[index] = digest
    if runtime is not None:
        runtime.all_reduce_(torch.from_numpy(prints))  # in place; every rank filled its own rows
    seen: dict[bytes, int] = {}
    firsts = [seen.setdefault(row.tobytes(), index) if row.any() else index for index, row in enumerate(prints)]
    return [(first, index) for index, first in enumerate(firsts) if first != index]
