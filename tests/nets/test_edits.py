"""Edits: inversion along a known field and back, a mask that keeps what it should, ways between two noises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from svgbench.config.choices import shifted_times
from svgbench.metrics.mixture import two_classes
from svgbench.nets import edits
from svgbench.nets.sampler import euler

MIXTURE, OTHER = two_classes(entangled=False)


def field(mixture):
    """The exact velocity of a mixture at every position of latents [B, 2, h, w]."""

    def velocity(x, t, step):
        points = x.permute(0, 2, 3, 1).reshape(-1, 2).double().numpy()
        moved = torch.from_numpy(mixture.velocity(points, t)).to(x)
        return moved.view(len(x), *x.shape[2:], 2).permute(0, 3, 1, 2)

    return velocity


def images(side: int = 8) -> torch.Tensor:
    """Two images whose positions are points near the mixture's centres."""
    random = np.random.default_rng(0)
    places = MIXTURE.centres[random.integers(0, len(MIXTURE.centres), 2 * side * side)]
    points = places + MIXTURE.deviation * random.standard_normal(places.shape)
    return torch.from_numpy(points).view(2, side, side, 2).permute(0, 3, 1, 2)


def back(steps: int) -> torch.Tensor:
    """Distances of images' numbers to those that sampling from their inverted noise gives."""
    times, data = shifted_times(steps, 0.4), images()
    return (euler(field(MIXTURE), edits.inverted(field(MIXTURE), data, times)[0], times) - data).abs()


def test_inversion_then_sampling_returns_the_image_the_better_the_more_steps():
    fine = back(400)
    assert fine.square().mean().sqrt() < 0.02 and fine.max() < 0.1  # the data's deviation is 1.4
    assert (back(100).median() / fine.median()).item() == pytest.approx(4, rel=0.15)  # order 1: a quarter of the step and of the error


def test_inverted_data_are_normal_noise():
    noise = edits.inverted(field(MIXTURE), images(48), shifted_times(200, 0.4))[0].numpy()
    points = noise.transpose(0, 2, 3, 1).reshape(-1, 2)
    assert np.abs(points.mean(0)).max() < 0.06 and np.abs(np.cov(points.T) - np.eye(2)).max() < 0.08


def edit(mask: torch.Tensor, **how) -> tuple[torch.Tensor, torch.Tensor]:
    """An edit under another class from the middle of the time grid, and the image."""
    times, data = shifted_times(40, 0.4), images()
    trajectory = edits.inverted(field(MIXTURE), data, times)
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(0), dtype=data.dtype)
    return edits.edited(field(OTHER), trajectory[20:], times[20:], noise, mask, **how), data


def test_without_fading_what_lies_outside_the_mask_stays_exactly_and_the_inside_becomes_the_other_class():
    mask = edits.box(8)
    made, data = edit(mask, fade=False)
    assert torch.equal(made[..., mask == 0], data[..., mask == 0])
    assert (data[:, 0] < 0).double().mean() > 0.99 and (made[:, 0][:, mask == 1] > 0).double().mean() > 0.95


def test_a_softened_mask_still_keeps_what_is_further_away_than_its_blur():
    mask = edits.softened(edits.box(8, 0.25), 0.5)
    assert 0 < mask[2, 3] < 1 and mask[0, 3] == 0 < mask[1, 3]
    made, data = edit(mask, fade=False)
    assert torch.equal(made[..., mask == 0], data[..., mask == 0]) and not torch.equal(made[..., 2, 3], data[..., 2, 3])


def test_a_fading_hold_is_whole_where_the_edit_begins_and_gone_at_the_end():
    assert [edits.fading(t, 0.25) for t in (0.25, 0.625, 1.0)] == [1.0, 0.5, 0.0] and edits.fading(1.0, 1.0) == 0.0
    mask = edits.box(8)
    held, freed = edit(mask, fade=False)[0], edit(mask)[0]
    outside = [(made - images())[..., mask == 0].square().mean().sqrt().item() for made in (held, freed)]
    assert outside[0] == 0 < outside[1] < 1.0  # towards the other class, which is 2.4 away


def test_the_noise_of_an_edit_has_the_deviation_of_its_time():
    x = torch.zeros(1, 1, 64, 64)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    made = edits.edited(lambda x, t, step: torch.zeros_like(x), [x, x], [0.25, 1.0], noise, torch.ones(64, 64))
    assert torch.allclose(made, (0.75**2 + 0.25**2) ** 0.5 * noise)


def test_a_blurred_mask_is_scipy_s_gaussian_filter():
    mask = edits.box(16)
    mine = edits.softened(mask, 2.0).numpy()
    assert np.allclose(mine, gaussian_filter(mask.double().numpy(), 2.0, mode="nearest", truncate=3.0), atol=1e-6)
    assert torch.allclose(edits.softened(torch.ones(4, 4), 1.0), torch.ones(4, 4)) and torch.equal(edits.softened(mask, 0.0), mask)


@pytest.mark.parametrize(("grid", "side"), [(16, 8), (4, 2), (7, 4), (1, 1)])
def test_a_box_is_half_of_the_side_in_the_middle(grid, side):
    mask = edits.box(grid)
    rows = mask.any(1).nonzero()[:, 0]
    assert mask.sum() == side * side and abs((rows[0] - (grid - 1 - rows[-1])).item()) <= 1


def test_the_great_circle_keeps_the_norm_and_turns_evenly_where_the_straight_line_shortens():
    one, other = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(2)).double().unbind(0)
    other = other * one.norm() / other.norm()
    whole = torch.acos((one * other).sum() / one.norm() ** 2)
    for share in (0.0, 0.25, 0.5, 1.0):
        between = edits.spherical(one, other, share)
        assert between.norm().item() == pytest.approx(one.norm().item(), rel=1e-9)
        assert torch.acos(((one * between).sum() / one.norm() ** 2).clamp(-1, 1)).item() == pytest.approx(share * whole.item(), abs=1e-6)
    assert (edits.linear(one, other, 0.5).norm() / one.norm()).item() == pytest.approx(0.5**0.5, abs=0.02)


def test_known_points_of_the_great_circle():
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert torch.allclose(edits.spherical(x, y, 1 / 3), torch.tensor([np.cos(np.pi / 6), np.sin(np.pi / 6)], dtype=torch.float32))
    assert torch.allclose(edits.spherical(x, 3 * y, 0.5), 2 * torch.tensor([0.5**0.5, 0.5**0.5]))
    assert torch.equal(edits.spherical(x, x, 0.3), x)
