"""The Frechet distance against closed forms, torch-fidelity and true sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svgbench.errors import BadData, BadInput, NumericalError
from svgbench.metrics.frechet import (
    Gaussian,
    Moments,
    frechet_distance,
    frechet_replicates,
    jackknife_error,
    paired_replicates,
    read_statistics,
    resampled,
    united,
)
from svgbench.metrics.resampling import Resampling


def drawn(count: int, width: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(7))
    return torch.randn(count, width, generator=generator) @ mix + 0.3


def gaussian(features: torch.Tensor) -> Gaussian:
    return Moments.empty(features.shape[1]).add(features).gaussian()


def test_distance_of_diagonal_gaussians_is_the_closed_form():
    a, b = torch.rand(2, 6, dtype=torch.float64) + 0.1
    first, second = Gaussian(torch.zeros(6).double(), a.diag()), Gaussian(torch.ones(6).double() * 2, b.diag())
    expected = 24 + ((a.sqrt() - b.sqrt()) ** 2).sum().item()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-12)


def test_distance_equals_torch_fidelitys():
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    x, y = drawn(400), drawn(300, seed=1) * 1.2 + 0.1
    stats = [{"mu": z.double().numpy().mean(0), "sigma": np.cov(z.double().numpy(), rowvar=False)} for z in (x, y)]
    expected = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(gaussian(x), gaussian(y)) == pytest.approx(expected, rel=1e-9)


def test_distance_of_a_set_to_itself_is_zero_even_with_fewer_images_than_features():
    few = gaussian(drawn(10, width=64))
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-6)


def test_moments_do_not_depend_on_order_or_split():
    x = drawn(500).double() * 100 + 1e4
    whole = gaussian(x)
    parts = Moments.empty(12)
    for part in x[torch.randperm(500, generator=torch.Generator().manual_seed(1))].split(37):
        parts.merge(Moments.empty(12).add(part))
    torch.testing.assert_close(parts.gaussian().covariance, whole.covariance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole.covariance, torch.cov(x.T), rtol=1e-9, atol=1e-9)


def test_counting_images_twice_equals_having_them_twice():
    x = drawn(50).double()
    counts = torch.arange(50, dtype=torch.float64) % 3
    expected = gaussian(x.repeat_interleave(counts.long(), 0))
    torch.testing.assert_close(resampled(x, counts).covariance, expected.covariance)
    torch.testing.assert_close(resampled(x, counts).mean, expected.mean)


@pytest.mark.parametrize("shift, low, high", [(1.0, 0.85, 1.25), (0.0, 1.0, 2.0)])
def test_interval_has_the_width_of_true_sampling_and_errs_to_the_wide_side_near_zero(shift, low, high):
    reference = gaussian(drawn(4000, seed=99) + shift)
    truth = torch.tensor([frechet_distance(gaussian(drawn(300, seed=s)), reference) for s in range(300)]).std()
    resampling = Resampling(resamples=100, seed=3)
    spreads = [frechet_replicates(drawn(300, seed=s), reference, resampling.counts(300)).std() for s in range(1000, 1010)]
    assert low < torch.stack(spreads).mean().item() / truth.item() < high


def test_a_jackknife_over_ten_groups_has_the_spread_of_true_sampling_and_needs_no_features():
    reference = gaussian(drawn(4000, seed=99) + 1.0)
    truth = torch.tensor([frechet_distance(gaussian(drawn(300, seed=s)), reference) for s in range(300)]).std()
    sets = [[Moments.empty(12).add(part) for part in drawn(300, seed=s).split(30)] for s in range(1000, 1040)]
    errors = torch.tensor([jackknife_error(groups, reference) for groups in sets])
    assert 0.85 < errors.square().mean().sqrt().item() / truth.item() < 1.25
    torch.testing.assert_close(united(sets[0]).scatter, Moments.empty(12).add(drawn(300, seed=1000)).scatter)


def test_resampled_distances_are_biased_upwards_so_intervals_are_centred_on_the_value():
    reference, x = gaussian(drawn(4000, seed=99)), drawn(300)
    value = frechet_distance(gaussian(x), reference)
    replicates = frechet_replicates(x, reference, Resampling().counts(300))
    low, high = Resampling().interval(value, replicates, floor=0.0)
    assert replicates.mean() > 1.3 * value
    assert low < value < high
    assert high - value == pytest.approx(value - low) or low == 0.0


def test_pairs_of_equal_images_stay_at_distance_zero_in_every_resample():
    x = drawn(200)
    assert paired_replicates(x, x, Resampling(resamples=5).counts(200)).max() < 1e-6


def test_statistics_in_an_adm_file_are_read_and_pickles_are_not(tmp_path):
    np.savez(tmp_path / "ref.npz", mu=np.zeros(3), sigma=np.eye(3), arr_0=np.zeros(2))
    gaussian, spatial = read_statistics(tmp_path / "ref.npz")
    assert gaussian.covariance.dtype == torch.float64 and spatial is None
    np.savez(tmp_path / "both.npz", mu=np.zeros(3), sigma=np.eye(3), mu_s=np.ones(2, dtype=np.float32), sigma_s=np.eye(2))
    assert read_statistics(tmp_path / "both.npz")[1].mean.tolist() == [1.0, 1.0]
    np.savez(tmp_path / "bad.npz", mu=np.array([{}], dtype=object), sigma=np.eye(3))
    with pytest.raises(BadData, match="pickled objects"):
        read_statistics(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    with pytest.raises(BadData, match="sigma"):
        read_statistics(tmp_path / "other.npz")
    faults = (({"mu": np.full(3, np.nan)}, "NaN"), ({"sigma": np.eye(2)}, r"must be floats \[D\]"), ({"mu": np.arange(3)}, "int64"))
    for broken, words in faults:
        np.savez(tmp_path / "broken.npz", **{"mu": np.zeros(3), "sigma": np.eye(3), **broken})
        with pytest.raises(BadData, match=words):
            read_statistics(tmp_path / "broken.npz")
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(BadData):
        read_statistics(tmp_path / "text.npz")


def test_features_of_two_extractors_and_nan_are_refused():
    with pytest.raises(BadInput, match="width"):
        frechet_distance(gaussian(drawn(20)), gaussian(drawn(20, width=5)))
    broken = drawn(20)
    broken[3, 2] = float("nan")
    with pytest.raises(NumericalError):
        frechet_distance(gaussian(broken), gaussian(drawn(20)))
    with pytest.raises(BadData, match="two images"):
        gaussian(drawn(1))
