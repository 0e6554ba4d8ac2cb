import itertools
import math

import pytest
import torch

from svgbench.errors import BadConfig, UnknownName
from svgbench.nets import draws, flow, guidance
from svgbench.nets.sampler import euler, heun, sample, times


class Counting:
    """A velocity model of three classes whose answer is its label's number, that keeps the sizes of its calls."""

    classes = 3

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, labels):
        self.calls.append((len(x), round(t[0].item(), 6)))
        return labels.float()[:, None, None, None].expand_as(x)


NOISE = torch.randn(2, 1, 2, 2)
LABELS = torch.tensor([0, 1])


def test_a_constant_velocity_is_integrated_exactly_by_both_samplers():
    for solver in (euler, heun):
        torch.testing.assert_close(solver(lambda x, t, step: torch.full_like(x, 2.0), NOISE, times(7, 0.15)), NOISE + 2)


def test_heun_integrates_a_velocity_linear_in_time_exactly_and_euler_from_the_left():
    field = lambda x, t, step: torch.full_like(x, 2 * t)  # noqa: E731
    torch.testing.assert_close(heun(field, NOISE, times(5, 1.0)), NOISE + 1)
    torch.testing.assert_close(euler(field, NOISE, times(5, 1.0)), NOISE + 1 - 1 / 5)


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
def test_errors_shrink_with_the_order_of_the_sampler(solver, order):
    errors = [(solver(lambda x, t, step: x, torch.ones(1, dtype=torch.float64), times(n, 1.0)) - math.e).abs().item() for n in (20, 40)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_a_point_mass_is_reached_from_any_noise():
    target = torch.tensor(3.0)
    field = lambda x, t, step: (target - x) / (1 - t)  # noqa: E731
    torch.testing.assert_close(euler(field, NOISE, times(9, 0.15)), target.expand_as(NOISE))


def test_the_time_grid_runs_from_noise_to_data_and_bends_towards_noise():
    grid = times(25, 0.15)
    assert grid[0] == 0 and grid[-1] == 1 and len(grid) == 26
    assert all(a < b for a, b in itertools.pairwise(grid))
    assert all(shifted <= i / 25 for i, shifted in enumerate(grid))
    assert times(4, 1.0) == [0, 0.25, 0.5, 0.75, 1]


def test_guidance_one_never_calls_the_null_class():
    model = Counting()
    sample(model, NOISE, LABELS, steps=5, shift=1.0, guidance=1.0)
    assert [n for n, _ in model.calls] == [2] * 5


def test_guidance_moves_from_the_null_velocity_past_the_class_velocity():
    model = Counting()
    got = sample(model, NOISE, LABELS, steps=5, guidance=4.0)
    assert [n for n, _ in model.calls] == [4] * 5
    torch.testing.assert_close(got - NOISE, (3 + 4 * (LABELS.float() - 3))[:, None, None, None].expand_as(NOISE))


@pytest.mark.parametrize(
    ("schedule", "guided"),
    [("constant", [0, 1, 2, 3]), ("late", [2, 3]), ("early-0.4", [2, 3]), ("interval-0.25-0.5", [1, 2]), ("linear", [0, 1, 2, 3])],
)
def test_schedules_guide_their_steps_and_skip_the_null_class_on_the_others(schedule, guided):
    model = Counting()
    sample(model, NOISE, LABELS, steps=4, shift=1.0, guidance=2.0, schedule=schedule)
    assert [step for step, (n, _) in enumerate(model.calls) if n == 4] == guided


def test_the_linear_schedule_reaches_the_scale_at_the_last_step():
    schedule = guidance.parse("linear")
    assert [guidance.weight(schedule, 3.0, 0.0, step, 4) for step in range(4)] == [1.5, 2.0, 2.5, 3.0]


@pytest.mark.parametrize(
    ("word", "error"),
    [("cosine", UnknownName), ("early", BadConfig), ("early-2", BadConfig), ("interval-0.5", BadConfig), ("interval-0.9-0.1", BadConfig)],
)
def test_words_that_name_no_schedule_are_refused(word, error):
    with pytest.raises(error):
        guidance.parse(word)


def test_unknown_samplers_and_empty_grids_are_refused():
    with pytest.raises(UnknownName, match="Did you mean 'euler'"):
        sample(Counting(), NOISE, LABELS, sampler="eular")
    with pytest.raises(BadConfig):
        times(0, 1.0)


def test_training_pairs_lie_on_the_straight_path():
    data, positions = torch.randn(8, 3, 2, 2), torch.arange(100, 108)
    pair = flow.training_pair(data, positions, noise=draws.stream(0, "n"), time=draws.stream(0, "t"), shift=0.4)
    t = pair.t[:, None, None, None]
    noise = data - pair.target
    torch.testing.assert_close(pair.x_t, (1 - t) * noise + t * data)
    torch.testing.assert_close(noise, draws.normal(draws.stream(0, "n"), positions, (3, 2, 2)))


def test_training_times_are_shifted_towards_noise():
    pair = flow.training_pair(torch.zeros(4096, 1, 1, 1), torch.arange(4096), noise=1, time=2, shift=0.4)
    assert pair.t.median().item() == pytest.approx(flow.shift_time(0.5, 0.4), abs=0.02)


def test_a_training_pair_does_not_depend_on_its_batch():
    data, positions = torch.randn(8, 3, 2, 2), torch.arange(8)
    whole = flow.training_pair(data, positions, noise=1, time=2, shift=0.4)
    part = flow.training_pair(data[3:5], positions[3:5], noise=1, time=2, shift=0.4)
    assert all(torch.equal(a[3:5], b) for a, b in zip(whole, part, strict=True))


def test_the_loss_is_each_samples_mean_squared_error():
    velocity, target = torch.zeros(2, 1, 2, 2), torch.stack([torch.ones(1, 2, 2), torch.full((1, 2, 2), 3.0)])
    assert flow.losses(velocity, target).tolist() == [1, 9]
