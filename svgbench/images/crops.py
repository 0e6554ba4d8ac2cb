"""Training crops for segmentation and depth: random scale, window, flip and colours, determined by the seed and the position in the run.

Threads read the crops of the next update while the current one is computed (PIL releases the GIL). The result is the same for any number
of threads. The augmentations reimplement those of DINOv3 (facebookresearch/dinov3, eval/segmentation/transforms.py and
eval/depth/transforms.py).
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
"""A crop in which one class covers at least this share of the labelled pixels is drawn again, at most ``MAX_TRIES`` times."""
MAX_TRIES = 10
FILL_COLOUR = (124 / 255, 116 / 255, 104 / 255)
"""ImageNet's mean colour; fills the part of a crop that lies outside its image."""
NYU_BORDER = (43 / 640, 45 / 480, 608 / 640, 472 / 480)
"""Left, top, right and bottom of NYU's images inside their white border, as fractions of width and height."""
MAX_TILT = 2.5
"""Largest rotation of a depth crop, in degrees."""


class Crop(NamedTuple):
    """One training example on the CPU, before padding to its full size."""

    image: np.ndarray
    """uint8 [h, w, 3]"""
    target: np.ndarray
    """[h, w]"""
    draws: np.ndarray
    """Uniform random numbers [COLOUR_DRAWS] for the colours."""


DRAWS, COLOUR_DRAWS = 33, 9


def uniform_draws(seed: int, position: int) -> np.ndarray:
    """Uniform random numbers [DRAWS] of the crop at a position of the run."""
    return draws.uniform(draws.stream(seed, "dense/crop"), torch.tensor([position]), (DRAWS,))[0].numpy()


def segmentation_crop(sample: Sample, numbers: np.ndarray, *, side: int, scales: tuple[float, float]) -> Crop:
    """Scales the image's short side to ``side`` times a random factor in the range ``scales``, then crops a random window of ``side``
    pixels with more than one class, and flips it with probability 1/2. ``numbers``: ``uniform_draws``."""
    short = int(side * (scales[0] + (scales[1] - scales[0]) * float(numbers[0])))
    size = scaled(sample.image.size, max(short, 1))
    image = np.asarray(sample.image.resize(size, Image.Resampling.BILINEAR))
    mask = np.asarray(Image.fromarray(sample.target).resize(size, Image.Resampling.NEAREST))
    for attempt in range(MAX_TRIES + 1):
        window = _window(mask.shape, (side, side), numbers[2 + 2 * attempt :])
        labels, counts = np.unique(mask[window], return_counts=True)
        counts = counts[labels != IGNORED]
        if len(counts) > 1 and counts.max() / counts.sum() < ONE_CLASS_SHARE:
            break
    return _mirrored(Crop(image[window], mask[window], numbers[-COLOUR_DRAWS:]), numbers[1])


def depth_crop(sample: Sample, numbers: np.ndarray, *, size: tuple[int, int], border: bool) -> Crop:
    """A random window of ``size`` (height, width), rotated with probability 1/2 and flipped with probability 1/2. ``border``: cuts off
    NYU's border. ``numbers``: ``uniform_draws``."""
    image, depth = sample.image, Image.fromarray(sample.target)
    if border:
        sides = (*image.size, *image.size)
        left, top, right, bottom = (round(share * side) for share, side in zip(NYU_BORDER, sides, strict=True))
        box = (left, top, right, bottom)
        image, depth = image.crop(box), depth.crop(box)
    if numbers[0] < 0.5:
        angle = MAX_TILT * (2 * float(numbers[2]) - 1)
        image, depth = image.rotate(angle, Image.Resampling.BILINEAR), depth.rotate(angle, Image.Resampling.NEAREST)
    window = _window((image.height, image.width), size, numbers[3:])
    return _mirrored(Crop(np.asarray(image)[window], np.asarray(depth)[window], numbers[-COLOUR_DRAWS:]), numbers[1])


