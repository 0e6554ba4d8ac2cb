"""The exact velocity of flow matching for data from a mixture of Gaussians: a toy example without learning. NumPy only.

Data x_1 of component k have the distribution N(m_k, s^2 I), noise x_0 has N(0, I), and x_t = (1 - t) x_0 + t x_1. Then x_t of component k
has N(t m_k, c I) with c = (1 - t)^2 + t^2 s^2, and the velocity E[x_1 - x_0 | x_t = x] is the mean, weighted by each component's posterior
probability, of

    m_k + (t s^2 - (1 - t)) / c * (x - t m_k).

The velocity given a class is the same mean over only the components of that class.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """Equally likely components with the same standard deviation."""

    centres: np.ndarray
    """[K, D]"""
    deviation: float

    def _parts(self, x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray, float]:
        """For x [N, D]: offsets from each component's mean [N, K, D], log weights up to a constant [N, K], and the variance c."""
        variance = (1 - t) ** 2 + (t * self.deviation) ** 2
        offsets = x[:, None] - t * self.centres
        return offsets, -0.5 * np.square(offsets).sum(2) / variance, variance

    def velocity(self, x: np.ndarray, t: float) -> np.ndarray:
        """Velocity [N, D] at points x [N, D] and time t in [0, 1] (0 is noise)."""
        offsets, logs, variance = self._parts(x, t)
        weights = np.exp(logs - logs.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        each = self.centres + (t * self.deviation**2 - (1 - t)) / variance * offsets
        return np.einsum("nk,nkd->nd", weights, each)

    def log_density(self, x: np.ndarray, t: float) -> np.ndarray:
        """Log probability density [N] of x_t at points x [N, D]."""
        _, logs, variance = self._parts(x, t)
        top = logs.max(1)
        constant = np.log(len(self.centres)) + x.shape[1] / 2 * np.log(2 * np.pi * variance)
        return top + np.log(np.exp(logs - top[:, None]).sum(1)) - constant

    def path(self, noise: np.ndarray, steps: int) -> np.ndarray:
        """Euler's method from noise [N, D] with ``steps`` equal steps; returns every state, [steps + 1, N, D]."""
        states = [noise]
        for t, after in pairwise(np.linspace(0, 1, steps + 1)):
            states.append(states[-1] + (after - t) * self.velocity(states[-1], t))
        return np.stack(states)


def two_classes(entangled: bool, *, side: int = 4, spacing: float = 1.2, deviation: float = 0.15) -> tuple[Mixture, Mixture]:
    """Two classes on a grid of ``side`` by ``side`` centres, each with half of the centres: half planes (separated), or the colours of a
    chessboard (entangled). The union of the classes is the same in both cases."""
    line = spacing * (np.arange(side) - (side - 1) / 2)
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    places = np.stack([line[columns], line[rows]], 2).reshape(-1, 2)
    first = ((rows + columns) % 2 == 0) if entangled else (columns < side // 2)
    chosen = first.reshape(-1)
    return Mixture(places[chosen], deviation), Mixture(places[~chosen], deviation)
