"""The figures of a latent space: closed forms, brute force, known spectra and grids, and one sentence for what has no figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from svgbench.errors import BadData
from svgbench.metrics import diffusability as figures
from svgbench.metrics import latent_neighbours, velocity_variance
from svgbench.metrics.diagnosis import class_share
from svgbench.metrics.diffusability import GROUPS, LatentSums, groups_of, jackknifed, mean_of

ALL = torch.ones(GROUPS, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def summed(latents: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor | None = None, *, whole: bool = True) -> LatentSums:
    groups = groups_of(labels) if groups is None else groups
    sums = LatentSums(latents.shape[1], tuple(latents.shape[2:]), whole=whole)
    for label in labels.unique():
        sums.add(latents[labels == label], groups[labels == label])
    return sums


def grid_latents(rho: float, images: int = 60, channels: int = 600, side: int = 5) -> torch.Tensor:
    """Latents whose channels are independent Gaussian fields with the correlation rho^distance, distance in steps (AR(1) on both axes)."""
    place = torch.arange(side).double()
    root = torch.linalg.cholesky(rho ** (place[:, None] - place[None]).abs())
    return torch.einsum("ij,ncjk,lk->ncil", root, normal(images, channels, side, side), root)


# --- spectra, kurtosis, classes ---


def test_ranks_and_condition_of_known_spectra():
    flat, one, two = torch.ones(7).double(), torch.tensor([0.0, 0.0, 2.0]).double(), torch.tensor([1.0, 3.0]).double()
    assert figures.effective_rank(flat) == pytest.approx(7) and figures.participation_ratio(flat) == pytest.approx(7)
    assert figures.effective_rank(one) == pytest.approx(1) and figures.participation_ratio(one) == pytest.approx(1)
    assert figures.effective_rank(two) == pytest.approx(math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75)))
    assert figures.participation_ratio(two) == pytest.approx(1.6) and figures.condition_number(two) == pytest.approx(3)
    assert figures.condition_number(torch.tensor([1e-14, 1.0, 3.0]).double()) == pytest.approx(3)  # a direction of rounding


def test_sums_give_the_covariances_of_numpy():
    latents, labels = normal(90, 3, 2, 4) @ normal(4, 4, seed=1) + 0.3, torch.arange(90) % 3
    sums = summed(latents, labels)
    tokens = latents.permute(1, 0, 2, 3).reshape(3, -1).numpy()
    assert np.allclose(sums.channel_spectrum(ALL), np.linalg.eigvalsh(np.cov(tokens, bias=True)))
    assert np.allclose(sums.whole_spectrum(ALL), np.linalg.eigvalsh(np.cov(latents.flatten(1).T.numpy())).clip(0), atol=1e-10)


@pytest.mark.parametrize("law", ["normal", "uniform", "laplace"])
def test_kurtosis_of_known_laws(law):
    random = np.random.default_rng(0)
    values = torch.from_numpy(getattr(random, law)(size=(4000, 3, 4, 4)))
    found = summed(values, torch.zeros(4000).long(), whole=False).kurtosis(ALL)
    assert found == pytest.approx({"normal": 0.0, "uniform": -1.2, "laplace": 3.0}[law], abs=0.25 if law == "laplace" else 0.02)


def test_the_class_share_is_that_of_the_figures():
    latents, labels = normal(120, 2, 3, 3), torch.arange(120) % 4
    latents = latents + 0.8 * normal(4, 2, 3, 3, seed=1)[labels]
    sums, groups = summed(latents, labels), groups_of(labels)
    assert sums.class_share(ALL) == pytest.approx(class_share(latents.flatten(1), labels), rel=1e-10)
    kept = ALL.clone()
    kept[3] = 0
    rest = groups != 3
    assert sums.class_share(kept) == pytest.approx(class_share(latents[rest].flatten(1), labels[rest]), rel=1e-10)


# --- intervals ---


def test_groups_hold_every_class_alike_and_are_the_same_every_time():
    labels = torch.arange(400) % 4
    groups = groups_of(labels)
    assert torch.equal(groups, groups_of(labels)) and groups.bincount().tolist() == [40] * GROUPS
    assert all(groups[labels == label].bincount().tolist() == [10] * GROUPS for label in range(4))


def test_a_figure_without_a_group_is_the_figure_of_the_others():
    latents, labels = normal(100, 3, 4, 4), torch.arange(100) % 2
    sums, groups, kept = summed(latents, labels), groups_of(labels), ALL.clone()
    kept[7] = 0
    rest = groups != 7
    alone = summed(latents[rest], labels[rest], groups[rest])
    for name in ("kurtosis", "local_contrast", "decay", "high_frequency", "spectral_slope"):
        assert getattr(sums, name)(kept) == pytest.approx(getattr(alone, name)(ALL * kept), rel=1e-9), name


def test_the_interval_of_a_mean_is_the_textbook_s_and_holds_the_truth():
    values, groups = normal(50), torch.arange(50) % GROUPS
    found = mean_of(values, groups)
    means = torch.stack([values[groups == group].mean() for group in range(GROUPS)])
    assert found.value == pytest.approx(values.mean().item())
    assert found.high - found.value == pytest.approx(figures.STUDENT * (means.std() / GROUPS**0.5).item())
    made = [mean_of(normal(200, seed=seed), torch.arange(200) % GROUPS) for seed in range(400)]
    assert 0.92 < np.mean([one.low < 0 < one.high for one in made]) < 0.98


# --- space and frequency ---


def test_similarity_on_a_grid_falls_as_its_correlation_does():
    rho, sums = 0.7, summed(grid_latents(0.7), torch.zeros(60).long(), whole=False)
    assert torch.allclose(sums.similarity(ALL), rho ** torch.arange(9).double(), atol=0.01)
    pairs = sums.pairs().double()
    expected = (pairs[1:3] @ rho ** torch.arange(1, 3).double()) / pairs[1:3].sum()
    expected -= (pairs[3:] @ rho ** torch.arange(3, 9).double()) / pairs[3:].sum()
    assert sums.local_contrast(ALL) == pytest.approx(expected.item(), abs=0.01)
    line = np.polyfit(np.arange(1, 9), rho ** np.arange(1, 9), 1)[0]
    assert sums.decay(ALL) == pytest.approx(-line, abs=0.003)


def test_positions_without_correlation_have_no_structure():
    sums = summed(normal(80, 300, 4, 4), torch.zeros(80).long(), whole=False)
    assert abs(sums.local_contrast(ALL)) < 0.005 and abs(sums.decay(ALL)) < 0.002 and abs(sums.spectral_slope(ALL)) < 0.02
    above = sum(u + v > 3 for u in range(4) for v in range(4)) / 16
    assert sums.high_frequency(ALL) == pytest.approx(above, abs=0.01)


def test_the_dct_is_orthonormal_and_a_cosine_is_one_coefficient():
    basis = figures.dct(6)
    assert torch.allclose(basis @ basis.T, torch.eye(6).double(), atol=1e-12)
    wave = torch.cos(math.pi / 6 * (torch.arange(6).double() + 0.5) * 2).expand(50, 2, 6, 6) * normal(50, 2, 1, 1)
    bands = summed(wave, torch.zeros(50).long(), whole=False).bands(ALL)
    assert bands[2] > 0 and bands[torch.arange(11) != 2].abs().max() < 1e-12 * bands[2]


def test_the_spectrum_of_a_correlated_grid_is_the_exact_one():
    rho, side = 0.7, 5
    place = torch.arange(side).double()
    line = rho ** (place[:, None] - place[None]).abs()
    axis = (figures.dct(side) @ line @ figures.dct(side).T).diagonal()
    energy, band = torch.outer(axis, axis).flatten(), (place[:, None] + place[None]).long().flatten()
    expected = torch.zeros(9).double().index_add_(0, band, energy) / band.bincount()
    sums = summed(grid_latents(rho), torch.zeros(60).long(), whole=False)
    assert torch.allclose(sums.bands(ALL), expected, rtol=0.05)
    slope = np.polyfit(np.log(np.arange(1, 9)), expected[1:].log().numpy(), 1)[0]
    assert sums.spectral_slope(ALL) == pytest.approx(slope, abs=0.05) and slope < -1
    assert sums.high_frequency(ALL) == pytest.approx((energy[band > 4].sum() / energy.sum()).item(), rel=0.05)


# --- irreducible variance ---


def brute(atoms: torch.Tensor, weights: torch.Tensor, t: float, points: int = 161) -> float:
    """E Var[x_1 - x_0 | x_t] per number by a sum over a fine grid of x_t, for x_1 on atoms [J, 2] with weights [J] that sum to one."""
    reach = t * atoms.abs().max() + 6 * (1 - t)
    line = torch.linspace(-float(reach), float(reach), points).double()
    x = torch.cartesian_prod(line, line)
    density = torch.exp(-torch.cdist(x, t * atoms).square() / (2 * (1 - t) ** 2)) / (2 * math.pi * (1 - t) ** 2) * weights
    total = density.sum(1)
    share = density / total.clamp_min(1e-300)[:, None]
    spread = (share @ atoms.square().sum(1)) - (share @ atoms).square().sum(1)
    return (total * spread).sum().item() * (line[1] - line[0]).item() ** 2 / (1 - t) ** 2 / 2


def test_the_gaussian_s_closed_form_is_the_integral():
    channels = torch.tensor([[1.0, 0.6], [0.6, 0.8]]).double()
    gaussian = velocity_variance.Kronecker(torch.zeros(2, 1).double(), channels, torch.ones(1, 1).double())
    line = torch.linspace(-5, 5, 35).double()
    atoms = torch.cartesian_prod(line, line)
    weights = torch.exp(-0.5 * (atoms @ channels.inverse() * atoms).sum(1))
    for t in (0.2, 0.5, 0.7):
        assert gaussian.at(torch.tensor([t], dtype=torch.float64)).item() == pytest.approx(
            brute(atoms, weights / weights.sum(), t, 81), rel=2e-3
        )
    at = torch.linspace(0, 1, 2001).double()
    assert gaussian.irreducible() == pytest.approx(torch.trapezoid(gaussian.at(at), at).item(), rel=1e-5)


@pytest.mark.parametrize("t", [0.3, 0.6, 0.8])
def test_the_posterior_of_images_is_the_integral(t):
    atoms = torch.tensor([[-1.0, 0.2], [0.4, 1.1], [0.5, -0.9], [1.3, 0.1]]).double()
    noise, at = normal(4 * 4000, 2).view(4000, 4, 2), torch.tensor([t], dtype=torch.float64)
    found = torch.stack([velocity_variance.posterior_variance(atoms, rows, at) for rows in noise])
    assert found.mean().item() == pytest.approx(brute(atoms, torch.full((4,), 0.25).double(), t), rel=0.03)


def test_both_estimates_agree_where_images_are_dense():
    data = 0.8 * normal(1200, 1)
    at, weights = velocity_variance.times()
    found = (velocity_variance.posterior_variance(data, normal(1200, 1, seed=1), at) @ weights).mean().item()
    assert found == pytest.approx(math.pi / 2 * 0.8, rel=0.05)
    assert velocity_variance.fit(data[:, :, None]).irreducible() == pytest.approx(math.pi / 2 * 0.8, rel=0.05)
    assert weights.sum().item() == pytest.approx(1, rel=1e-3)


def kronecker(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents [count, 3, 4] and the factors of their covariance."""
    first, second = normal(3, 3, seed=1), normal(4, 4, seed=2)
    return first @ normal(count, 3, 4) @ second.T + 5, first @ first.T, second @ second.T


