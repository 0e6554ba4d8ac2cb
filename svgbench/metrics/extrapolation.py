"""The Frechet distance at infinitely many samples: distances of subsets of the samples, a line over 1/N, and its value at 0.

Protocol (Chong & Forsyth 2020, arXiv 1911.07023; mchong6/FID_IS_infinity, ``score_infinity.py``): 15 subsets at regular intervals from a
tenth of the samples to all of them, least squares in float64. Each subset holds the one before, in one fixed pseudo-random order, so that
all take one pass of sums; the authors shuffle anew for each, which costs eight times as much in sums and spreads the value more (on 60 sets
of 1,000 Gaussian vectors of 32 numbers a standard deviation of 0.26 in place of 0.21). The reference stays as it is: its own finite count
is not extrapolated. Subsets have at least twice as many images as the features have numbers, because the bias is no line over 1/N where a
covariance is singular or nearly so; of fewer than four times as many samples there is no such score. The interval bootstraps the images and
repeats the whole fit on at most 20 resamples. Cost of a fit on one CPU thread for 50,000 Inception features: 15 s of sums and 15 distances
of 2 s each, so about 15 minutes with the interval. What it cannot tell: a bias of higher order, and memorised samples. It may be below 0
where both distributions are one.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from svgbench.metrics.frechet import Gaussian, Moments, factor, frechet_distance
from svgbench.metrics.resampling import Resampling

POINTS = 15
"""Subsets of the samples, as the authors' code takes them."""
SHARE = 10
"""The smallest subset holds the samples' number over this, where that is ``WIDTHS`` times the features' width or more."""
WIDTHS = 2
"""Images of the smallest subset over the features' width."""
RESAMPLES = 20
"""Most resamples of the interval: each needs ``POINTS`` distances."""


def subset_sizes(images: int, width: int) -> list[int]:
    """Numbers of images of the subsets, rising to all; empty where there are too few images for features of this width."""
    smallest = max(-(-images // SHARE), WIDTHS * width)
    if images < 2 * smallest:
        return []
    return sorted({round(size) for size in np.linspace(smallest, images, POINTS).tolist()})


def at_infinity(sizes: list[int], distances: Tensor) -> Tensor:
    """The value at 0 of the least-squares line of distances [..., P] over 1/N of sizes [P]: float64 [...]."""
    x = 1 / torch.tensor(sizes, dtype=torch.float64)
    centred = x - x.mean()
    y = distances.double()
    slope = (y - y.mean(-1, keepdim=True)) @ centred / (centred @ centred)
    return y.mean(-1) - slope * x.mean()


def frechet_at_infinity(features: Tensor, reference: Gaussian, resampling: Resampling) -> tuple[float, Tensor] | None:
    """The distance of features [N, D] to a fixed reference at infinitely many samples, and the same in each resample [R]; None where there
    are too few images (``subset_sizes``)."""
    sizes = subset_sizes(*features.shape)
    if not sizes:
        return None
    root = factor(reference.covariance)

    def line(rows: Tensor) -> Tensor:
        moments, distances = Moments.empty(features.shape[1], features.device), []
        for start, end in itertools.pairwise([0, *sizes]):
            distances.append(frechet_distance(moments.add(features[rows[start:end]]).gaussian(), reference, root))
        return torch.tensor(distances, dtype=torch.float64)

    order = np.random.Generator(np.random.Philox(key=[len(features), POINTS])).permutation(len(features))
    value = at_infinity(sizes, line(torch.from_numpy(order).to(features.device))).item()
    replicates = [line(rows) for rows in resampling.draws(len(features), features.device)[:RESAMPLES]]
    return value, at_infinity(sizes, torch.stack(replicates)) if replicates else torch.zeros(0, dtype=torch.float64)
