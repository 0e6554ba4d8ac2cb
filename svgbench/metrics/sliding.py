"""Prediction on images of any size by windows of one size: outputs of overlapping windows are averaged pixel by pixel, as in
mmsegmentation's ``slide`` mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def windows(height: int, width: int, side: int, stride: int) -> list[tuple[slice, slice]]:
    """Rows and columns of each window, row by row; the last ones are moved back to end at the image's border."""
    return [(rows, columns) for rows in _cuts(height, side, stride) for columns in _cuts(width, side, stride)]


def _cuts(length: int, side: int, stride: int) -> Iterator[slice]:
    for number in range(max(length - side + stride - 1, 0) // stride + 1):
        end = min(number * stride + side, length)
        yield slice(max(end - side, 0), end)


def averaged(outputs: Sequence[Tensor], places: Sequence[tuple[slice, slice]], height: int, width: int) -> Tensor:
    """[K, height, width]: the mean of the outputs [K, side, side] of all windows that cover a pixel."""
    total = outputs[0].new_zeros(len(outputs[0]), height, width)
    count = total.new_zeros(height, width)
    for output, (rows, columns) in zip(outputs, places, strict=True):
        total[:, rows, columns] += output
        count[rows, columns] += 1
    return total / count


def cut(image: Tensor, places: Sequence[tuple[slice, slice]]) -> Tensor:
    """The windows [N, 3, side, side] of an image [3, H, W]."""
    return torch.stack([image[:, rows, columns] for rows, columns in places])