def test_flip_flop_finds_the_factors():
    latents, channels, positions = kronecker(6000)
    found = velocity_variance.fit(latents)
    truth, mine = torch.kron(channels, positions), torch.kron(found.channels, found.positions)
    assert (mine - truth).norm() / truth.norm() < 0.05 and found.positions.trace().item() == pytest.approx(4)
    assert found.irreducible() == pytest.approx(math.pi / 2 * torch.linalg.eigvalsh(truth).sqrt().mean().item(), rel=0.02)
    whole = torch.linalg.eigvalsh(mine)
    t = 0.4
    assert found.at(torch.tensor([t], dtype=torch.float64)).item() == pytest.approx(
        (whole / ((1 - t) ** 2 + t**2 * whole)).mean().item(), rel=1e-9
    )


def test_flip_flop_ends_at_the_most_likely_factors():
    latents, *_ = kronecker(40)
    count = len(latents)
    centred = latents - latents.mean(0)

    def likelihood(channels: torch.Tensor, positions: torch.Tensor) -> float:
        squares = torch.einsum("ncs,cd,ndt,st->", centred, channels.inverse(), centred, positions.inverse())
        return -0.5 * (count * (4 * channels.logdet() + 3 * positions.logdet()) + squares).item()

    found = velocity_variance.fit(latents, rounds=60)
    channels = found.channels * (count - 1) / count  # without the correction for the fitted mean
    best = likelihood(channels, found.positions)
    for seed in range(20):
        step = 0.02 * normal(3, 3, seed=seed)
        assert likelihood(channels + step @ step.T + 0.01 * (step + step.T), found.positions) < best
    assert velocity_variance.fit(latents).irreducible() == pytest.approx(found.irreducible(), rel=1e-4)


