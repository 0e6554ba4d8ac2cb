"""The head of dense prediction on frozen latents: batch norm and a 1x1 convolution (DINOv3's linear protocol)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.nets import draws

EPSILON, MOMENTUM = 1e-5, 0.1
"""Epsilon and momentum of the batch norm, torch's defaults."""


class BatchMoments(NamedTuple):
    """Moments of the channels over images and positions: [C] each."""

    mean: Tensor
    variance: Tensor
    """Divided by n; used to normalise."""
    n: Tensor
    """Number of values per channel, a scalar."""


class DenseHead(nn.Module):
    """Latents [B, C, h, w] -> outputs [B, K, h, w]. In training, latents are normalised by moments of the GLOBAL batch, which the caller
    sums over micro-batches and ranks (latents are frozen, so no gradient flows through them); at evaluation by their running averages."""

    mean: Tensor
    """Running average [C]."""
    variance: Tensor
    """Running average [C]."""

    def __init__(self, channels: int, outputs: int, *, seed: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        index = torch.zeros(1, dtype=torch.int64)
        drawn = draws.normal(draws.stream(seed, "dense/head"), index, (outputs, channels, 1, 1))[0]
        self.weight = nn.Parameter(0.01 * drawn)
        self.bias = nn.Parameter(torch.zeros(outputs))

    @staticmethod
    @torch.no_grad()
    def sums(latents: Tensor) -> Tensor:
        """[1 + 2 C] float64: count, sums and squares, which add up over micro-batches and ranks."""
        flat = latents.detach().transpose(0, 1).flatten(1).double()
        count = flat.new_full((1,), flat.shape[1])
        return torch.cat([count, flat.sum(1), flat.square().sum(1)])

    @staticmethod
    def moments(sums: Tensor) -> BatchMoments:
        """The batch's mean [C] and variance [C] (over n) from its sums [1 + 2 C]."""
        count, (total, squares) = sums[0], sums[1:].chunk(2)
        mean = total / count
        return BatchMoments(mean, (squares / count - mean.square()).clamp_min(0), count)

    @torch.no_grad()
    def follow(self, moments: BatchMoments) -> None:
        """Updates the running averages with a batch's moments; the variance is divided by n - 1, as in batch norm."""
        unbiased = moments.variance * moments.n / (moments.n - 1).clamp_min(1)
        self.mean.lerp_(moments.mean.float(), MOMENTUM)
        self.variance.lerp_(unbiased.float(), MOMENTUM)

    def forward(self, latents: Tensor, moments: BatchMoments | None = None) -> Tensor:
        """``moments``: in training, those of the batch."""
        mean, variance = (self.mean, self.variance) if moments is None else (moments.mean.float(), moments.variance.float())
        scale = self.scale * (variance + EPSILON).rsqrt()
        return F.conv2d(latents * scale[:, None, None] + (self.shift - mean * scale)[:, None, None], self.weight, self.bias)


def dropped(latents: Tensor, positions: Tensor, share: float, seed: int) -> Tensor:
    """Latents [B, C, h, w] in which a ``share`` of each image's channels is set to zero and the rest scaled up; the draw depends on
    positions [B]."""
    if not share or not len(latents):  # a rank may have no image
        return latents
    keep = draws.chance(draws.stream(seed, "dense/dropout"), positions, (latents.shape[1], 1, 1), 1 - share)
    return latents * keep.to(latents.device) / (1 - share)