def scaled(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(width, height) of an image resized so that its short side is ``short``."""
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


def photometric_distortion(image: Tensor, numbers: np.ndarray, turn: float = 0.5) -> Tensor:
    """mmsegmentation's photometric distortion of an image [3, h, w] in [0, 1], with any hue as in DINOv3 (mmsegmentation: ``turn`` 0.1).

    Brightness (within 32 / 255), contrast and saturation (0.5 to 1.5) and hue (within ``turn`` of the circle) change independently, each
    with probability 1/2; contrast comes before or after saturation and hue. ``numbers``: uniform [COLOUR_DRAWS].
    """
    apply, (bright, contrast, saturation, hue) = numbers[:4] < 0.5, (float(number) for number in numbers[4:8])

    def contrasted(image: Tensor) -> Tensor:
        return (image * (0.5 + contrast)).clamp(0, 1) if apply[1] else image

    contrast_last = numbers[8] < 0.5
    image = (image + (2 * bright - 1) * 32 / 255).clamp(0, 1) if apply[0] else image
    image = image if contrast_last else contrasted(image)
    image = colours.adjust_saturation(image, 0.5 + saturation) if apply[2] else image
    image = colours.adjust_hue(image, (2 * hue - 1) * turn) if apply[3] else image
    return contrasted(image) if contrast_last else image


def colour_jitter(image: Tensor, numbers: np.ndarray) -> Tensor:
    """BTS's colour augmentation of an image [3, h, w] in [0, 1], with probability 1/2: gamma and each channel's factor from 0.9 to 1.1,
    brightness from 0.75 to 1.25. ``numbers``: uniform [COLOUR_DRAWS]."""
    if numbers[0] >= 0.5:
        return image
    channels = (0.9 + 0.2 * torch.from_numpy(numbers[3:6].copy())).tolist()
    bright = image ** (0.9 + 0.2 * float(numbers[1])) * (0.75 + 0.5 * float(numbers[2]))
    return torch.stack([plane * factor for plane, factor in zip(bright, channels, strict=True)]).clamp(0, 1)


def padded(crops: Sequence[Crop], size: tuple[int, int], ignored: float) -> dict[str, Any]:
    """A batch on the host, for ``Task.load``: ``pixels`` uint8 [B, H, W, 3] and ``targets`` [B, H, W], padded at the bottom and right to
    ``size`` (H, W), targets with ``ignored``; and the ``crops`` themselves."""
    pixels = np.zeros((len(crops), *size, 3), np.uint8)
    targets = np.full((len(crops), *size), ignored, crops[0].target.dtype if crops else np.float32)
    for row, crop in enumerate(crops):
        height, width = crop.target.shape
        pixels[row, :height, :width], targets[row, :height, :width] = crop.image, crop.target
    return {"pixels": torch.from_numpy(pixels), "targets": torch.from_numpy(targets), "crops": list(crops)}


def augmented(pixels: Tensor, crops: Sequence[Crop], augment: Callable[[Tensor, np.ndarray], Tensor]) -> Tensor:
    """Augmented images [B, 3, H, W] in [0, 1] of padded pixels uint8 [B, H, W, 3]; the padding has the mean colour."""
    images = torch.empty(len(pixels), 3, *pixels.shape[1:3], device=pixels.device)
    for channel, colour in enumerate(FILL_COLOUR):
        images[:, channel].fill_(colour)
    for row, crop in enumerate(crops):
        height, width = crop.target.shape
        image = pixels[row, :height, :width].contiguous().permute(2, 0, 1).float() / 255
        images[row, :, :height, :width] = augment(image, crop.draws)
    return images


def resized(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, K, h, w] -> [B, K, *size] by bilinear interpolation; the input itself if it already has that size."""
    return image if tuple(image.shape[2:]) == tuple(size) else F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def reader_threads(runtime: Runtime) -> int:
    """Number of threads that read images: ``runtime.workers``, else one for each processor that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return runtime.workers or cpus or 1


class CropLoader(AbstractContextManager["CropLoader"]):
    """Returns the crops of a batch, each ``read(image index, position)``, while threads read those of the next update."""

    def __init__(self, read: Callable[[int, int], Crop], count: int, *, seed: int, runtime: Runtime) -> None:
        self._read, self._order, self._runtime = read, Order(count, seed=seed), runtime
        self._pool = ThreadPoolExecutor(max_workers=reader_threads(runtime))
        self._waiting: dict[int, Future[Crop]] = {}

    def __call__(self, batch: Batch) -> list[Crop]:
        """The crops of this rank's share of an update, in the order of ``batch``."""
        current = self._submit(batch)
        following = self._order.batch(batch.images_seen + batch.size, batch.size, rank=self._runtime.rank, world=self._runtime.world)
        self._waiting = self._submit(following)
        return [future.result() for future in current.values()]

    def _submit(self, batch: Batch) -> dict[int, Future[Crop]]:
        pairs = zip(batch.indices.tolist(), batch.positions.tolist(), strict=True)
        waiting = self._waiting
        return {
            position: waiting.pop(position) if position in waiting else self._pool.submit(self._read, index, position)
            for index, position in pairs
        }

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)
