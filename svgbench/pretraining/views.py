"""Augmented views for pretraining: crops, flips, brightness and contrast, each a function of an image's position in the run."""

from __future__ import annotations

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
