"""Training crops of a dense set: random scale, place, mirror and colours, each a function of the crop's position in the run.

Read by threads (PIL releases the interpreter), the next update's while this one is computed; the same for any number of threads.
Facts of DINOv3's pipelines (facebookresearch/dinov3, eval/segmentation/transforms.py and eval/depth/transforms.py); the code is ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as colours

from svgbench.images.dense_sets import IGNORED, Sample
from svgbench.machine.order import Batch, Order
from svgbench.machine.runtime import Runtime
from svgbench.nets import draws

ONE_CLASS_SHARE = 0.75
"""A crop with one class on more of its labelled pixels is drawn again, ten times at most."""
TRIES = 10
FILL = (124 / 255, 116 / 255, 104 / 255)
"""ImageNet's mean colour, where a crop reaches beyond its image."""
NYU_BORDER = (43 / 640, 45 / 480, 608 / 640, 472 / 480)
"""Left, top, right and bottom of what NYU's white border leaves, as shares of the image's sides."""
TILT = 2.5
"""Degrees."""


class Crop(NamedTuple):
    """One training example on the CPU, not yet filled up to its full size."""

    image: np.ndarray
    """uint8 [h, w, 3]"""
    target: np.ndarray
    """[h, w]"""
    draws: np.ndarray
    """Uniform draws for its colours."""


DRAWS, COLOUR_DRAWS = 33, 9


def drawn(seed: int, position: int) -> np.ndarray:
    """Uniform draws [DRAWS] of the crop at a position of the run."""
    return draws.uniform(draws.stream(seed, "dense/crop"), torch.tensor([position]), (DRAWS,))[0].numpy()


def labelled_crop(sample: Sample, numbers: np.ndarray, *, side: int, scales: tuple[float, float]) -> Crop:
    """Short side scaled to ``side`` times a random scale, a random window of ``side`` with more than one class, perhaps mirrored."""
    short = int(side * (scales[0] + (scales[1] - scales[0]) * float(numbers[0])))
    size = scaled(sample.image.size, max(short, 1))
    image = np.asarray(sample.image.resize(size, Image.Resampling.BILINEAR))
    mask = np.asarray(Image.fromarray(sample.target).resize(size, Image.Resampling.NEAREST))
    for attempt in range(TRIES + 1):
        window = _window(mask.shape, (side, side), numbers[2 + 2 * attempt :])
        labels, counts = np.unique(mask[window], return_counts=True)
        counts = counts[labels != IGNORED]
        if len(counts) > 1 and counts.max() / counts.sum() < ONE_CLASS_SHARE:
            break
    return _mirrored(Crop(image[window], mask[window], numbers[-COLOUR_DRAWS:]), numbers[1])


def depth_crop(sample: Sample, numbers: np.ndarray, *, size: tuple[int, int], border: bool) -> Crop:
    """NYU's border cut off, perhaps tilted, perhaps mirrored, a random ``size`` (height, width) window."""
    image, depth = sample.image, Image.fromarray(sample.target)
    if border:
        sides = (*image.size, *image.size)
        box = tuple(round(share * side) for share, side in zip(NYU_BORDER, sides, strict=True))
        image, depth = image.crop(box), depth.crop(box)
    if numbers[0] < 0.5:
        angle = TILT * (2 * float(numbers[2]) - 1)
        image, depth = image.rotate(angle, Image.Resampling.BILINEAR), depth.rotate(angle, Image.Resampling.NEAREST)
    window = _window((image.height, image.width), size, numbers[3:])
    return _mirrored(Crop(np.asarray(image)[window], np.asarray(depth)[window], numbers[-COLOUR_DRAWS:]), numbers[1])


