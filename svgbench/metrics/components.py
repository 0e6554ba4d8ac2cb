"""Principal components of vectors as colours, to visualise feature maps.

Protocol: vectors are centred, not scaled; each component's sign makes its largest weight positive; a colour is a component's score between
the 1st and the 99th percentile of all vectors. Limit: it does not show the variance beyond three components (``shares`` states how much
they explain).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Components(NamedTuple):
    """The first principal components of a set of vectors."""

    scores: Tensor
    """[N, count]: the coordinates of each vector; zero for components beyond the dimension of the vectors."""
    shares: list[float]
    """Share of the variance explained by each component; zeros when nothing varies."""


def components(vectors: Tensor, count: int = 3) -> Components:
    """The first ``count`` principal components of vectors [N, D] float64, from the eigenvectors of their covariance."""
    centred = vectors - vectors.mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred)
    values, axes = values.flip(0)[:count].clamp(min=0), axes.flip(1)[:, :count]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    scores, total = centred @ (axes * largest.sign()), centred.square().sum()
    missing = count - scores.shape[1]
    shares = (values / total).tolist() if total > 0 else [0.0] * len(values)
    return Components(torch.nn.functional.pad(scores, (0, missing)), shares + [0.0] * missing)


def coloured(scores: Tensor) -> Tensor:
    """Colours uint8 [N, 3] of scores [N, 3]; a component that does not vary gets the middle value."""
    low, high = torch.quantile(scores, 0.01, dim=0), torch.quantile(scores, 0.99, dim=0)
    width = high - low
    placed = torch.where(width > 0, (scores - low) / width.where(width > 0, torch.ones_like(width)), torch.full_like(scores, 0.5))
    return (placed.clamp(0, 1) * 255).round().to(torch.uint8)
