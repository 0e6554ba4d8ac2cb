"""What an explanation measures with networks, against closed forms: the model's one-step error, noised latents, distances."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from svgbench.machine.runtime import Runtime
from svgbench.metrics.frechet import Gaussian
from svgbench.metrics.memorisation import QUANTILE
from svgbench.metrics.protocol import ImageGroup
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import Resampling
from svgbench.nets.latents import LatentStats
from svgbench.stages.explanation import KINDS, TIMES, _distance, _features, _memorised, one_step_errors

RESAMPLING = Resampling(resamples=5, seed=0)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(mean: float, deviation: float, kept: torch.Tensor | None = None, name: str = "train") -> Reference:
    gaussian = Gaussian(torch.full((4,), mean, dtype=torch.float64), deviation**2 * torch.eye(4, dtype=torch.float64))
    return Reference(group=ImageGroup(name=name, count=300, digest="ab" * 32), gaussian=gaussian, kept=kept)


def test_a_velocity_that_is_wrong_by_a_constant_has_that_error_times_the_remaining_time():
    data, noise, wrong = normal(5, 3, 2, 2), normal(5, 3, 2, 2, seed=1), torch.tensor([0.5, 0.0, -2.0])

    def model(x, t, labels):
        assert labels.tolist() == [0, 1, 2, 3, 4] and len(set(t.tolist())) == 1
        return data - noise + wrong[:, None, None]

    found = one_step_errors(model, data, torch.arange(5), noise)
    expected = torch.outer(1 - torch.tensor(TIMES, dtype=torch.float64), wrong.abs().double())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_best_model_of_gaussian_data_has_the_deviation_of_the_posterior():
    deviation = torch.tensor([0.5, 2.0])
    data, noise = normal(4000, 2, 2, 2) * deviation[:, None, None], normal(4000, 2, 2, 2, seed=1)

    def model(x, t, labels):
        t, square = t[:, None, None, None], deviation.square()[:, None, None]
        return (t * square / (t**2 * square + (1 - t) ** 2) * x - x) / (1 - t)

    found = one_step_errors(model, data, torch.zeros(4000, dtype=torch.int64), noise, (0.8,))
    expected = deviation * 0.2 / (0.64 * deviation.square() + 0.04).sqrt()
    torch.testing.assert_close(found[0].float(), expected, rtol=0.02, atol=0)


def test_a_distance_is_that_of_the_gaussians():
    raw = normal(400, 4).double()
    centred = raw - raw.mean(0)
    features = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T @ centred / 399)).T  # mean 0, covariance 1
    found = _distance(features, reference(2.0, 3.0), RESAMPLING)
    assert found["value"] == pytest.approx(4 * 2.0**2 + 4 * (3.0 - 1.0) ** 2) and found["count"] == 400
    assert found["low"] < found["value"] < found["high"]


def test_latents_are_noised_by_the_error_of_their_channel_and_only_in_their_level(tmp_path):
    pixels = torch.full((40, 3, 8, 8), 128, dtype=torch.uint8)
    decoded = (pixels - 50).numpy()
    np.save(tmp_path / "reconstructions.npy", decoded)
    tokenizer = SimpleNamespace(encode=lambda images: images, decode=lambda raw: raw.clamp(0, 1))
    stats = LatentStats(torch.full((3,), 0.25, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64))

    class PixelExtractor:
        name, dim = "pixels", 192

        def __call__(self, images):
            return SimpleNamespace(features=images.flatten(1).float())

    val, places = SimpleNamespace(batch=lambda where: pixels[where]), torch.arange(40)
    size = torch.tensor([0.0, 0.05, 0.2])
    runtime = Runtime(device="cpu", quiet=True)
    found = _features(val, places, tokenizer, stats, size, PixelExtractor(), tmp_path, tmp_path, runtime)
    assert found.shape == (40, len(KINDS), 192)
    real, decoder, noised = found.unflatten(2, (3, 64)).unbind(1)
    assert (real == 128).all() and (decoder == 78).all() and (noised[:, 0] == 128).all()
    spread = (noised - 128).square().mean((0, 2)).sqrt() / 255
    torch.testing.assert_close(spread[1:], 0.5 * size[1:], rtol=0.05, atol=0.002)


def test_memorised_samples_need_training_images_that_differ():
    training, val = normal(300, 4), normal(200, 4, seed=1)
    found = _memorised(training[:40], val, reference(0.0, 1.0, training), RESAMPLING)
    assert found["samples"]["value"] == 1.0 and 0.01 < found["validation"]["value"] < 0.1 and found["quantile"] == QUANTILE
    assert (found["searched"], found["training"]) == (300, 300)
    assert "not its training images" in _memorised(None, val, reference(0.0, 1.0, training, "images"), RESAMPLING)["reason"]
    assert "have a copy among the others" in _memorised(val, val, reference(0.0, 1.0, training[:30].repeat(2, 1)), RESAMPLING)["reason"]
