"""Linear probe, kNN, logistic regression: separable data, noise, scikit-learn, blocks and mapped files, labels that cannot be."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from svgbench.config.scoring import Probe
from svgbench.errors import BadData, NumericalError
from svgbench.machine import arrays
from svgbench.metrics import logistic, probe, vectors
from svgbench.metrics.logistic import logistic_regression
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
    assert [s.metric for s in scores] == ["probe_top1", "probe_top5", "knn_top1", "logreg_top1"]
    top1 = scores[0]
    p = top1.value / 100
    assert (top1.high - top1.low) / 2 == pytest.approx(196 * (p * (1 - p) / 400) ** 0.5, rel=0.4)
    assert top1.detail["latents"] == "both" and top1.detail["learning_rate"] in SETTINGS.learning_rates
    other = probe_scores(x, y, vx, vy, settings=SETTINGS.model_copy(update={"epochs": 3}), latents="both", **groups)
    assert other[0].protocol != top1.protocol and other[2:] == scores[2:]
    rounded = probe_scores(x, y, vx, vy, settings=SETTINGS.model_copy(update={"precision": "bf16"}), latents="both", **groups)
    assert all(a.protocol != b.protocol for a, b in zip(rounded, scores, strict=True))


def test_five_learning_rates_on_ten_thousand_vectors_take_seconds():
    (x, y), (vx, vy) = blobs(10_000, width=104), blobs(2000, width=104, seed=1)
    start = time.process_time()
    linear_probe(x, y, vx, vy, Probe(epochs=5))
    assert time.process_time() - start < 10


def test_blocks_and_mapped_files_change_no_bit(tmp_path, monkeypatch):
    """The columns of a file mapped from disk, read a few rows at a time, against tensors in memory."""
    (x, y), (vx, vy) = blobs(500, spread=3, width=14), blobs(300, spread=3, width=14, seed=1)
    whole = linear_probe(x[:, 2:9].clone(), y, vx[:, 2:9].clone(), vy, SETTINGS)
    near = knn(x[:, 2:9].clone(), y, vx[:, 2:9].clone(), vy, 20)
    np.save(tmp_path / "train.npy", x.numpy())
    mapped = arrays.open_mapped(tmp_path / "train.npy", (500, 14), np.float32)[:, 2:9]
    monkeypatch.setattr(vectors, "BLOCK", 64)
    monkeypatch.setattr(probe, "SCORED", 37)
    again = linear_probe(mapped, y, vx[:, 2:9], vy, SETTINGS)
    assert again.top1.equal(whole.top1) and again.top5.equal(whole.top5) and again.learning_rate == whole.learning_rate
    assert knn(mapped, y, vx[:, 2:9], vy, 20, block=77, train_block=64).equal(near)


def test_moments_in_blocks_are_those_of_the_rows(monkeypatch):
    x = 1000 + torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    rows = torch.randperm(400, generator=torch.Generator().manual_seed(1))[:300]
    monkeypatch.setattr(vectors, "BLOCK", 32)
    found = vectors.moments(x, rows, x.device)
    deviation, mean = torch.std_mean(x[rows].double(), 0)
    torch.testing.assert_close(found.mean, mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(found.deviation, deviation, rtol=1e-12, atol=0)


@pytest.mark.parametrize("c", [1e-3, 0.1, 10.0])
def test_logistic_regression_equals_scikit_learns(c, monkeypatch):
    """Coefficients, intercepts and every prediction, of data whose classes overlap; in blocks and without keeping the inputs."""
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setattr(logistic, "HELD", 600)
    (x, y), (vx, _) = blobs(1200, spread=3), blobs(700, spread=3, seed=1)
    standard = vectors.moments(x, torch.arange(len(x)), x.device)
    found = logistic.fit(x, y, torch.arange(len(x)), c, standard=standard)
    oracle = LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(standard(x).double().numpy(), y.numpy())
    assert found.gradient <= logistic.GRADIENT
    assert np.abs(found.weight.T.numpy() - oracle.coef_).max() < 2e-4 * np.abs(oracle.coef_).max()
    assert np.abs(found.bias.numpy() - oracle.intercept_).max() < 2e-3
    assert (found.predict(vx).numpy() == oracle.predict(standard(vx).double().numpy())).all()


def test_logistic_regression_knows_only_the_classes_it_has_seen():
    (x, y), (vx, vy) = blobs(400), blobs(200, seed=1)
    seen = y != 2
    result = logistic_regression(x[seen], y[seen], vx, vy, (0.1, 1.0), classes=6)
    assert not result.top1[vy == 2].any() and result.top1[vy != 2].double().mean() > 0.9


def test_logistic_regression_chooses_its_c_on_the_held_out_tenth():
    """Of data with far more columns than meaning the loose fit is worse, and validation labels, here turned round, do not decide."""
    (x, y), (vx, vy) = blobs(600, spread=9, width=80), blobs(500, spread=9, width=80, seed=1)
    result = logistic_regression(x, y, vx, vy, (1e3, 1e-2))
    turned = logistic_regression(x, y, vx, (vy + 1) % 6, (1e3, 1e-2))
    assert result.c == turned.c == 1e-2
    loose = logistic_regression(x, y, vx, vy, (1e3,))
    assert result.top1.double().mean() > loose.top1.double().mean() + 0.03


def test_a_start_near_by_only_shortens_the_way():
    x, y = blobs(600, spread=3)
    everything = torch.arange(600)
    standard = vectors.moments(x, everything, x.device)
    cold = logistic.fit(x, y, everything, 1.0, standard=standard)
    warm = logistic.fit(x, y, everything, 1.0, standard=standard, start=logistic.fit(x, y, everything, 0.5, standard=standard))
    assert warm.iterations < cold.iterations
    torch.testing.assert_close(warm.weight, cold.weight, rtol=0, atol=1e-3)


def test_a_probe_whose_every_head_diverges_says_so():
    (x, y), (vx, vy) = blobs(600), blobs(300, seed=1)
    with pytest.raises(NumericalError, match="diverged at every learning rate"):
        linear_probe(x, y, vx, vy, Probe(epochs=5, batch=64, learning_rates=(1e38,)))


PROBES = {
    "linear": lambda *sets, **more: linear_probe(*sets, SETTINGS, **more),
    "knn": lambda *sets, **more: knn(*sets, **more),
    "logreg": lambda *sets, **more: logistic_regression(*sets, (0.1,), **more),
}


@pytest.mark.parametrize("name", PROBES)
def test_labels_and_latents_that_cannot_be_are_named(name):
    (x, y), (vx, vy) = blobs(60), blobs(30, seed=1)
    measure = PROBES[name]

    def changed(values, place, value):
        values = values.clone()
        values[place] = value
        return values

    with pytest.raises(BadData, match="training image 7 has label 6, there are 6 classes"):
        measure(x, changed(y, 7, 6), vx, vy, classes=6)
    with pytest.raises(BadData, match="validation image 3 has label -1"):
        measure(x, y, vx, changed(vy, 3, -1), classes=6)
    with pytest.raises(BadData, match="all 60 training images are of class 2"):
        measure(x, torch.full_like(y, 2), vx, vy, classes=6)
    with pytest.raises(BadData, match="5 training images cannot represent 6 classes"):
        measure(x[:5], torch.arange(5), vx, vy, classes=6)
    with pytest.raises(BadData, match="latents of training image 11 are not finite"):
        measure(changed(x, 11, torch.nan), y, vx, vy, classes=6)
    with pytest.raises(BadData, match="latents of validation image 4 are not finite"):
        measure(x, y, changed(vx, (4, 2), torch.inf), vy, classes=6)


def test_more_neighbours_than_training_images_are_refused():
    (x, y), (vx, vy) = blobs(30), blobs(30, seed=1)
    with pytest.raises(BadData, match="40 neighbours cannot be found among 30 training images"):
        knn(x, y, vx, vy, 40)


def test_vectors_without_labels_are_refused():
    (x, y), (vx, vy) = blobs(30), blobs(30, seed=1)
    with pytest.raises(BadData, match="labels"):
        linear_probe(x, y[:-1], vx, vy, SETTINGS)
    with pytest.raises(BadData, match="do not fit"):
        knn(x, y, vx[:, :3], vy)
    with pytest.raises(BadData, match="3 training images"):
        linear_probe(x[:2], y[:2], vx, vy, SETTINGS)
