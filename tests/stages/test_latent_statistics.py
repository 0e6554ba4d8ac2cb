"""Statistics are exact under any number of processes, and belong to one autoencoder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from artifacts import SmallRun
from safetensors.torch import load_file
from toys import in_ranks

from svgbench.errors import BrokenArtifact
from svgbench.machine.runtime import Runtime
from svgbench.stages import statistics
from svgbench.stages.statistics import open_statistics

RUNTIME = Runtime(device="cpu", quiet=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run with its statistics, taken in one process in blocks of 16 images."""
    run = SmallRun(tmp_path_factory.mktemp("small"))
    run.make("images")
    run.autoencoder()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(statistics, "BLOCK", 16)
        run.make("statistics")
    return run


def test_statistics_are_the_moments_of_the_latents_that_were_kept(small):
    kept = torch.from_numpy(np.load(small.places["statistics"] / "latents.train.npy")).double()
    found = load_file(small.places["statistics"] / "statistics.safetensors")
    deviation, mean = torch.std_mean(kept, (0, 2, 3), correction=0)
    assert kept.shape == (70, 104, 4, 4)
    torch.testing.assert_close(found["mean"], mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found["std"], deviation, rtol=1e-11, atol=0)


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_gives_the_same_statistics(small, tmp_path, monkeypatch, world):
    """70 images in blocks of 16 are 5 blocks, so no two ranks have equal shares; bit for bit, as blocks are added in the images' order."""
    monkeypatch.setattr(statistics, "BLOCK", 16)
    one, many = load_file(small.places["statistics"] / "statistics.safetensors"), tmp_path / "statistics"
    many.mkdir()
    monkeypatch.setitem(small.places, "statistics", many)
    assert in_ranks(world, lambda: small.make("statistics")) == [0] * world
    two = load_file(many / "statistics.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in ("mean", "std"))


def test_kept_latents_are_the_same_bits_under_three_processes(small, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "BLOCK", 16)
    one, many = small.places["statistics"], tmp_path / "statistics"
    many.mkdir()
    monkeypatch.setitem(small.places, "statistics", many)
    assert in_ranks(3, lambda: small.make("statistics")) == [0] * 3
    for split in ("train", "val"):
        assert (np.load(many / f"latents.{split}.npy") == np.load(one / f"latents.{split}.npy")).all()


def test_statistics_open_for_their_own_autoencoder(small):
    stats = open_statistics(small.places["statistics"], small.places["autoencoder"], 104, RUNTIME)
    assert stats.mean.shape == (104,) and stats.mean.dtype == torch.float64
    assert json.loads((small.places["statistics"] / "statistics.json").read_text())["encoder"] == "mae-tiny"


def test_statistics_of_another_encoder_or_of_other_weights_are_refused(small, tmp_path):
    other = SmallRun(tmp_path / "dinov2", "encoder.card=dinov2")
    with pytest.raises(BrokenArtifact, match="statistics of 'mae-tiny', the latents are of 'dinov2-tiny'"):
        open_statistics(small.places["statistics"], other.autoencoder(), 104, RUNTIME)
    retrained = SmallRun(tmp_path / "mae")
    with pytest.raises(BrokenArtifact, match="statistics of 'mae-tiny' with other weights"):
        open_statistics(small.places["statistics"], retrained.autoencoder(seed=1), 104, RUNTIME)


def test_statistics_of_other_channels_are_refused(small):
    with pytest.raises(BrokenArtifact, match="statistics of 104 channels, the latents have 96"):
        open_statistics(small.places["statistics"], small.places["autoencoder"], 96, RUNTIME)
