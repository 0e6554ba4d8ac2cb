"""Training crops of the paper's perception heads: random resized crops for classification, GLPDepth's augmentation for depth. The random
draws of a crop depend only on its position in the run, as in ``crops``."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as colours

from svgbench.images.crops import COLOUR_DRAWS, Crop, scaled
from svgbench.images.dense_sets import Sample

ASPECT = (3 / 4, 4 / 3)
"""Range of a random resized crop's width over its height."""
TRIES = 10
"""Number of attempts to draw a crop size that fits into the image (torchvision's number)."""
CUT_SHARE, CUT_WIDTH = 0.25, 0.75
"""Vertical CutDepth (arXiv 2201.07436): its probability, and its largest width as a fraction of the columns to the right of its left
edge."""


def resized_crop(image: np.ndarray, label: int, numbers: np.ndarray, *, area: tuple[float, float]) -> Crop:
    """torchvision's RandomResizedCrop of a square image uint8 [3, S, S] to S pixels, bilinear, mirrored with probability 1/2; the target
    is the label, int64 []. ``numbers``: ``crops.uniform_draws``."""
    side = image.shape[-1]
    left, top, width, height = box_of(side, numbers[1:], area)
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    cut = picture.crop((left, top, left + width, top + height)).resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(cut)
    return Crop(pixels[:, ::-1] if numbers[0] < 0.5 else pixels, np.asarray(label, np.int64), numbers[:0])


def box_of(side: int, numbers: np.ndarray, area: tuple[float, float]) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random box in a square of ``side`` pixels. Its fraction of the square's area is uniform in
    ``area``, the logarithm of its aspect ratio is uniform; the full square if no drawn size fits. ``numbers``: uniform [2 * TRIES + 2]."""
    low, high = map(math.log, ASPECT)
    for share, aspect in numbers[2 : 2 + 2 * TRIES].reshape(TRIES, 2).tolist():
        pixels, ratio = side * side * (area[0] + (area[1] - area[0]) * share), math.exp(low + (high - low) * aspect)
        width, height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < width <= side and 0 < height <= side:
            left, top = (int(float(number) * (side - size + 1)) for number, size in zip(numbers[:2], (width, height), strict=True))
            return left, top, width, height
    return 0, 0, side, side


def labelled_batch(crops: list[Crop], side: int) -> dict[str, Tensor]:
    """``pixels`` uint8 [B, side, side, 3] and ``labels`` int64 [B] of random resized crops on the host, for ``Task.load``; B may be 0."""
    pixels = np.stack([crop.image for crop in crops]) if crops else np.zeros((0, side, side, 3), np.uint8)
    labels = torch.tensor([int(crop.target) for crop in crops], dtype=torch.int64)
    return {"pixels": torch.from_numpy(pixels), "labels": labels}


def cut_depth_crop(sample: Sample, numbers: np.ndarray, *, side: int) -> Crop:
    """A random window of ``side`` pixels, mirrored with probability 1/2. With probability 1/4, a band of columns of the image shows the
    depth as grey: millimetres modulo 256, the result of GLPDepth's cast to bytes. An image smaller than the window is enlarged first.
    ``numbers``: ``crops.uniform_draws``."""
    image, depth = enlarged(sample.image, side), sample.target
    if image.size != sample.image.size:
        depth = np.asarray(Image.fromarray(depth).resize(image.size, Image.Resampling.NEAREST))
    pixels = np.asarray(image)
    height, width = depth.shape
    if numbers[3] < CUT_SHARE:
        left = int(float(numbers[4]) * width)
        band = slice(left, left + int(max((width - float(numbers[4]) * width) * float(numbers[5]) * CUT_WIDTH, 1)))
        pixels = pixels.copy()
        pixels[:, band] = (np.rint(depth[:, band] * 1000).astype(np.int64) % 256).astype(np.uint8)[..., None]
    top, left = (int(float(number) * (size - side + 1)) for number, size in zip(numbers[1:3], (height, width), strict=True))
    window = slice(top, top + side), slice(left, left + side)
    step = -1 if numbers[0] < 0.5 else 1
    return Crop(pixels[window][:, ::step], depth[window][:, ::step], numbers[-COLOUR_DRAWS:])


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """The image, enlarged so that its short side is at least ``side``."""
    return image if min(image.size) >= side else image.resize(scaled(image.size, side), Image.Resampling.BILINEAR)


def depth_colours(image: Tensor, numbers: np.ndarray) -> Tensor:
    """GLPDepth's colours of an image [3, h, w] in [0, 1] (albumentations' defaults), each step with probability 1/2: contrast 0.8 to 1.2
    and brightness within 0.2; gamma 0.8 to 1.2; hue within 1/9 of the circle, saturation within 30 / 255 and value within 20 / 255.
    ``numbers``: uniform [COLOUR_DRAWS]."""
    centred = 2 * numbers - 1
    if numbers[0] < 0.5:
        image = (image * float(1 + 0.2 * centred[3]) + 0.2 * float(centred[4])).clamp(0, 1)
    if numbers[1] < 0.5:
        image = image ** float(1 + 0.2 * centred[5])
    if numbers[2] < 0.5:
        image = colours.adjust_hue(image, float(centred[6]) / 9)
        image = _shifted(image, saturation=float(centred[7]) * 30 / 255, value=float(centred[8]) * 20 / 255)
    return image


def _shifted(image: Tensor, *, saturation: float, value: float) -> Tensor:
    """The image with its HSV saturation and value changed by these amounts; hue is unchanged and grey pixels stay grey."""
    most, least = image.amax(0), image.amin(0)
    spread = most - least
    place = torch.where(spread > 0, (most - image) / spread.clamp_min(1e-8), 0.0)  # 0 for the largest colour channel, 1 for the smallest
    wanted = (spread / most.clamp_min(1e-8) + saturation).clamp(0, 1)
    return (most + value).clamp(0, 1) * (1 - wanted * place)
