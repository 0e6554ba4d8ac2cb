"""Memorised samples: how many are closer to a training image than training images are to each other.

Protocol: Euclidean distances of an extractor's features. The threshold is the 5 % quantile of the distance from a training image to the
nearest other one. The score is the share of samples whose nearest training image is closer than that. Images that were not trained on give
the control: about 5 % of them are as close, because their distances are distributed like those of the training images among themselves.
Limits: it sees only what the features encode, so a close sample need not be a copy; of more training images than are kept, it searches the
kept ones, and the share is then a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svgbench.errors import BadData
from svgbench.metrics.features import full_precision
from svgbench.metrics.resampling import Resampling

QUANTILE = 0.05
"""The quantile of the training images' own distances that a memorised sample is below."""
CANDIDATES = 4
"""Number of neighbours found in float32 whose distances are computed again in float64, so that a copy has the distance 0."""


@dataclass(frozen=True)
class CloseShare:
    """The share of a set of images that is closer to a training image than the threshold, with its interval."""

    value: float
    low: float | None
    high: float | None
    count: int


@torch.no_grad()
def nearest(points: Tensor, others: Tensor, *, same: bool = False, block: int = 1024) -> Tensor:
    """Distance [N] float64 of each point [N, D] to the nearest of ``others`` [M, D]. ``same``: both are one set, in which a point is not
    its own neighbour."""
    if len(others) < 1 + same:
        raise BadData(f"{len(others)} training images have no nearest neighbours; give more.")
    centre = others.mean(0)
    points, others = points - centre, others - centre
    squares, found = others.square().sum(1), []
    with full_precision():
        for start in range(0, len(points), block):
            part = points[start : start + block]
            apart = squares - 2 * part @ others.T
            if same:
                rows = torch.arange(len(part), device=part.device)
                apart[rows, rows + start] = torch.inf
            close = apart.topk(min(CANDIDATES, len(others) - same), largest=False).indices
            found.append((part[:, None].double() - others[close].double()).norm(dim=2).amin(1))
    return torch.cat(found)


def threshold_of(training: Tensor) -> float:
    """The distance that ``QUANTILE`` of the training images [M, D] are below, each to the nearest other one."""
    own = nearest(training, training, same=True).sort().values
    place = QUANTILE * (len(own) - 1)
    return torch.lerp(own[int(place)], own[min(int(place) + 1, len(own) - 1)], place - int(place)).item()


def close_share(points: Tensor, training: Tensor, threshold: float, resampling: Resampling) -> CloseShare:
    """The share of points [N, D] whose nearest training image [M, D] is closer than the threshold."""
    close = (nearest(points, training) < threshold).double()
    low, high = resampling.of_mean(close, floor=0.0, ceiling=1.0)
    return CloseShare(close.mean().item(), low, high, len(points))
