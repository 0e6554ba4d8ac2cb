"""Another alignment on trained weights, and another standardisation of measured statistics: new latents, and nothing trained again."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from artifacts import SmallRun
from safetensors.torch import load_file

from svgbench.errors import BadConfig, BrokenArtifact
from svgbench.images.store import open_images
from svgbench.machine.runtime import Runtime
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import open_tokenizer, to_floats

RUNTIME = Runtime(device="cpu", quiet=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An autoencoder without alignment, the same with ``whiten`` in its place, and statistics of one scale for all channels."""
    run = SmallRun(tmp_path_factory.mktemp("small"), "latents.align=whiten", "latents.standardise=scalar")
    run.make("images")
    run.autoencoder()
    run.make("realignment")
    run.trained, run.places["autoencoder"] = run.places["autoencoder"], run.places["realignment"]
    run.make("statistics")
    run.make("standardisation")
    return run


def test_the_replaced_alignment_whitens_the_training_images_residuals_and_the_decoder_gets_what_it_was_trained_on(small):
    collection = open_images(small.places["images"])
    images = to_floats(collection.train.batch(torch.arange(70)), torch.device("cpu"))
    trained, replaced = (open_tokenizer(place, RUNTIME) for place in (small.trained, small.places["realignment"]))
    raw = replaced.encode(images)
    residual = raw[:, replaced.feature_channels :].double().transpose(0, 1).flatten(1)
    features = trained.features(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.cov(residual), torch.eye(8).double() * features.std(1).mean().double() ** 2, rtol=0, atol=2e-2)
    torch.testing.assert_close(replaced.decode(raw), trained.decode(trained.encode(images)), rtol=0, atol=2e-4)
    weights = [load_file(place / "autoencoder.safetensors") for place in (small.trained, small.places["realignment"])]
    assert set(weights[1]) - set(weights[0]) == {"replacement.weight", "replacement.bias"}
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items() if "alignment" not in name)


def test_statistics_belong_to_the_replaced_latents(small):
    channels = 104
    kept = torch.from_numpy(np.load(small.places["statistics"] / "latents.train.npy"))
    replaced = open_tokenizer(small.places["realignment"], RUNTIME)
    images = to_floats(open_images(small.places["images"]).train.batch(torch.arange(70)), torch.device("cpu"))
    assert torch.equal(kept, replaced.encode(images))
    with pytest.raises(BrokenArtifact, match="statistics of 'mae-tiny' with other weights"):
        open_statistics(small.places["statistics"], small.trained, channels, RUNTIME)


def test_another_standardisation_is_made_of_the_measured_moments_and_keeps_the_latents(small):
    measured, made = small.places["statistics"], small.places["standardisation"]
    raw = torch.from_numpy(np.load(measured / "latents.train.npy")).double()
    stats = open_statistics(made, small.places["realignment"], 104, RUNTIME)
    torch.testing.assert_close(stats.mean, raw.mean().expand(104), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(stats.std, raw.std(correction=0).expand(104), rtol=1e-9, atol=0)
    assert os.path.samefile(made / "latents.val.npy", measured / "latents.val.npy")
    assert json.loads((made / "statistics.json").read_text())["images"] == 70


def test_what_was_trained_with_batch_statistics_is_decoded_with_those_of_the_training_images(tmp_path):
    """``batch`` and ``frozen`` train alike; a decoder needs one map, and this is the one that ``frozen`` fixes."""
    run = SmallRun(tmp_path, "autoencoder.align=batch", "latents.align=none")
    run.make("images")
    run.autoencoder()
    tokenizer = open_tokenizer(run.make("realignment"), RUNTIME)
    images = to_floats(open_images(run.places["images"]).train.batch(torch.arange(70)), torch.device("cpu"))
    raw = tokenizer.encode(images)
    assert torch.equal(raw[:, tokenizer.feature_channels :], tokenizer.residual(images))
    decoded = tokenizer._as_trained(raw).transpose(0, 1).flatten(1)
    deviation = decoded.std(1)
    features, residual = deviation.split([tokenizer.feature_channels, 8])
    assert residual.mean().item() == pytest.approx(features.mean().item(), rel=1e-3)


def test_an_autoencoder_without_a_residual_has_no_alignment_to_replace(tmp_path):
    """A released one, whose configuration does not say so."""
    run = SmallRun(tmp_path, "autoencoder.residual.channels=0")
    run.make("images")
    run.autoencoder()
    run.slices["realignment"] = {"latents": {"align": "whiten"}}
    with pytest.raises(BadConfig, match=r"latents\.align whiten: the autoencoder has no residual whose alignment could be replaced"):
        run.make("realignment")
