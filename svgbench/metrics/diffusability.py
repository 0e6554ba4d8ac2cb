"""Figures of a latent space from its latents alone: spectra, kurtosis, class share, spatial similarity, frequencies.

Protocol: latents are standardised by channel, as SiT's input is by default. All sums are float64 and kept apart for ``GROUPS`` random
groups of images, each with the same share of every class. Intervals are value ± 2.262 standard errors of the delete-a-group jackknife
(Efron & Tibshirani 1993, section 11.5; 2.262 is Student's t with 9 degrees of freedom): a figure is computed again without each group.
Limits: they describe these images, not others of the set, and no training.

- Effective rank: exp of the entropy of the normalised eigenvalues (Roy & Vetterli 2007). Participation ratio: (sum of eigenvalues)^2 / sum
  of squares. Condition number: largest / smallest eigenvalue that is not zero. All of the covariance of tokens over images and
  positions.
- Excess kurtosis: fourth central moment / squared variance - 3, the mean over channels.
- Class share: omega squared (``metrics.diagnosis``) of whole latents.
- LDS and CDS (iREPA, arXiv 2512.10794, appendix B): cosines of an image's tokens by their distance on the grid.
- Energy by frequency: orthonormal DCT-II of each channel over the grid; bands of u + v (arXiv 2606.03578, equations 7 to 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from svgbench.errors import BadData

GROUPS = 10
"""Number of groups of images of the jackknife."""
STUDENT = 2.2621571628540993
"""97.5 % quantile of Student's t with ``GROUPS`` - 1 degrees of freedom."""
HIGH = 0.5
"""Share of the largest u + v above which a frequency is high."""
ROUNDED = 1e-10
"""An eigenvalue below this share of the largest one is rounding of float32 latents and counts as zero: features after a layer norm have
such a direction."""


class Jackknifed(NamedTuple):
    """A figure and its interval."""

    value: float
    low: float
    high: float


def groups_of(labels: Tensor) -> Tensor:
    """The group of each image [N] int64, 0 to ``GROUPS`` - 1, for labels [N]: random, with the same share of each class in every group."""
    count = len(labels)
    order = torch.from_numpy(np.random.Generator(np.random.Philox(key=[count, GROUPS])).permutation(count))
    order = order[labels[order].argsort(stable=True)]
    groups = torch.empty(count, dtype=torch.int64)
    groups[order] = torch.arange(count) % GROUPS
    return groups


def jackknifed(statistic: Callable[[Tensor], float]) -> Jackknifed:
    """A figure with its interval. ``statistic``: the figure of the groups that a mask [GROUPS] float64 of ones and zeros keeps."""
    kept = torch.ones(GROUPS, dtype=torch.float64)
    value = statistic(kept)
    without = torch.tensor([statistic(kept - row) for row in torch.eye(GROUPS, dtype=torch.float64)], dtype=torch.float64)
    half = STUDENT * math.sqrt((GROUPS - 1) / GROUPS * (without - without.mean()).square().sum().item())
    return Jackknifed(value, value - half, value + half)


def mean_of(values: Tensor, groups: Tensor) -> Jackknifed:
    """The mean of values [N], one for each image, whose groups are [N]."""
    sums = torch.zeros(2, GROUPS, dtype=torch.float64).index_add_(
        1, groups, torch.stack([values.double(), torch.ones(len(values)).double()])
    )
    return jackknifed(lambda kept: ((sums[0] @ kept) / (sums[1] @ kept)).item())


def check_latents(latents: Tensor) -> None:
    """Raises BadData for latents [N, C, h, w] that are empty or not finite."""
    if latents.ndim != 4 or not latents.numel():
        raise BadData(f"latents have the shape {list(latents.shape)}; give [N, C, h, w] with one image or more.")
    good = latents.flatten(1).isfinite().all(1)
    if not bool(good.all()):
        raise BadData(
            f"{int((~good).sum())} of {len(good)} latents hold NaN or infinity, the first is {int((~good).nonzero()[0])}; encode again."
        )


