"""The toy's closed forms against Monte Carlo, finite differences and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from svgbench.metrics.mixture import Mixture, two_classes

RANDOM = np.random.default_rng(0)
MIXTURE = Mixture(np.array([[1.0, 0.5], [-1.2, 0.3], [0.2, -1.5]]), 0.4)
POINTS = RANDOM.standard_normal((5, 2))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_velocity_is_the_posterior_mean_by_monte_carlo(t):
    """E[x_1 - x_0 | x_t = x] by weighing draws of x_1 with the likelihood of the noise that they leave."""
    data = MIXTURE.centres[RANDOM.integers(0, 3, 400_000)] + MIXTURE.deviation * RANDOM.standard_normal((400_000, 2))
    for x, velocity in zip(POINTS * (1 - t), MIXTURE.velocity(POINTS * (1 - t), t), strict=True):
        noise = (x - t * data) / (1 - t)
        weights = np.exp(-0.5 * np.square(noise).sum(1))
        assert np.allclose(velocity, (weights[:, None] * (data - noise)).sum(0) / weights.sum(), atol=0.06)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 1.0])
def test_the_velocity_follows_from_the_density_s_slope(t):
    """v = (x + (1 - t) d log p_t / dx) / t, the slope by central differences."""
    h = 1e-5
    slope = np.stack([(MIXTURE.log_density(POINTS + h * e, t) - MIXTURE.log_density(POINTS - h * e, t)) / (2 * h) for e in np.eye(2)], 1)
    assert np.allclose(MIXTURE.velocity(POINTS, t), (POINTS + (1 - t) * slope) / t, atol=1e-6)


def test_the_density_is_scipy_s():
    t, variance = 0.6, 0.4**2 + (0.6 * 0.4) ** 2
    densities = [multivariate_normal(t * centre, variance).pdf(POINTS) for centre in MIXTURE.centres]
    assert np.allclose(np.exp(MIXTURE.log_density(POINTS, t)), np.mean(densities, 0))


def test_paths_from_noise_end_as_the_data():
    ends = MIXTURE.path(RANDOM.standard_normal((4000, 2)), 300)[-1]
    nearest = np.linalg.norm(ends[:, None] - MIXTURE.centres, axis=2).argmin(1)
    assert np.allclose(np.bincount(nearest) / 4000, 1 / 3, atol=0.04)
    assert (ends - MIXTURE.centres[nearest]).std() == pytest.approx(0.4, abs=0.03)


def test_both_layouts_are_the_same_data_with_other_labels():
    entangled, separated = (np.concatenate([one.centres for one in two_classes(e)]) for e in (True, False))
    assert np.array_equal(*(np.array(sorted(map(tuple, places))) for places in (entangled, separated)))
    left, right = two_classes(False)
    assert left.centres[:, 0].max() < 0 < right.centres[:, 0].min() and len(left.centres) == len(right.centres) == 8
    assert all(np.allclose(one.centres.mean(0), 0) for one in two_classes(True))
