"""Augmented views for pretraining: crops, flips, brightness and contrast, each a function of an image's position in the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from svgbench.nets import draws


def view(
    images: Tensor, positions: Tensor, *, stream: int, size: int, area: tuple[float, float], light: float, mirror: bool = True
) -> Tensor:
    """One random view [B, 3, size, size] of images [B, 3, H, W] in [0, 1].

    A crop with a share of the image's area between ``area[0]`` and ``area[1]`` and an aspect of 3/4 to 4/3, flipped with probability 1/2
    (never with ``mirror`` False, because captions have left and right). Then contrast, brightness and an offset of each colour channel
    change, each by at most ``light``. Hue does not change, because the palette is part of the class.
    """
    u = draws.uniform(stream, positions, (12,))
    share = area[0] + (area[1] - area[0]) * u[:, 0]
    aspect = torch.exp((2 * u[:, 1] - 1) * 0.2877)  # ln(4/3)
    half_w, half_h = (share * aspect).sqrt().clamp(max=1), (share / aspect).sqrt().clamp(max=1)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = half_w * torch.where(u[:, 2] < 0.5, -1.0, 1.0) if mirror else half_w
    theta[:, 1, 1] = half_h
    theta[:, 0, 2], theta[:, 1, 2] = (2 * u[:, 3] - 1) * (1 - half_w), (2 * u[:, 4] - 1) * (1 - half_h)
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    seen = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    contrast = 1 + (2 * u[:, 5] - 1) * light
    tint = (2 * u[:, 6:9] - 1) * light * 0.3 + (2 * u[:, 9:10] - 1) * light * 0.5
    mean = seen.mean((1, 2, 3), keepdim=True)
    return ((seen - mean) * contrast[:, None, None, None] + mean + tint[:, :, None, None]).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Colours:
    """How the colours of a view change; shares are of views."""

    exchanged: float = 1.0
    """Share whose chroma comes from another image of the batch, so that it tells nothing about the image."""
    grey: float = 0.2
    saturation: float = 0.5
    """Largest relative change of the chroma's length. Its hue always turns by a random angle."""
    light: float = 0.4
    """Largest relative change of contrast; brightness changes by half of it."""
    blurred: float = 0.2
    solarised: float = 0.1


_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def recoloured(images: Tensor, positions: Tensor, *, stream: int, colours: Colours) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] with other colours, blurred or solarised, as DINO's views are; the light and dark of an image stays."""
    count, device = len(images), images.device
    u = draws.uniform(draws.stream(stream, "colours"), positions, (9,))
    to_yiq = torch.tensor(_TO_YIQ, device=device)
    planes = torch.einsum("ij,bjhw->bihw", to_yiq, images)
    if count > 1:
        partner = (torch.arange(count, device=device) + 1 + (u[:, 0] * (count - 1)).long()) % count
        exchanged = (u[:, 1] < colours.exchanged)[:, None, None, None]
        planes = torch.cat([planes[:, :1], torch.where(exchanged, planes[partner, 1:], planes[:, 1:])], 1)
    angle = 2 * math.pi * u[:, 2]
    length = torch.where(u[:, 3] < colours.grey, 0.0, 1 + (2 * u[:, 4] - 1) * colours.saturation)
    turn = torch.zeros(count, 3, 3, device=device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = length * angle.cos()
    turn[:, 2, 1] = length * angle.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    seen = torch.bmm(torch.linalg.inv(to_yiq) @ turn, planes.flatten(2)).view_as(images)
    mean = seen.mean((1, 2, 3), keepdim=True)
    contrast, shift = (1 + (2 * u[:, 5] - 1) * colours.light), (2 * u[:, 6] - 1) * colours.light / 2
    seen = ((seen - mean) * contrast[:, None, None, None] + mean + shift[:, None, None, None]).clamp(0, 1)
    soft = (u[:, 7] < colours.blurred).nonzero()[:, 0]
    seen = seen.index_copy(0, soft, _blurred(seen[soft]))
    return torch.where((u[:, 8] < colours.solarised)[:, None, None, None] & (seen > 0.6), 1 - seen, seen)


def _blurred(images: Tensor) -> Tensor:
    """Two passes of a 3 x 3 mean, which is nearly a Gaussian with a deviation of 1.2 pixels."""
    for _ in range(2):
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images