class LatentSums:
    """Sums over standardised latents [N, C, h, w], apart for each group of images, float64. Latents are added class by class."""

    def __init__(self, channels: int, grid: tuple[int, int], *, whole: bool) -> None:
        """``whole``: also sum the outer products of whole latents, [C h w, C h w] for each group."""
        size, positions = channels * grid[0] * grid[1], grid[0] * grid[1]
        self.grid, self.channels, self.classes = grid, channels, 0
        self.images = _zeros()
        self.powers = _zeros(4, channels)
        """Sums of the first four powers of each channel, over images and positions."""
        self.tokens = _zeros(channels, channels)
        """Outer products of tokens."""
        self.positions = _zeros(positions, positions)
        """Products of the numbers at two positions, over images and channels."""
        self.cosines = _zeros(positions, positions)
        """Cosines of the tokens at two positions, over images."""
        self.latents = _zeros(size)
        self.squares = _zeros()
        self.outer = _zeros(size, size) if whole else None
        self.between = torch.zeros(1 + GROUPS, dtype=torch.float64)
        """Sum over classes of |sum of its latents|^2 / number of its images; of all groups, then without each group."""
        self.seen = torch.zeros(1 + GROUPS, dtype=torch.float64)
        """Number of classes with an image."""

    def add(self, latents: Tensor, groups: Tensor) -> None:
        """Adds all latents [n, C, h, w] float64 of one class, whose groups are [n]."""
        check_latents(latents)
        tokens = latents.flatten(2)  # [n, C, S]
        unit = tokens / tokens.norm(dim=1, keepdim=True).clamp_min(1e-300)
        sums, counts = _zeros(self.latents.shape[1]), _zeros()
        for group in groups.unique().tolist():
            mine = groups == group
            part, directions = tokens[mine], unit[mine]
            wide = part.transpose(0, 1).flatten(1)  # [C, n S]
            tall = part.flatten(0, 1)  # [n C, S]
            flat = part.flatten(1)
            self.powers[group] += torch.stack([wide.pow(power).sum(1) for power in (1, 2, 3, 4)])
            self.tokens[group] += wide @ wide.T
            self.positions[group] += tall.T @ tall
            self.cosines[group] += directions.flatten(0, 1).T @ directions.flatten(0, 1)
            self.squares[group] += flat.square().sum()
            sums[group], counts[group] = flat.sum(0), len(flat)
            if self.outer is not None:
                self.outer[group] += flat.T @ flat
        self.images += counts
        self.latents += sums
        self.classes += 1
        whole = (sums.sum(0), counts.sum())
        for place, (total, number) in enumerate([whole, *((whole[0] - sums[g], whole[1] - counts[g]) for g in range(GROUPS))]):
            if number > 0:
                self.between[place] += total.square().sum() / number
                self.seen[place] += 1

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.images.sum())

    def channel_spectrum(self, kept: Tensor) -> Tensor:
        """Eigenvalues [C], ascending, of the covariance of tokens over the images of the groups kept [GROUPS]."""
        tokens = (self.images @ kept) * self.grid[0] * self.grid[1]
        mean = torch.einsum("gc,g->c", self.powers[:, 0], kept) / tokens
        return spectrum(torch.einsum("gcd,g->cd", self.tokens, kept) / tokens - torch.outer(mean, mean))

    def whole_spectrum(self, kept: Tensor) -> Tensor:
        """Eigenvalues [C h w], ascending, of the covariance of whole latents over the images of the groups kept [GROUPS]."""
        if self.outer is None:
            raise BadData("the covariance of whole latents was not summed; create the sums with whole=True.")
        images = self.images @ kept
        mean = kept @ self.latents / images
        return spectrum((torch.einsum("gij,g->ij", self.outer, kept) - torch.outer(mean, mean) * images) / (images - 1))

    def kurtosis(self, kept: Tensor) -> float:
        """Mean excess kurtosis of the channels over the images of the groups kept [GROUPS]; 0 for a Gaussian."""
        tokens = (self.images @ kept) * self.grid[0] * self.grid[1]
        m1, m2, m3, m4 = torch.einsum("gpc,g->pc", self.powers, kept) / tokens
        variance = m2 - m1**2
        if not bool((variance > 0).all()):
            raise BadData(f"channel {int((variance <= 0).nonzero()[0])} is constant and has no kurtosis; leave it out.")
        return ((m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4) / variance**2 - 3).mean().item()

    def class_share(self, kept: Tensor) -> float:
        """Omega squared of whole latents over all groups, or all but one (kept [GROUPS])."""
        place = 0 if bool(kept.all()) else 1 + int((kept == 0).nonzero()[0, 0])
        images, classes, between = self.images @ kept, self.seen[place], self.between[place]
        if classes < 2 or images <= classes:
            raise BadData(
                f"{int(images)} images of {int(classes)} class(es) have no class share; give two classes or more, several images each."
            )
        squares, centre = self.squares @ kept, (kept @ self.latents).square().sum() / images
        within = (squares - between) / (images - classes)
        return ((between - centre - (classes - 1) * within) / (squares - centre + within)).item()

    def similarity(self, kept: Tensor) -> Tensor:
        """Mean cosine of tokens by their Manhattan distance 0, 1, ... on the grid, [h + w - 1], over the groups kept [GROUPS]."""
        mean = torch.einsum("gst,g->st", self.cosines, kept) / (self.images @ kept)
        rows, columns = torch.meshgrid(*(torch.arange(side) for side in self.grid), indexing="ij")
        places = torch.stack([rows.flatten(), columns.flatten()], 1)
        distances = (places[:, None] - places[None]).abs().sum(2).flatten()
        sums = torch.zeros(sum(self.grid) - 1, dtype=torch.float64).index_add_(0, distances, mean.flatten())
        return sums / distances.bincount(minlength=len(sums))

    def pairs(self) -> Tensor:
        """Number of ordered pairs of positions at each Manhattan distance, [h + w - 1]."""
        rows, columns = torch.meshgrid(*(torch.arange(side) for side in self.grid), indexing="ij")
        places = torch.stack([rows.flatten(), columns.flatten()], 1)
        return (places[:, None] - places[None]).abs().sum(2).flatten().bincount()

    def local_contrast(self, kept: Tensor) -> float:
        """LDS: mean cosine of tokens closer than half of the grid's side minus that of the others, over the groups kept [GROUPS]."""
        radius = self.grid[0] / 2
        values, pairs, distances = self.similarity(kept), self.pairs().double(), torch.arange(sum(self.grid) - 1)
        near, far = (distances > 0) & (distances < radius), distances >= radius
        if min(self.grid) < 3:
            raise BadData(f"a grid of {self.grid[0]} x {self.grid[1]} has no near and distant positions; 3 x 3 is the smallest.")
        return (_weighted(values, pairs * near) - _weighted(values, pairs * far)).item()

    def decay(self, kept: Tensor) -> float:
        """CDS: fall of the mean cosine with each step of distance, by least squares over distances from 1, over the groups kept
        [GROUPS]."""
        if min(self.grid) < 3:
            raise BadData(f"a grid of {self.grid[0]} x {self.grid[1]} has too few distances; 3 x 3 is the smallest.")
        values = self.similarity(kept)[1:]
        return -slope(torch.arange(1, len(values) + 1).double(), values)

    def bands(self, kept: Tensor) -> Tensor:
        """Mean energy of a DCT coefficient of the bands u + v = 0, 1, ..., [h + w - 1], over the groups kept [GROUPS]."""
        energy, band = self._energies(kept)
        return torch.zeros(sum(self.grid) - 1, dtype=torch.float64).index_add_(0, band, energy) / band.bincount()

    def high_frequency(self, kept: Tensor) -> float:
        """Share of the energy in bands above ``HIGH`` of the highest, over the groups kept [GROUPS]."""
        energy, band = self._energies(kept)
        if min(self.grid) < 3:
            raise BadData(f"a grid of {self.grid[0]} x {self.grid[1]} has too few frequencies; 3 x 3 is the smallest.")
        return (energy[band > HIGH * (sum(self.grid) - 2)].sum() / energy.sum()).item()

    def spectral_slope(self, kept: Tensor) -> float:
        """Slope of the logarithm of a band's mean energy against that of u + v, by least squares over bands from 1, over the groups kept
        [GROUPS]; 0 for white noise."""
        values = self.bands(kept)[1:]
        if min(self.grid) < 3 or not bool((values > 0).all()):
            raise BadData(f"a grid of {self.grid[0]} x {self.grid[1]} without energy in every band has no slope; 3 x 3 is the smallest.")
        return slope(torch.arange(1, len(values) + 1).double().log(), values.log())

    def _energies(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Mean energy of each DCT coefficient [h w], and its band u + v [h w]."""
        basis = torch.kron(dct(self.grid[0]), dct(self.grid[1]))
        mean = torch.einsum("gst,g->st", self.positions, kept) / (self.images @ kept) / self.channels
        rows, columns = torch.meshgrid(*(torch.arange(side) for side in self.grid), indexing="ij")
        return torch.einsum("us,st,ut->u", basis, mean, basis), (rows + columns).flatten()


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(GROUPS, *shape, dtype=torch.float64)


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum()


def spectrum(covariance: Tensor) -> Tensor:
    """Eigenvalues [D] of a covariance [D, D], ascending, not below zero."""
    return torch.linalg.eigvalsh((covariance + covariance.T) / 2).clamp_min(0)


def effective_rank(values: Tensor) -> float:
    """exp of the entropy of eigenvalues [D] divided by their sum: 1 to D."""
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item()


def participation_ratio(values: Tensor) -> float:
    """(sum of eigenvalues [D])^2 / sum of their squares: 1 to D."""
    return (values.sum().square() / values.square().sum()).item()


def condition_number(values: Tensor) -> float:
    """Largest / smallest of the ascending eigenvalues [D], without those that are zero (``ROUNDED``)."""
    return (values[-1] / values[values > ROUNDED * values[-1]][0]).item()


def slope(x: Tensor, y: Tensor) -> float:
    """Slope of the least-squares line of y [K] against x [K]."""
    centred = x - x.mean()
    return ((centred @ y) / centred.square().sum()).item()


def dct(side: int) -> Tensor:
    """The orthonormal DCT-II [side, side] float64; row u is the basis function of frequency u."""
    place = torch.arange(side, dtype=torch.float64)
    rows = torch.cos(math.pi / side * (place[None] + 0.5) * place[:, None]) * math.sqrt(2 / side)
    rows[0] /= math.sqrt(2)
    return rows
