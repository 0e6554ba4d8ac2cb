"""The class share: 0 without structure, the textbook's number with it, and an interval that holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svgbench.errors import BadData
from svgbench.metrics.diagnosis import class_share, class_share_score
from svgbench.metrics.protocol import ImageGroup
from svgbench.metrics.resampling import Resampling

LABELS = torch.arange(400) % 4


def vectors(apart: float, dims: int = 6, seed: int = 0) -> torch.Tensor:
    """Unit noise around class centres of deviation ``apart``, along each dimension."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, dims, generator=random)
    centres = (centres - centres.mean(0)) / centres.std(0)
    return apart * centres[LABELS] + torch.randn(len(LABELS), dims, generator=random)


def textbook(values: np.ndarray, labels: np.ndarray) -> float:
    classes, count = np.unique(labels), len(labels)
    between = sum((labels == c).sum() * ((values[labels == c].mean(0) - values.mean(0)) ** 2).sum() for c in classes)
    within = sum(((values[labels == c] - values[labels == c].mean(0)) ** 2).sum() for c in classes) / (count - len(classes))
    return (between - (len(classes) - 1) * within) / (((values - values.mean(0)) ** 2).sum() + within)


def test_vectors_without_classes_have_a_share_of_about_nothing():
    shares = [class_share(vectors(0.0, seed=seed), LABELS) for seed in range(20)]
    assert abs(np.mean(shares)) < 0.002 and max(map(abs, shares)) < 0.02


def test_the_share_is_the_textbook_s_and_does_not_hang_on_where_the_origin_is():
    values = vectors(1.5)
    assert class_share(values, LABELS) == pytest.approx(textbook(values.double().numpy(), LABELS.numpy()), rel=1e-9)
    assert class_share(values + 50, LABELS) == pytest.approx(class_share(values, LABELS), abs=1e-6)
    assert class_share(vectors(100.0), LABELS) > 0.999


def test_a_score_has_its_interval_count_and_protocol():
    images = ImageGroup(name="val", count=400, digest="ab" * 32)
    made = class_share_score(
        vectors(1.0), LABELS, what=("latents", "pooled"), images=images, resampling=Resampling(resamples=100), detail={"latents": "both"}
    )
    assert made.low < made.value < made.high < made.low + 0.2 and made.count == 400
    assert made.protocol.text == "omega-squared/val-400@abababab/latents/pooled/4classes/v1"
    assert "100 bootstrap resamples" in made.detail["interval"]


def test_one_class_or_one_image_of_each_has_no_share():
    with pytest.raises(BadData, match="1 classes"):
        class_share(vectors(1.0), torch.zeros(400, dtype=torch.int64))
    with pytest.raises(BadData, match="several images each"):
        class_share(vectors(1.0)[:4], LABELS[:4])
