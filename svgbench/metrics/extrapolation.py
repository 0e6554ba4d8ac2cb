"""The Frechet distance at infinitely many samples: the value at 1/N = 0 of a line over 1/N fitted to the distances of subsets of samples.

Protocol (Chong & Forsyth 2020, arXiv 1911.07023; mchong6/FID_IS_infinity, ``score_infinity.py``): 15 subsets at regular intervals from a
tenth of the samples to all of them, least squares in float64. Subsets are nested, in one fixed pseudo-random order, so one pass computes
all sums; the authors shuffle for each subset, which costs eight times as many sums and has more variance (a standard deviation of 0.26
instead of 0.21 on 60 sets of 1,000 Gaussian vectors of dimension 32). The reference is not extrapolated. Subsets have at least twice as
many images as the features have dimensions, because the bias is not linear in 1/N when a covariance is singular or nearly so; with fewer
than four times as many samples there is no score. The interval bootstraps the images and repeats the full fit on at most 20 resamples. Cost
of a fit on one CPU thread for 50,000 Inception features: 15 s of sums and 15 distances of 2 s each, so about 15 minutes with the interval.
Limits: it does not remove a bias of higher order, and does not detect memorised samples. It may be below 0 when both distributions are
equal.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from svgbench.machine.runtime import Runtime
from svgbench.machine.shares import shared
from svgbench.metrics.frechet import Gaussian, Moments, factor, frechet_distance
from svgbench.metrics.resampling import Resampling

POINTS = 15
"""Number of subsets, as in the authors' code."""
SHARE = 10
"""The smallest subset has the number of samples divided by this, but at least ``WIDTHS`` times the features' width."""
WIDTHS = 2
"""The smallest subset has at least this many times the features' width."""
RESAMPLES = 20
"""Largest number of resamples for the interval; each needs ``POINTS`` distances."""


def subset_sizes(images: int, width: int) -> list[int]:
    """Sizes of the subsets in ascending order, the last with all images; empty when there are too few images for features of this width."""
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


def frechet_at_infinity(
    features: Tensor, reference: Gaussian, resampling: Resampling, runtime: Runtime | None = None
) -> tuple[float, Tensor] | None:
    """The distance of features [N, D] to a fixed reference at infinitely many samples, and in each resample [R]; None when there are too
    few images (``subset_sizes``). The ranks of a runtime share the fits."""
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
    fits = [torch.from_numpy(order).to(features.device), *resampling.draws(len(features), features.device)[:RESAMPLES]]
    first, replicates = shared(len(fits), lambda number: line(fits[number]), runtime, width=len(sizes)).split([1, len(fits) - 1])
    return at_infinity(sizes, first[0].clone()).item(), at_infinity(sizes, replicates.clone())
