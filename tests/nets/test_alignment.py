import pytest
import torch

from svgbench.errors import BadData, UnknownName
from svgbench.nets.alignment import Alignment
from svgbench.nets.latents import LatentMoments, standardised_by

MODES = ("none", "batch", "frozen", "channel", "whiten")
torch.manual_seed(0)
MIX = torch.randn(3, 3)
RESIDUAL = torch.einsum("dc,bchw->bdhw", MIX, torch.randn(16, 3, 4, 4)) + torch.tensor([1.0, -4.0, 0.5])[:, None, None]
FEATURES = torch.randn(16, 10, 4, 4) * torch.rand(10)[:, None, None] * 5 + torch.randn(10)[:, None, None]


def alignment(mode, strength=1.0):
    return Alignment(mode, feature_channels=10, residual_channels=3, strength=strength)


def frozen(mode, residual=RESIDUAL, features=FEATURES, strength=1.0):
    net = alignment(mode, strength)
    net.freeze(net.statistics_of(residual, features))
    return net


def scalars(x):
    channels = x.double().transpose(0, 1).flatten(1)
    return channels.mean(1).mean(), channels.std(1).mean()


def test_the_batch_formula_is_the_releases():
    (m_r, s_r), (m_d, s_d) = scalars(RESIDUAL), scalars(FEATURES)
    expected = (RESIDUAL.double() - m_r) / (s_r + 1e-6) * s_d + m_d
    torch.testing.assert_close(alignment("batch")(RESIDUAL, FEATURES).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["batch", "frozen", "channel", "whiten"])
def test_aligned_residuals_have_the_features_mean_and_deviation(mode):
    net = alignment(mode)
    mean, deviation = scalars(net(RESIDUAL, FEATURES, net.statistics_of(RESIDUAL, FEATURES)))
    wanted_mean, wanted_deviation = scalars(FEATURES)
    assert mean.item() == pytest.approx(wanted_mean.item(), abs=1e-4)
    assert deviation.item() == pytest.approx(wanted_deviation.item(), rel=1e-4)


def test_channel_aligns_each_channel_and_whiten_also_decorrelates():
    wanted_mean, wanted_deviation = scalars(FEATURES)
    for mode in ("channel", "whiten"):
        channels = frozen(mode)(RESIDUAL).double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(channels.mean(1), wanted_mean.expand(3), rtol=0, atol=1e-4)
        torch.testing.assert_close(channels.std(1), wanted_deviation.expand(3), rtol=1e-4, atol=0)
    covariance = torch.cov(channels)
    torch.testing.assert_close(covariance, torch.eye(3, dtype=torch.float64) * wanted_deviation**2, rtol=0, atol=1e-3)


def test_none_gives_the_residual_back():
    assert alignment("none")(RESIDUAL, FEATURES) is RESIDUAL


@pytest.mark.parametrize("mode", ["none", "frozen", "channel", "whiten"])
def test_a_frozen_alignment_is_a_function_of_the_image_alone_bit_for_bit(mode):
    net = frozen(mode)
    whole = net(RESIDUAL, FEATURES)
    for mates in (RESIDUAL * 5, RESIDUAL.flip(0)):
        assert torch.equal(net(torch.cat([RESIDUAL[3:4], mates[1:]]), FEATURES)[:1], whole[3:4])


def test_batch_alignment_depends_on_batch_mates_as_released():
    net = frozen("batch")
    assert not torch.allclose(net(RESIDUAL[:2], FEATURES[:2]), net(RESIDUAL, FEATURES)[:2])


def test_statistics_of_parts_add_up_to_those_of_the_batch():
    net = alignment("whiten")
    parts = sum(net.statistics_of(RESIDUAL[s], FEATURES[s]) for s in (slice(0, 1), slice(1, 9), slice(9, 16)))
    torch.testing.assert_close(parts, net.statistics_of(RESIDUAL, FEATURES), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(net(RESIDUAL[9:], FEATURES[9:], parts), net(RESIDUAL, FEATURES, net.statistics_of(RESIDUAL, FEATURES))[9:])


@pytest.mark.parametrize("mode", MODES)
def test_no_gradient_flows_through_the_statistics(mode):
    net, residual = alignment(mode), RESIDUAL.clone().requires_grad_()
    statistics = net.statistics_of(residual, FEATURES)
    net(residual, FEATURES, statistics).sum().backward()
    if mode in ("none", "batch", "frozen"):  # through them, the gradient of the sum would vanish
        torch.testing.assert_close(residual.grad, residual.grad[0, 0, 0, 0].expand_as(residual))
    assert residual.grad.abs().min() > 0


def test_a_map_that_nobody_fixed_gives_no_number():
    assert alignment("frozen")(RESIDUAL).isnan().all()
    assert frozen("frozen")(RESIDUAL).isfinite().all()


def test_moments_survive_saving():
    net, other = frozen("whiten"), alignment("whiten")
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(RESIDUAL), net(RESIDUAL))


