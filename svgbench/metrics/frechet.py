"""Frechet distance between two sets of images: the squared 2-Wasserstein distance of two Gaussians fitted to their features.

    d = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))    (arXiv 1706.08500)

Protocol: features of an extractor that the protocol names ("FID" means Inception's, as in published numbers; the distance on another
extractor's features is a different measure and is never in the same column). gFID: all samples against all training images, as in ADM's
evaluation, or against the statistics of a file; rFID: reconstructions of the validation images against the same images; sFID (arXiv
2103.03841) as in ADM: on the first 7 channels of the 17 x 17 output of TensorFlow's ``mixed_6/conv`` (after its ReLU;
``Mixed_6d.branch1x1`` in PyTorch's names), flattened with channels last (2023 dimensions). Sums are float64; covariances are unbiased (N -
1); tr (S_1 S_2)^(1/2) is the sum of the square roots of the eigenvalues of the symmetric F' S_1 F with F F' = S_2, which needs no matrix
square root. Limits: it does not detect memorised samples, does not show which images are bad, and ignores what the extractor does not
encode. It falls with the number of images (bias of order 1/N), so only equal counts are comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from svgbench.errors import BadData, BadInput, NumericalError
from svgbench.machine.runtime import Runtime
from svgbench.machine.shares import shared
from svgbench.metrics.npz import SPATIAL, STATISTICS, statistics_in


class Gaussian(NamedTuple):
    """Mean and covariance of the features of a set of images."""

    mean: Tensor
    """[D] float64"""
    covariance: Tensor
    """[D, D] float64"""


@dataclass
class Moments:
    """Count, mean [D] and scatter [D, D] (sum of outer products of deviations) of features, float64, in one pass.

    Parts merge by Chan's update, so any split over batches or ranks gives the same sums up to rounding.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> Moments:
        """Moments of no images."""
        return cls(0, torch.zeros(width, dtype=torch.float64, device=device), torch.zeros(width, width, dtype=torch.float64, device=device))

    def add(self, features: Tensor) -> Moments:
        """Adds features [B, D]; returns itself."""
        if not len(features):
            return self
        features = features.to(self.mean.device, torch.float64)
        mean = features.mean(0)
        centred = features - mean
        return self.merge(Moments(len(features), mean, centred.T @ centred))

    def merge(self, other: Moments) -> Moments:
        """Adds another part; returns itself."""
        total = self.count + other.count
        if not total:
            return self
        shift = other.mean - self.mean
        self.scatter += other.scatter + torch.outer(shift, shift) * (self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total
        return self

    def over_ranks(self, runtime: Runtime) -> Moments:
        """The moments of all ranks together, bit-equal on each rank."""
        if runtime.world == 1:
            return self
        total = int(runtime.all_reduce_(torch.tensor([self.count], dtype=torch.int64, device=self.mean.device)).item())
        mean = runtime.all_reduce_(self.mean * self.count) / max(1, total)
        shift = self.mean - mean
        return Moments(total, mean, runtime.all_reduce_(self.scatter + torch.outer(shift, shift) * self.count))

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance."""
        if self.count < 2:
            raise BadData(f"a covariance needs two images or more, there are {self.count}; give more images.")
        return Gaussian(self.mean, self.scatter / (self.count - 1))


def factor(covariance: Tensor) -> Tensor:
    """F [D, D] with F F' = covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


def frechet_distance(first: Gaussian, second: Gaussian, factor_of_second: Tensor | None = None) -> float:
    """The squared distance of two Gaussians, not below 0; symmetric. ``factor_of_second``: its ``factor``, if already computed."""
    if first.mean.shape != second.mean.shape:
        raise BadInput(f"features of width {len(first.mean)} and {len(second.mean)} are not comparable; use one extractor for both sets.")
    if not all(part.isfinite().all() for part in (*first, *second)):
        raise NumericalError("features hold NaN or infinity; a Frechet distance needs finite ones, so check the images or the extractor.")
    root = factor(second.covariance) if factor_of_second is None else factor_of_second
    product = root.T @ first.covariance @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    difference = first.mean - second.mean
    return max(0.0, (difference @ difference + first.covariance.trace() + second.covariance.trace() - 2 * overlap).item())


def resampled(features: Tensor, counts: Tensor) -> Gaussian:
    """The Gaussian of features [N, D] (float64) in which image i occurs ``counts[i]`` times [N]."""
    chosen = counts > 0
    rows, times = features[chosen], counts[chosen]
    total = times.sum()
    mean = times @ rows / total
    centred = (rows - mean) * times.sqrt()[:, None]
    return Gaussian(mean, centred.T @ centred / (total - 1))


def frechet_replicates(features: Tensor, reference: Gaussian, counts: Tensor, runtime: Runtime | None = None) -> Tensor:
    """The distance to a fixed reference in each resample of the samples' features [N, D]: [R] from counts [R, N]. The ranks of a runtime
    share the resamples, here and below."""
    rows, root = features.double(), factor(reference.covariance)
    return shared(len(counts), lambda r: frechet_distance(resampled(rows, counts[r]), reference, root), runtime)[:, 0]


def paired_replicates(features: Tensor, originals: Tensor, counts: Tensor, runtime: Runtime | None = None) -> Tensor:
    """The distance between images [N, D] and their originals [N, D] when each resample draws pairs: [R] from counts [R, N]."""
    rows, partners = features.double(), originals.double()
    return shared(len(counts), lambda r: frechet_distance(resampled(rows, counts[r]), resampled(partners, counts[r])), runtime)[:, 0]


def jackknife_error(groups: Sequence[Moments], reference: Gaussian, runtime: Runtime | None = None) -> float:
    """Jackknife standard error of the distance between the union of G disjoint random groups and a fixed reference, leaving out one group
    at a time.

    se^2 = (G - 1) / G sum_g (d_(g) - mean d)^2 (Efron & Tibshirani 1993, section 11.5). Each d_(g) has the same bias of order 1/N, which
    cancels in the sum. It needs only moments, so no features are kept.
    """
    root = factor(reference.covariance)

    def without(left_out: int) -> float:
        rest = united([group for place, group in enumerate(groups) if place != left_out])
        return frechet_distance(rest.gaussian(), reference, root)

    values = shared(len(groups), without, runtime)[:, 0]
    return float(((values - values.mean()) ** 2).sum() * (len(groups) - 1) / len(groups)) ** 0.5


def united(groups: Sequence[Moments]) -> Moments:
    """Moments of the union of several parts."""
    whole = Moments.empty(len(groups[0].mean), groups[0].mean.device)
    for group in groups:
        whole.merge(group)
    return whole


def read_statistics(path: Path) -> tuple[Gaussian, Gaussian | None]:
    """The Gaussian in an ADM evaluator's ``.npz`` (``mu`` [D], ``sigma`` [D, D]), and that of its spatial features, if it has them."""
    arrays = statistics_in(path)
    pairs = [Gaussian(*(torch.from_numpy(arrays[name]) for name in pair)) for pair in (STATISTICS, SPATIAL) if set(pair) <= arrays.keys()]
    return pairs[0], pairs[1] if len(pairs) > 1 else None
