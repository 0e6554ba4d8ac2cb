"""Closed formulas for the cost of scoring without the networks: fitting heads, distances of features, bootstrap resamples. No torch.

Operations are counted as in ``flops`` and given as float32 operations. Two corrections give realistic times: float64 counts twice, and
memory-bound products count as if they had ``THIN`` columns. Measured on one thread of a 2-core CPU: 10.6 s for the probes of the tiny
preset (three groups of latents) and 3.1 s for its segmentation.
"""

from __future__ import annotations

from typing import NamedTuple

from svgbench.config.scoring import Probe, Segmentation

DOUBLE = 2.0
"""Number of float32 operations that take as long as one float64 operation."""
EIGENVALUES = 10.0
"""Operations for the eigenvalues of a symmetric matrix [D, D], divided by D ** 3."""
THIN = 32
"""A matrix product with fewer columns is limited by reading its other factor."""
UPDATE_SECONDS = 4e-4
"""Seconds to launch the small operations of one update of a linear head."""
EVALUATIONS = 150
"""Evaluations of the objective in one fit of logistic regression, unless fewer are configured."""
PIXEL = 300.0
"""Operations per pixel and class of a segmentation loss: softmax and its gradient are limited by memory."""
KERNEL_IMAGES = 5_000
"""Largest number of images per set in a kernel distance (``metrics.generation``)."""
GROUPS = 10
"""Groups of the jackknife of spatial features (``metrics.features``)."""
SSIM = 2 * 2.0 * 11 * 2 * 5 * 3
"""Operations per pixel of SSIM in two pixel ranges: two passes of an 11 px window over five maps with three colours each."""
SUBSETS, SUBSET_RESAMPLES = 15, 20
"""Number of Frechet distances for the line fit over 1/N, and its largest number of resamples (``metrics.extrapolation``)."""


class Fit(NamedTuple):
    """The cost of a fit."""

    operations: float = 0.0
    """Float32 operations."""
    updates: float = 0.0
    """Updates that each take at least ``UPDATE_SECONDS``."""


def moments(images: int, width: int) -> float:
    """Mean and covariance of features [images, width]."""
    return DOUBLE * 2 * images * width**2


def frechet(images: int, width: int, resamples: int, *, paired: bool = False) -> float:
    """A Frechet distance and its bootstrap; ``paired``: each resample draws the reference's images too."""
    one = moments(images, width) + DOUBLE * (4 + EIGENVALUES) * width**3
    if paired:
        one += moments(images, width) + DOUBLE * EIGENVALUES * width**3
    return (1 + resamples) * one


def extrapolated(images: int, width: int, resamples: int) -> float:
    """The Frechet distance at infinitely many samples and its bootstrap: the sums of all subsets need one pass over the images."""
    one = moments(images, width) + SUBSETS * frechet(0, width, 0)
    return (1 + min(resamples, SUBSET_RESAMPLES)) * one if images >= 4 * width else 0.0


def jackknife(width: int) -> float:
    """The Frechet distance of spatial features, with all groups and without each group."""
    return (1 + GROUPS) * DOUBLE * (4 + EIGENVALUES) * width**3


def kernel(samples: int, reference: int, width: int, resamples: int) -> float:
    """A kernel distance and its bootstrap."""
    n, m = min(samples, KERNEL_IMAGES), min(reference, KERNEL_IMAGES)
    return DOUBLE * (2 * width * (n * n + n * m + m * m) + 2 * (1 + resamples) * n * n)


def precision_recall(samples: int, reference: int, width: int) -> float:
    """Pairwise distances within and between the samples and at most as many reference images."""
    n, m = samples, min(samples, reference)
    return 2.0 * width * (n * n + m * m + 2 * n * m)


def probes(width: int, train: int, val: int, classes: int, settings: Probe) -> Fit:
    """Linear probe, nearest neighbours and logistic regression on vectors [train, width], scored on [val, width]."""
    fitted = train - train // 10
    batch = max(1, min(settings.batch, fitted))
    updates = settings.epochs * (fitted // batch)
    linear = 4.0 * width * max(classes * len(settings.learning_rates), THIN) * updates * batch
    neighbours = 2.0 * width * train * val
    evaluations = min(settings.logreg_iterations, EVALUATIONS) * (len(settings.logreg_c) + 1)
    regression = DOUBLE * 4 * width * max(classes, THIN) * train * evaluations
    return Fit(linear + neighbours + regression, updates + evaluations)


def segmentation(width: int, grid: int, side: int, train: int, classes: int, settings: Segmentation) -> Fit:
    """A linear head on latents [train, width, grid, grid] with masks of ``side`` px."""
    batch = max(1, min(settings.batch, train))
    updates = settings.epochs * (train // batch)
    image = 4.0 * width * classes * grid**2 + PIXEL * classes * side**2
    return Fit(image * updates * batch, updates)
