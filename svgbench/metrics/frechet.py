"""Frechet distance between two sets of images: each set's features as one Gaussian, the squared 2-Wasserstein distance of the two.

    d = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))    (arXiv 1706.08500)

Protocol: features of an extractor that the name carries ("FID" means Inception's, on which published numbers rest; the distance on any
other extractor's features is another measure and never stands beside them). gFID: all samples against all training images, as ADM
evaluates; rFID: reconstructions of the validation images against those same images. Sums are float64; covariances are unbiased (N -
1); tr (S_1 S_2)^(1/2) is the sum of the square roots of the eigenvalues of the symmetric F' S_1 F with F F' = S_2, which needs no
matrix square root. What it cannot tell: memorised samples, which images are bad, or anything the extractor does not see; it falls with
the number of images (bias of order 1/N), so only equal counts compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from svgbench.errors import BadData, BadInput, NumericalError


class Gaussian(NamedTuple):
    """What the distance sees of a set of images."""

    mean: Tensor
    """[D] float64"""
    covariance: Tensor
    """[D, D] float64"""


@dataclass
class Moments:
    """Count, mean [D] and scatter [D, D] (sum of outer products of deviations) of features, float64, in one pass.

    Parts merge by Chan's update, so that any split over batches or ranks gives the same sums to rounding.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> Moments:
        """Moments of no images."""
        return cls(0, torch.zeros(width, dtype=torch.float64, device=device), torch.zeros(width, width, dtype=torch.float64, device=device))

    def add(self, features: Tensor) -> Moments:
        """Count in features [B, D]; gives itself."""
        if not len(features):
            return self
        features = features.to(self.mean.device, torch.float64)
        mean = features.mean(0)
        centred = features - mean
        return self.merge(Moments(len(features), mean, centred.T @ centred))

    def merge(self, other: Moments) -> Moments:
        """Count in another part; gives itself."""
        total = self.count + other.count
        if not total:
            return self
        shift = other.mean - self.mean
        self.scatter += other.scatter + torch.outer(shift, shift) * (self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total
        return self

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance."""
        if self.count < 2:
            raise BadData(f"a covariance needs two images or more, there are {self.count}; give more images.")
        return Gaussian(self.mean, self.scatter / (self.count - 1))


def factor(covariance: Tensor) -> Tensor:
    """F [D, D] with F F' = covariance, also where that is singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


def frechet_distance(first: Gaussian, second: Gaussian, factor_of_second: Tensor | None = None) -> float:
    """The squared distance of two Gaussians, not below 0; symmetric. ``factor_of_second`` spares its decomposition where it is known."""
    if first.mean.shape != second.mean.shape:
        raise BadInput(f"features of width {len(first.mean)} and {len(second.mean)} do not compare; use one extractor for both sets.")
    if not all(part.isfinite().all() for part in (*first, *second)):
        raise NumericalError("features hold NaN or infinity; a Frechet distance needs finite ones, so look at the images or the extractor.")
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


def frechet_replicates(features: Tensor, reference: Gaussian, counts: Tensor) -> Tensor:
    """The distance to a fixed reference in each resample of the samples' features [N, D]: [R] of counts [R, N]."""
    rows, root = features.double(), factor(reference.covariance)
    return torch.tensor([frechet_distance(resampled(rows, row), reference, root) for row in counts], dtype=torch.float64)


def paired_replicates(features: Tensor, originals: Tensor, counts: Tensor) -> Tensor:
    """The distance between images [N, D] and their originals [N, D] where each resample draws pairs: [R] of counts [R, N]."""
    rows, partners = features.double(), originals.double()
    return torch.tensor([frechet_distance(resampled(rows, row), resampled(partners, row)) for row in counts], dtype=torch.float64)


def read_statistics(path: Path) -> Gaussian:
    """The Gaussian in an ADM evaluator's ``.npz`` (``mu`` [D], ``sigma`` [D, D])."""
    try:
        with np.load(path, allow_pickle=False) as content:
            mean, covariance = (np.asarray(content[name], dtype=np.float64) for name in ("mu", "sigma"))
    except FileNotFoundError:
        raise BadData(f"{path} does not exist.") from None
    except KeyError as error:
        raise BadData(f"{path}: has no array {error}; reference statistics need 'mu' and 'sigma'.") from None
    except (ValueError, OSError, EOFError) as error:
        raise BadData(f"{path}: cannot be read as arrays without pickles ({str(error).splitlines()[0]}); fetch it again.") from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise BadData(f"{path}: mu {mean.shape} and sigma {covariance.shape} do not fit; they must be [D] and [D, D].")
    return Gaussian(torch.from_numpy(mean), torch.from_numpy(covariance))
