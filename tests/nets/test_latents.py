import pytest
import torch

from svgbench.errors import BadData
from svgbench.nets.latents import LatentMoments, LatentStats, noised, standardised_by

RAW = torch.randn(50, 4, 3, 3) * torch.tensor([1.0, 2.0, 0.5, 10.0])[:, None, None] + torch.tensor([0.0, 5.0, -3.0, 1e3])[:, None, None]


def moments_of(*parts):
    moments = LatentMoments(4)
    for part in parts:
        moments.add(part)
    return moments


def test_statistics_are_those_of_all_images_and_positions():
    stats = moments_of(RAW).finish()
    torch.testing.assert_close(stats.mean, RAW.double().mean((0, 2, 3)))
    torch.testing.assert_close(stats.std, RAW.double().transpose(0, 1).flatten(1).std(1, correction=0), rtol=1e-7, atol=0)


def test_parts_in_any_split_give_the_same_statistics():
    merged = moments_of(RAW[:7])
    merged.sums += moments_of(RAW[7:30], RAW[30:]).sums
    whole, split = moments_of(RAW).finish(), merged.finish()
    torch.testing.assert_close(split.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(split.std, whole.std, rtol=1e-9, atol=0)


def test_standardised_latents_have_unit_moments_and_come_back():
    stats = moments_of(RAW).finish()
    latents = stats.standardise(RAW)
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.transpose(0, 1).flatten(1).std(1), torch.ones(4), rtol=2e-3, atol=0)
    torch.testing.assert_close(stats.restore(latents), RAW)


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_dead_channel_is_named(value):
    raw = RAW.clone()
    raw[:, 2] = value
    with pytest.raises(BadData, match="the first is 2"):
        moments_of(raw).finish()


def test_statistics_of_each_position_standardise_each_position():
    mean, std = RAW.mean(0).double(), RAW.std(0).double()
    latents = LatentStats(mean, std).standardise(RAW)
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, (RAW - RAW.mean(0)) / RAW.std(0))
    torch.testing.assert_close(LatentStats(mean, std).restore(latents), RAW, rtol=1e-5, atol=1e-4)


def test_statistics_of_each_position_fit_their_own_grid_only():
    with pytest.raises(BadData, match="statistics of 3x3 positions do not fit latents of 5x5"):
        LatentStats(RAW.mean(0), RAW.std(0)).standardise(torch.randn(1, 4, 5, 5))


def test_noise_on_latents_belongs_to_the_images_position_and_the_seed():
    positions = torch.arange(50)
    whole = noised(RAW, positions, seed=3, tau=0.8)
    assert torch.equal(noised(RAW[7:9], positions[7:9], seed=3, tau=0.8), whole[7:9])
    assert not torch.equal(noised(RAW, positions, seed=4, tau=0.8), whole)
    assert torch.equal(noised(RAW, positions, seed=3, tau=0.0), RAW)


def test_noise_on_latents_is_as_strong_as_a_half_normal_draw_of_each_image():
    """sigma = |N(0, tau^2)|: its mean is tau sqrt(2 / pi), its mean square tau^2."""
    raw = torch.zeros(4000, 2, 4, 4)
    sigma = noised(raw, torch.arange(4000), seed=0, tau=0.8).square().mean((1, 2, 3))
    assert sigma.mean().item() == pytest.approx(0.64, rel=0.06)
    assert sigma.sqrt().mean().item() == pytest.approx(0.8 * (2 / 3.14159) ** 0.5, rel=0.04)


def test_every_standardisation_is_the_moments_it_names():
    raw, stats = RAW.double(), moments_of(RAW).finish()
    channels = raw.transpose(0, 1).flatten(1)
    expected = {
        "channel": (channels.mean(1), channels.std(1, correction=0)),
        "scalar": (raw.mean().expand(4), raw.std(correction=0).expand(4)),
        "features": (channels[:3].mean().expand(4), channels[:3].std(1, correction=0).mean().expand(4)),
        "none": (torch.zeros(4).double(), torch.ones(4).double()),
    }
    for mode, (mean, std) in expected.items():
        found = standardised_by(mode, stats, 3)
        torch.testing.assert_close(found.mean, mean, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(found.std, std, rtol=1e-7, atol=0)
    assert torch.equal(standardised_by("none", stats, 3).standardise(RAW), RAW)


def test_aligned_residuals_have_mean_0_and_deviation_1_on_the_features_scale():
    """The alignment brings the residual's moments to those by which ``features`` standardises."""
    from svgbench.nets.alignment import Alignment

    features, residual = torch.randn(200, 3, 4, 4) * 5 + 2, torch.randn(200, 2, 4, 4) * 0.1
    net = Alignment("frozen", feature_channels=3, residual_channels=2)
    net.freeze(net.statistics_of(residual, features))
    raw = torch.cat([features, net(residual)], dim=1)
    moments = LatentMoments(5)
    moments.add(raw)
    seen = standardised_by("features", moments.finish(), 3).standardise(raw)[:, 3:].transpose(0, 1).flatten(1)
    assert seen.mean().item() == pytest.approx(0, abs=1e-4) and seen.std(1).mean().item() == pytest.approx(1, rel=1e-3)
