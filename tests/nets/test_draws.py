import math

import pytest
import torch

from svgbench.nets import draws

ROWS = torch.arange(4096)


def test_streams_are_63_bits_and_differ_by_seed_and_purpose():
    streams = {draws.stream(seed, purpose) for seed in range(50) for purpose in ("noise", "time", "dropout 1")}
    assert len(streams) == 150
    assert all(0 <= s < 2**63 for s in streams)


def test_a_stream_never_changes_and_agrees_with_splitmix64_in_plain_integers():
    assert draws.stream(0, "noise") == 5127903134280592399
    assert draws.integers(draws.stream(0, "noise"), torch.arange(3), 1000).tolist() == [307, 420, 109]


def test_uniform_draws_lie_inside_the_unit_interval_with_its_moments():
    u = draws.uniform(draws.stream(1, "u"), ROWS, (64,)).double()
    assert u.min() > 0 and u.max() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / u.numel()))
    assert u.var().item() == pytest.approx(1 / 12, rel=0.01)


def test_normal_draws_have_a_normals_moments_and_tails():
    z = draws.normal(draws.stream(1, "z"), ROWS, (65,)).double()
    assert z.mean().item() == pytest.approx(0, abs=4 / math.sqrt(z.numel()))
    assert z.std().item() == pytest.approx(1, abs=0.01)
    assert (z**3).mean().item() == pytest.approx(0, abs=0.03)
    assert (z**4).mean().item() == pytest.approx(3, abs=0.06)
    assert (z.abs() > 3).double().mean().item() == pytest.approx(0.0027, abs=0.0005)


def test_neighbouring_rows_and_elements_and_streams_are_uncorrelated():
    z = draws.normal(draws.stream(1, "z"), ROWS, (64,))
    other = draws.normal(draws.stream(2, "z"), ROWS, (64,))
    bound = 4.5 / math.sqrt(z.numel())
    for a, b in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z, other), (z[:, :32], z[:, 32:])):
        assert abs((a * b).mean().item()) < bound


@pytest.mark.parametrize("draw", [draws.uniform, draws.normal, lambda s, i, shape: draws.chance(s, i, shape, 0.3)])
def test_a_draw_does_not_depend_on_its_batch_bit_for_bit(draw):
    s, shape = draws.stream(7, "x"), (3, 5, 7)
    whole = draw(s, torch.arange(1000, 1037), shape)
    assert torch.equal(whole[11:12], draw(s, torch.tensor([1011]), shape))
    assert torch.equal(whole.flip(0), draw(s, torch.arange(1000, 1037).flip(0), shape))


def test_chance_meets_its_probability_and_its_ends():
    s = draws.stream(3, "drop")
    assert draws.chance(s, ROWS, (63,), 0.1).float().mean().item() == pytest.approx(0.1, abs=0.003)
    assert not draws.chance(s, ROWS, (64,), 0.0).any()
    assert draws.chance(s, ROWS, (64,), 1.0).all()


def test_integers_cover_their_range_evenly():
    counts = draws.integers(draws.stream(0, "labels"), torch.arange(20000), 10).bincount(minlength=10)
    assert counts.min() > 1800 and counts.max() < 2200


def test_indices_of_another_type_are_refused():
    with pytest.raises(ValueError, match="int64"):
        draws.uniform(1, torch.zeros(3), ())
