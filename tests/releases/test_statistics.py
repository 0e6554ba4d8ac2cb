from __future__ import annotations

import pytest
import torch

from svgbench.errors import BadWeights, UnknownName
from svgbench.releases.statistics import read_statistics

MEAN, STD = torch.randn(12), torch.rand(12) + 0.5


@pytest.fixture
def saved(tmp_path):
    def save(**tensors):
        torch.save(tensors, tmp_path / "stats.pt")
        return tmp_path / "stats.pt"

    return save


def test_svgs_statistics_are_those_of_its_tokens(saved):
    stats = read_statistics(saved(dinov3_sp_mean=MEAN.view(1, 1, 12), dinov3_sp_std=STD.view(1, 1, 12)))
    assert torch.equal(stats.mean, MEAN.double()) and torch.equal(stats.std, STD.double())


def test_svgs_statistics_serve_its_features_without_the_residual(saved):
    path = saved(dinov3_sp_mean=MEAN.view(1, 1, 12), dinov3_sp_std=STD.view(1, 1, 12))
    assert torch.equal(read_statistics(path, channels=4).mean, MEAN[:4].double())


def test_lightningdits_statistics_are_those_of_its_channels(saved):
    stats = read_statistics(saved(mean=MEAN.view(1, 12, 1, 1), std=STD.view(1, 12, 1, 1)), kind="lightningdit", channels=12)
    assert torch.equal(stats.mean, MEAN.double()) and torch.equal(stats.std, STD.double())


def test_raes_statistics_belong_to_each_position_and_its_variance_has_an_epsilon(saved):
    mean, var = torch.randn(12, 4, 4), torch.rand(12, 4, 4)
    latents = torch.randn(2, 12, 4, 4)
    stats = read_statistics(saved(mean=mean, var=var))
    torch.testing.assert_close(stats.standardise(latents), (latents - mean) / torch.sqrt(var + 1e-5))
    torch.testing.assert_close(stats.restore(stats.standardise(latents)), latents)


@pytest.mark.parametrize(
    "tensors, words",
    [
        ({"mean": MEAN, "std": STD}, r"holds mean \[12\] and std \[12\] instead of mean and std \[1, C, 1, 1\]"),
        ({"mean": MEAN.view(1, 12, 1, 1), "std": STD[:4].view(1, 4, 1, 1)}, r"mean \[1, 12, 1, 1\] and std \[1, 4, 1, 1\]"),
        ({"mean": MEAN.view(1, 12, 1, 1), "std": 0 * STD.view(1, 12, 1, 1)}, "12 of 12 means and deviations are not finite or not above 0"),
        ({"mean": MEAN.view(12, 1, 1), "var": -STD.view(12, 1, 1)}, "12 of 12"),
        ({"weight": MEAN, "bias": STD}, "holds weight, bias instead of dinov3_sp_mean and .*; give"),
    ],
)
def test_files_that_are_no_statistics_are_refused_in_one_sentence(saved, tensors, words):
    with pytest.raises(BadWeights, match=words) as error:
        read_statistics(saved(**tensors))
    assert "\n" not in str(error.value)


def test_other_channels_kinds_and_files_are_named(saved, tmp_path):
    path = saved(mean=MEAN.view(1, 12, 1, 1), std=STD.view(1, 12, 1, 1))
    with pytest.raises(BadWeights, match="statistics of 12 channels, the latents have 32"):
        read_statistics(path, channels=32)
    with pytest.raises(BadWeights, match=r"holds mean, std instead of mean and var \[C, h, w\]"):
        read_statistics(path, kind="rae")
    with pytest.raises(UnknownName, match="Did you mean 'lightningdit'"):
        read_statistics(path, kind="lightning-dit")
    with pytest.raises(BadWeights, match="does not exist"):
        read_statistics(tmp_path / "none.pt")