def test_an_unknown_mode_is_refused():
    with pytest.raises(UnknownName, match=r"no alignment named 'match'.*frozen"):
        alignment("match")


def test_token_gives_each_token_the_mean_and_deviation_of_its_features_over_channels():
    aligned = alignment("token")(RESIDUAL, FEATURES)
    for at in ((0, slice(None), 0, 0), (7, slice(None), 3, 1)):
        r, f = RESIDUAL[at].double(), FEATURES[at].double()
        expected = (r - r.mean()) / (r.std() + 1e-6) * f.std() + f.mean()
        torch.testing.assert_close(aligned[at].double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alignment("token")(RESIDUAL[5:6], FEATURES[5:6]), aligned[5:6], rtol=0, atol=0)


def test_token_hears_nothing_of_a_token_s_own_mean_and_scale():
    residual = RESIDUAL.clone().requires_grad_()
    (alignment("token")(residual, FEATURES) * torch.randn(16, 3, 4, 4)).sum().backward()
    scale = residual.grad.abs().max()
    assert residual.grad.sum(1).abs().max() < 1e-5 * scale
    assert (residual.grad * (residual - residual.mean(1, keepdim=True))).sum(1).abs().max() < 1e-4 * scale


@pytest.mark.parametrize("mode", ["batch", "frozen", "channel", "whiten", "token"])
def test_strength_is_the_way_from_the_residual_to_its_aligned_value_and_exact_at_both_ends(mode):
    whole = frozen(mode)(RESIDUAL, FEATURES)
    assert torch.equal(frozen(mode, strength=1.0)(RESIDUAL, FEATURES), whole)
    assert torch.equal(frozen(mode, strength=0.0)(RESIDUAL, FEATURES), RESIDUAL)
    half = frozen(mode, strength=0.25)(RESIDUAL, FEATURES)
    torch.testing.assert_close(half, RESIDUAL + 0.25 * (whole - RESIDUAL), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["none", "frozen", "channel", "whiten"])
def test_a_fixed_alignment_is_undone(mode):
    net = frozen(mode)
    torch.testing.assert_close(net.undo(net(RESIDUAL)), RESIDUAL, rtol=1e-4, atol=1e-4)


def test_an_alignment_without_an_inverse_is_refused():
    dead = torch.cat([RESIDUAL[:, :2], torch.full((16, 1, 4, 4), 2.0)], dim=1)
    for mode in ("channel", "whiten"):
        with pytest.raises(BadData, match=f"the alignment '{mode}' of these residuals cannot be undone.*use another mode"):
            frozen(mode, residual=dead).undo(dead)
    for mode in ("batch", "token"):
        with pytest.raises(ValueError, match="no fixed map"):
            frozen(mode).undo(RESIDUAL)


def seen_by_sit(mode, standardise):
    """The residual's channels after the standardisation: what the diffusion model sees."""
    raw = torch.cat([FEATURES, frozen(mode)(RESIDUAL, FEATURES)], dim=1)
    moments = LatentMoments(13)
    moments.add(raw)
    return standardised_by(standardise, moments.finish(), 10).standardise(raw)[:, 10:]


def test_standardised_by_channel_every_alignment_that_scales_channels_is_one_function_of_the_image():
    wanted = seen_by_sit("none", "channel")
    for mode in ("batch", "frozen", "channel"):
        torch.testing.assert_close(seen_by_sit(mode, "channel"), wanted, rtol=0, atol=1e-5)
    for mode in ("whiten", "token"):
        assert (seen_by_sit(mode, "channel") - wanted).abs().max() > 0.5
    for standardise in ("scalar", "features", "none"):
        assert (seen_by_sit("frozen", standardise) - seen_by_sit("none", standardise)).abs().max() > 0.5
