"""Memorised samples: exact nearest distances, a set with a known number of copies, and the control."""

from __future__ import annotations

import pytest
import torch

from svgbench.errors import BadData
from svgbench.metrics.memorisation import close_share, nearest, threshold_of
from svgbench.metrics.resampling import Resampling

RESAMPLING = Resampling(resamples=20, seed=0)


def normal(count: int, seed: int, width: int = 8) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_nearest_distances_are_those_of_all_pairs():
    points, others = normal(70, 0) + 1000, normal(90, 1) + 1000  # far from the origin, where float32 products lose digits
    pairs = (points.double()[:, None] - others.double()).norm(dim=2)
    torch.testing.assert_close(nearest(points, others, block=32), pairs.amin(1), rtol=1e-5, atol=0)
    own = (others.double()[:, None] - others.double()).norm(dim=2).fill_diagonal_(torch.inf)
    torch.testing.assert_close(nearest(others, others, same=True, block=32), own.amin(1), rtol=1e-5, atol=0)


def test_a_copy_has_distance_zero_and_an_only_image_no_neighbour():
    training = normal(50, 0) * 100
    assert nearest(training[7:9], training).tolist() == [0.0, 0.0]
    with pytest.raises(BadData, match="1 training images have no nearest neighbours"):
        nearest(training[:1], training[:1], same=True)


def test_the_threshold_is_the_quantile_of_known_gaps():
    places = torch.cumsum(torch.arange(1.0, 42.0), 0)[:, None]  # gaps 2, 3, ..., so nearest distances 2, 2, 3, ..., 41
    assert threshold_of(places) == pytest.approx(3.0)  # the third of 41: 5 % of 40


def test_copies_are_counted_and_other_images_are_the_control():
    training = normal(1000, 0)
    threshold = threshold_of(training)
    far = normal(70, 1) + 100
    copied = close_share(torch.cat([training[:30], far]), training, threshold, RESAMPLING)
    assert (copied.value, copied.count) == (pytest.approx(0.3), 100) and copied.low < 0.3 < copied.high
    control = close_share(normal(2000, 2), training, threshold, RESAMPLING)
    assert 0.03 < control.value < 0.07