def scaled(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(width, height) with the short side brought to ``short``."""
    width, height = size
    if height > width:
        return short, int(short * height / width + 0.5)
    return int(short * width / height + 0.5), short


def _window(full: tuple[int, ...], size: tuple[int, int], numbers: np.ndarray) -> tuple[slice, slice]:
    """A random window of at most ``size`` (height, width)."""
    top, left = (int(float(number) * (max(a - b, 0) + 1)) for number, a, b in zip(numbers[:2], full, size, strict=True))
    return slice(top, top + size[0]), slice(left, left + size[1])


def _mirrored(crop: Crop, number: float) -> Crop:
    if number >= 0.5:
        return crop
    return Crop(crop.image[:, ::-1], crop.target[:, ::-1], crop.draws)


def distorted(image: Tensor, numbers: np.ndarray) -> Tensor:
    """mmsegmentation's photometric distortion of an image [3, h, w] in [0, 1], hue over the whole circle as in DINOv3; each of the four
    by a coin's toss: brightness +- 32 / 255, contrast and saturation 0.5 to 1.5, contrast before or after the other two."""
    toss, (bright, contrast, saturation, hue) = numbers[:4] < 0.5, (float(number) for number in numbers[4:8])

    def contrasted(image: Tensor) -> Tensor:
        return (image * (0.5 + contrast)).clamp(0, 1) if toss[1] else image

    last = numbers[8] < 0.5
    image = (image + (2 * bright - 1) * 32 / 255).clamp(0, 1) if toss[0] else image
    image = image if last else contrasted(image)
    image = colours.adjust_saturation(image, 0.5 + saturation) if toss[2] else image
    image = colours.adjust_hue(image, hue - 0.5) if toss[3] else image
    return contrasted(image) if last else image


def tinted(image: Tensor, numbers: np.ndarray) -> Tensor:
    """BTS's colours of an image [3, h, w] in [0, 1], half of the time: gamma and each channel 0.9 to 1.1, brightness 0.75 to 1.25."""
    if numbers[0] >= 0.5:
        return image
    channels = 0.9 + 0.2 * torch.from_numpy(numbers[3:6].copy()).to(image.device)
    return (image ** (0.9 + 0.2 * float(numbers[1])) * (0.75 + 0.5 * float(numbers[2])) * channels[:, None, None]).clamp(0, 1)


def stacked(
    crops: Sequence[Crop], size: tuple[int, int], blank: float, coloured: Callable[[Tensor, np.ndarray], Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W] in [0, 1] and targets [B, H, W], filled up below and to the right with the mean colour and with ``blank``."""
    images = torch.tensor(FILL, device=device)[None, :, None, None].repeat(len(crops), 1, *size)
    kind = torch.from_numpy(crops[0].target[:0].copy()).dtype if crops else torch.float32
    targets = torch.full((len(crops), *size), blank, dtype=kind, device=device)
    for row, crop in enumerate(crops):
        height, width = crop.target.shape
        pixels = torch.tensor(np.ascontiguousarray(crop.image), device=device).permute(2, 0, 1).float() / 255
        images[row, :, :height, :width] = coloured(pixels, crop.draws)
        targets[row, :height, :width] = torch.tensor(np.ascontiguousarray(crop.target), device=device)
    return images, targets


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, K, h, w] -> [B, K, *size], bilinear; itself where the size is right."""
    return image if tuple(image.shape[2:]) == tuple(size) else F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def readers(runtime: Runtime) -> int:
    """Threads that read pairs: ``workers``, or as many as there are processors for this process."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return runtime.workers or ours or 1


class Ahead(AbstractContextManager["Ahead"]):
    """The crops of a batch, ``read(image, position)`` each; those of the next update are read meanwhile."""

    def __init__(self, read: Callable[[int, int], Crop], count: int, *, seed: int, runtime: Runtime) -> None:
        self._read, self._order, self._runtime = read, Order(count, seed=seed), runtime
        self._pool = ThreadPoolExecutor(max_workers=readers(runtime))
        self._waiting: dict[int, Future[Crop]] = {}

    def __call__(self, batch: Batch) -> list[Crop]:
        """The crops of this rank's share of an update, in its order."""
        here = self._asked(batch)
        following = self._order.batch(batch.images_seen + batch.size, batch.size, rank=self._runtime.rank, world=self._runtime.world)
        self._waiting = self._asked(following)
        return [future.result() for future in here.values()]

    def _asked(self, batch: Batch) -> dict[int, Future[Crop]]:
        pairs = zip(batch.indices.tolist(), batch.positions.tolist(), strict=True)
        return {position: self._waiting.pop(position, None) or self._pool.submit(self._read, index, position) for index, position in pairs}

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)
