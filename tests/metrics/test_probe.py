"""Linear probe and kNN: separable data, noise, scikit-learn, and that nothing is chosen on the validation images."""

from __future__ import annotations

import time

import pytest
import torch

from svgbench.config.scoring import Probe
from svgbench.errors import BadData
from svgbench.metrics.neighbours import knn
from svgbench.metrics.probe import linear_probe, pool, probe_scores
from svgbench.metrics.protocol import ImageGroup

SETTINGS = Probe(epochs=10, batch=64)


def blobs(count: int, *, spread: float = 1.0, classes: int = 6, width: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    centres = 2 * torch.randn(classes, width, generator=torch.Generator().manual_seed(42))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, width, generator=generator), labels


def test_probe_comes_near_scikit_learns_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    (x, y), (vx, vy) = blobs(1500, spread=2.5), blobs(1000, spread=2.5, seed=1)
    expected = LogisticRegression(max_iter=500).fit(x.numpy(), y.numpy()).score(vx.numpy(), vy.numpy())
    result = linear_probe(x, y, vx, vy, SETTINGS)
    assert expected < 0.9
    assert result.top1.double().mean().item() == pytest.approx(expected, abs=0.02)
    assert (result.top5 | ~result.top1).all()


def test_probe_does_not_depend_on_the_scale_of_single_features():
    (x, y), (vx, vy) = blobs(600), blobs(300, seed=1)
    scale = torch.logspace(-4, 4, 10)
    plain, scaled = (linear_probe(a * s, y, b * s, vy, SETTINGS).top1.double().mean().item() for a, b, s in ((x, vx, 1.0), (x, vx, scale)))
    assert scaled == pytest.approx(plain, abs=0.02)


def test_labels_without_meaning_give_chance_and_no_more():
    (x, _), (vx, vy) = blobs(600), blobs(1200, seed=1)
    noise = torch.randint(6, (600,), generator=torch.Generator().manual_seed(3))
    assert linear_probe(x, noise, vx, vy, SETTINGS).top1.double().mean() < 0.35


def test_a_learning_rate_that_diverges_is_not_chosen():
    (x, y), (vx, vy) = blobs(600), blobs(300, seed=1)
    result = linear_probe(x, y, vx, vy, Probe(epochs=5, batch=64, learning_rates=(1e38, 0.1)))
    assert result.learning_rate == 0.1


def test_probe_is_the_same_again():
    (x, y), (vx, vy) = blobs(400, spread=3), blobs(200, spread=3, seed=1)
    first, second = (linear_probe(x, y, vx, vy, SETTINGS, seed=5) for _ in range(2))
    assert first.top1.equal(second.top1)


def test_knn_equals_scikit_learns_weighted_vote():
    import numpy as np
    from sklearn.neighbors import KNeighborsClassifier

    (x, y), (vx, vy) = blobs(500, spread=3), blobs(300, spread=3, seed=1)
    unit = torch.nn.functional.normalize

    def weights(distances):
        return np.exp(-(distances**2) / 2 / 0.07)

    oracle = KNeighborsClassifier(20, weights=weights).fit(unit(x).numpy(), y.numpy())
    expected = torch.from_numpy(oracle.predict(unit(vx).numpy()))
    found = knn(x, y, vx, vy, 20, block=77)
    assert (found == (expected == vy)).double().mean() > 0.995


def test_pooling_averages_positions():
    latents = torch.arange(16.0).view(1, 2, 2, 4)
    assert pool(latents).tolist() == [[3.5, 11.5]]


def test_scores_are_percent_with_intervals_and_separate_protocols():
    (x, y), (vx, vy) = blobs(600, spread=3), blobs(400, spread=3, seed=1)
    groups = {
        "train_images": ImageGroup(name="train", count=600, digest="ab" * 32),
        "val_images": ImageGroup(name="val", count=400, digest="ef" * 32),
    }
    scores = probe_scores(x, y, vx, vy, settings=SETTINGS, latents="both", **groups)
    assert [s.metric for s in scores] == ["probe_top1", "probe_top5", "knn_top1"]
    top1 = scores[0]
    p = top1.value / 100
    assert (top1.high - top1.low) / 2 == pytest.approx(196 * (p * (1 - p) / 400) ** 0.5, rel=0.4)
    assert top1.detail["latents"] == "both" and top1.detail["learning_rate"] in SETTINGS.learning_rates
    other = probe_scores(x, y, vx, vy, settings=SETTINGS.model_copy(update={"epochs": 3}), latents="both", **groups)
    assert other[0].protocol != top1.protocol and other[2].protocol == scores[2].protocol


def test_five_learning_rates_on_ten_thousand_vectors_take_seconds():
    (x, y), (vx, vy) = blobs(10_000, width=104), blobs(2000, width=104, seed=1)
    start = time.process_time()
    linear_probe(x, y, vx, vy, Probe(epochs=5))
    assert time.process_time() - start < 10


def test_vectors_without_labels_are_refused():
    (x, y), (vx, vy) = blobs(30), blobs(30, seed=1)
    with pytest.raises(BadData, match="labels"):
        linear_probe(x, y[:-1], vx, vy, SETTINGS)
    with pytest.raises(BadData, match="do not fit"):
        knn(x, y, vx[:, :3], vy)
    with pytest.raises(BadData, match="3 training images"):
        linear_probe(x[:2], y[:2], vx, vy, SETTINGS)