def test_white_noise_has_half_of_pi():
    assert velocity_variance.fit(normal(4000, 4, 4)).irreducible() == pytest.approx(math.pi / 2, rel=0.01)


# --- neighbours ---


def test_neighbours_are_those_of_all_pairs():
    vectors = normal(60, 5)
    apart = latent_neighbours.distances(vectors)
    truth = cdist(vectors, vectors)
    np.fill_diagonal(truth, np.inf)
    assert np.allclose(apart, truth) and torch.equal(
        latent_neighbours.nearest(apart, 4), torch.from_numpy(truth.argsort(1, kind="stable")[:, :4])
    )
    labels = torch.arange(60) % 3
    share = [(labels[np.argsort(row, kind="stable")[:4]] == label).double().mean().item() for row, label in zip(truth, labels, strict=True)]
    assert latent_neighbours.neighbour_shares(apart, labels, 4).tolist() == share


def test_neighbours_of_two_classes_far_apart_and_mixed():
    labels = torch.arange(300) % 2
    apart = latent_neighbours.distances(normal(300, 4) + 50.0 * labels[:, None])
    mixed = latent_neighbours.distances(normal(300, 4))
    assert latent_neighbours.neighbour_shares(apart, labels, 10).mean() == 1
    assert latent_neighbours.neighbour_shares(mixed, labels, 10).mean().item() == pytest.approx(149 / 299, abs=0.03)


