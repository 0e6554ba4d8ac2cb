"""Principal components against scikit-learn's, and their colours."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA

from svgbench.metrics.components import coloured, components

VECTORS = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([5.0, 3, 2, 1, 1, 1]) + 7


def test_scores_and_shares_are_scikit_learn_s():
    found, other = components(VECTORS), PCA(3, svd_solver="full").fit(VECTORS.numpy())
    assert np.allclose(found.shares, other.explained_variance_ratio_)
    assert np.allclose(found.scores.abs(), np.abs(other.transform(VECTORS.numpy())))


def test_a_component_s_sign_does_not_hang_on_the_decomposition():
    along = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None] * torch.tensor([[0.1, -3.0]], dtype=torch.float64)
    scores = components(along).scores
    assert (scores[:, 0].diff() < 0).all() and (scores[:, 2] == 0).all()  # the largest weight, the second number's, is positive


def test_vectors_that_do_not_vary_are_grey_and_hold_no_share():
    found = components(torch.ones(4, 5, dtype=torch.float64))
    assert found.shares == [0.0, 0.0, 0.0] and (coloured(found.scores) == 128).all()


def test_colours_reach_from_the_lowest_to_the_highest_score():
    colours = coloured(components(VECTORS).scores)
    assert colours.dtype == torch.uint8 and colours.amin(0).tolist() == [0, 0, 0] and colours.amax(0).tolist() == [255, 255, 255]