def test_rank_correlation_is_scipy_s_also_with_ties():
    x, y = (10 * normal(80)).round(), (5 * normal(80, seed=1)).round()
    assert latent_neighbours.rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert latent_neighbours.rank_correlation(x, x.exp()) == pytest.approx(1) and latent_neighbours.rank_correlation(
        x, -x
    ) == pytest.approx(-1)


def test_latents_that_are_the_pixels_are_continuous():
    pixels = torch.randint(0, 256, (80, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    near, far = latent_neighbours.steps(latent_neighbours.distances(pixels.flatten(1).double()), pixels)
    assert torch.allclose(near / 255 / 48**0.5, far) and latent_neighbours.rank_correlation(near, far) == pytest.approx(1)


# --- what has no figure ---


def spoiled() -> torch.Tensor:
    latents = normal(20, 3, 4, 4)
    latents[3, 0, 0, 0] = math.nan
    return latents


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: summed(spoiled(), torch.zeros(20).long()), "1 of 20 latents hold NaN or infinity, the first is 3"),
        (lambda: summed(normal(20, 3, 4, 4), torch.zeros(20).long()).class_share(ALL), "20 images of 1 class.* give two classes or more"),
        (lambda: summed(normal(20, 3, 2, 2), torch.zeros(20).long()).local_contrast(ALL), "a grid of 2 x 2 .* 3 x 3 is the smallest"),
        (lambda: summed(normal(20, 3, 2, 2), torch.zeros(20).long()).high_frequency(ALL), "a grid of 2 x 2 .* 3 x 3 is the smallest"),
        (lambda: summed(normal(20, 3, 4, 4) * 0, torch.zeros(20).long()).kurtosis(ALL), "channel 0 is constant"),
        (lambda: summed(normal(20, 3, 4, 4), torch.zeros(20).long(), whole=False).whole_spectrum(ALL), "whole latents was not summed"),
        (lambda: figures.check_latents(normal(3, 4)), r"shape \[3, 4\]; give \[N, C, h, w\]"),
        (lambda: velocity_variance.fit(normal(4, 12, 2)), "a class of 4 images .* it needs 8 images"),
        (lambda: velocity_variance.fit(spoiled().flatten(2)), "hold NaN or infinity"),
        (lambda: velocity_variance.fit(torch.ones(20, 3, 4).double()), "do not vary"),
        (lambda: velocity_variance.posterior_variance(spoiled().flatten(1), normal(20, 48), ALL), "hold NaN or infinity"),
        (lambda: latent_neighbours.distances(spoiled().flatten(1)), "hold NaN or infinity"),
        (lambda: latent_neighbours.distances(normal(1, 4)), "give two images or more"),
        (lambda: latent_neighbours.nearest(latent_neighbours.distances(normal(3, 4)), 3), "3 neighbours .* among 3 images"),
        (lambda: latent_neighbours.neighbour_shares(torch.zeros(3, 3), torch.zeros(3), 1), "all images have one class"),
        (lambda: latent_neighbours.rank_correlation(torch.ones(4), normal(4)), "all distances are equal"),
        (lambda: latent_neighbours.steps(torch.zeros(3, 3), torch.zeros(2, 3, 4, 4)), "2 images do not pair with 3 latents"),
    ],
)  # fmt: skip
def test_what_has_no_figure_is_one_sentence(wrong, sentence):
    with pytest.raises(BadData, match=sentence) as error:
        wrong()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_an_estimate_has_its_value_inside():
    found = jackknifed(lambda kept: float(kept @ torch.arange(GROUPS).double() / kept.sum()))
    assert found.low < found.value < found.high and found.value == pytest.approx(4.5)
