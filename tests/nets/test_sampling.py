import itertools
import math

import pytest
import torch

from svgbench.config.choices import SAMPLERS, parse_schedule, stochastic_times
from svgbench.config.choices import shifted_times as times
from svgbench.config.sampling import SamplingProtocol
from svgbench.errors import BadConfig, UnknownName
from svgbench.nets import draws, flow
from svgbench.nets.objectives import OBJECTIVES
from svgbench.nets.sampler import SOLVERS, dopri5, euler, generate, heun, midpoint, sample, sde_euler
from svgbench.nets.sit import SiT


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


def test_a_constant_velocity_is_integrated_exactly_by_every_solver():
    for solver in (euler, heun, midpoint, dopri5):
        torch.testing.assert_close(solver(lambda x, t, step: torch.full_like(x, 2.0), NOISE, times(7, 0.15)), NOISE + 2)


def test_heun_integrates_a_velocity_linear_in_time_exactly_and_euler_from_the_left():
    field = lambda x, t, step: torch.full_like(x, 2 * t)  # noqa: E731
    torch.testing.assert_close(heun(field, NOISE, times(5, 1.0)), NOISE + 1)
    torch.testing.assert_close(euler(field, NOISE, times(5, 1.0)), NOISE + 1 - 1 / 5)


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2), (midpoint, 2)])
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


@pytest.mark.parametrize(
    "led", [{}, {"schedule": "linear"}, {"schedule": "late"}, {"schedule": "interval-0-1"}, {"guided_channels": 1}, {"weak": Counting()}]
)
def test_guidance_one_never_calls_the_null_class_and_is_one_work_however_it_would_be_led(led):
    model = Counting()
    got = sample(model, NOISE, LABELS, steps=5, shift=1.0, guidance=1.0, **led)
    assert [n for n, _ in model.calls] == [2] * 5
    assert "weak" not in led or led["weak"].calls == []
    assert torch.equal(got, sample(Counting(), NOISE, LABELS, steps=5, shift=1.0, guidance=1.0))


def test_guidance_moves_from_the_null_velocity_past_the_class_velocity():
    model = Counting()
    got = sample(model, NOISE, LABELS, steps=5, guidance=4.0)
    assert [n for n, _ in model.calls] == [4] * 5
    torch.testing.assert_close(got - NOISE, (3 + 4 * (LABELS.float() - 3))[:, None, None, None].expand_as(NOISE))


@pytest.mark.parametrize(
    ("schedule", "guided"),
    [
        ("constant", [0, 1, 2, 3]),
        ("late", [2, 3]),
        ("late-0.25", [1, 2, 3]),
        ("early-0.4", [2, 3]),
        ("interval-0.25-0.5", [1, 2]),
        ("linear", [0, 1, 2, 3]),
    ],
)
def test_schedules_guide_their_steps_and_skip_the_null_class_on_the_others(schedule, guided):
    model = Counting()
    sample(model, NOISE, LABELS, steps=4, shift=1.0, guidance=2.0, schedule=schedule)
    assert [step for step, (n, _) in enumerate(model.calls) if n == 4] == guided


def test_the_linear_schedule_reaches_the_scale_at_the_last_step():
    schedule = parse_schedule("linear")
    assert [schedule.weight(3.0, 0.0, step, 4) for step in range(4)] == [1.5, 2.0, 2.5, 3.0]


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("cosine", UnknownName),
        ("early", BadConfig),
        ("late-2", BadConfig),
        ("late-", BadConfig),
        ("early-2", BadConfig),
        ("interval-0.5", BadConfig),
        ("interval-0.9-0.1", BadConfig),
    ],
)
def test_words_that_name_no_schedule_are_refused(word, error):
    with pytest.raises(error):
        parse_schedule(word)


def test_unknown_samplers_and_empty_grids_are_refused():
    with pytest.raises(UnknownName, match="Did you mean 'euler'"):
        sample(Counting(), NOISE, LABELS, sampler="eular")
    with pytest.raises(BadConfig):
        times(0, 1.0)


def test_training_pairs_lie_on_the_straight_path():
    data, positions = torch.randn(8, 3, 2, 2), torch.arange(100, 108)
    pair = flow.training_pair(data, positions, noise=draws.stream(0, "n"), time=draws.stream(0, "t"), shift=0.4)
    t = pair.time[:, None, None, None]
    noise = data - pair.target
    torch.testing.assert_close(pair.x, (1 - t) * noise + t * data)
    torch.testing.assert_close(noise, draws.normal(draws.stream(0, "n"), positions, (3, 2, 2)))


def test_training_times_are_shifted_towards_noise():
    pair = flow.training_pair(torch.zeros(4096, 1, 1, 1), torch.arange(4096), noise=1, time=2, shift=0.4)
    assert pair.time.median().item() == pytest.approx(flow.shift_time(0.5, 0.4), abs=0.02)


def test_a_training_pair_does_not_depend_on_its_batch():
    data, positions = torch.randn(8, 3, 2, 2), torch.arange(8)
    whole = flow.training_pair(data, positions, noise=1, time=2, shift=0.4)
    part = flow.training_pair(data[3:5], positions[3:5], noise=1, time=2, shift=0.4)
    assert all(torch.equal(a[3:5], b) for a, b in zip(whole, part, strict=True))


def test_the_loss_is_each_samples_mean_squared_error():
    velocity, target = torch.zeros(2, 1, 2, 2), torch.stack([torch.ones(1, 2, 2), torch.full((1, 2, 2), 3.0)])
    assert flow.losses(velocity, target).tolist() == [1, 9]


def test_the_midpoint_is_taken_in_the_middle_of_an_interval():
    seen = []
    midpoint(lambda x, t, step: seen.append((t, step)) or torch.ones_like(x), NOISE, [0.0, 0.2, 1.0])
    assert seen == [(0.0, 0), (0.1, 0), (0.2, 1), (pytest.approx(0.6), 1)]


def test_dopri5_follows_a_stiff_field_within_its_tolerance_and_passes_each_time_the_step_it_lies_in():
    steps = set()

    def field(x, t, step):
        assert isinstance(t, float) and step == min(int(4 * t), 3)
        steps.add(step)
        return 30 * (math.cos(20 * t) - x)

    got = dopri5(field, torch.zeros(1, dtype=torch.float64), times(4, 1.0))
    exact = (900 * math.cos(20) + 600 * math.sin(20) - 900 * math.exp(-30)) / 1300  # of x' = 30 (cos 20 t - x), x(0) = 0
    assert got.item() == pytest.approx(exact, abs=2e-3) and steps == {0, 1, 2, 3}


def gaussian(mean, std):
    """The velocity E[x_1 - x_0 | x_t] where data is N(mean, std^2): a known field whose flow and SDE both end in that Gaussian."""

    def field(x, t, step=0):
        variance = (1 - t) ** 2 + t**2 * std**2
        return mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)

    return field


def test_the_stochastic_sampler_ends_in_the_data_s_gaussian():
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    fresh = lambda step: torch.randn(20_000, generator=torch.Generator().manual_seed(100 + step))  # noqa: E731
    got = sde_euler(gaussian(2.0, 0.5), noise, stochastic_times(200, 1.0), fresh)
    assert got.mean().item() == pytest.approx(2.0, abs=0.02) and got.std().item() == pytest.approx(0.5, abs=0.02)
    assert torch.corrcoef(torch.stack([got, noise]))[0, 1].abs() < 0.5  # the flow keeps 1: the SDE forgets where it began
    torch.testing.assert_close(euler(gaussian(2.0, 0.5), noise, times(400, 1.0)), 2 + 0.5 * noise, atol=0.02, rtol=0.02)


def test_the_stochastic_grid_is_sits_and_its_last_step_has_no_noise():
    assert stochastic_times(250, 1.0)[:2] == [0.0, pytest.approx(0.96 / 249)]
    assert stochastic_times(250, 1.0)[-2:] == [pytest.approx(0.96), 1.0] and len(stochastic_times(250, 1.0)) == 251
    assert stochastic_times(1, 1.0) == [0.0, 1.0] and stochastic_times(25, 0.15)[12] < stochastic_times(25, 1.0)[12]
    drawn = []
    sde_euler(lambda x, t, step: x, NOISE, stochastic_times(5, 1.0), lambda step: drawn.append(step) or NOISE)
    assert drawn == [0, 1, 2, 3]


class Gaussian:
    """``gaussian`` as a model: the class moves the mean."""

    classes = 3

    def __call__(self, x, t, labels):
        return torch.stack([gaussian(float(label), 0.5)(row, now.item()) for row, now, label in zip(x, t, labels, strict=True)])


def test_a_stochastic_sample_depends_on_its_index_and_seed_and_on_no_batch_mate():
    noise, labels, indices = torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 2, 0]), torch.tensor([7, 8, 9, 10])
    draw = lambda rows, **more: sample(  # noqa: E731
        Gaussian(), noise[rows], labels[rows], steps=6, sampler="sde-euler", shift=1.0, indices=indices[rows], **more
    )
    whole = draw(slice(0, 4))
    assert torch.equal(whole[2:3], draw(slice(2, 3)))
    assert not torch.equal(whole, draw(slice(0, 4), seed=1))
    assert not torch.equal(whole, sample(Gaussian(), noise, labels, steps=6, sampler="sde-euler", shift=1.0))


def test_every_velocity_sampler_samples_and_names_of_the_other_kind_are_refused():
    for sampler in SAMPLERS:
        if SAMPLERS[sampler].objective != "flow":
            with pytest.raises(BadConfig, match="does not fit a model that predicts velocities"):
                sample(Gaussian(), NOISE, LABELS, sampler=sampler)
        else:
            got = sample(Gaussian(), NOISE, LABELS, steps=8, shift=1.0, guidance=2.0, sampler=sampler)
            assert got.shape == NOISE.shape and got.isfinite().all()


def test_autoguidance_leads_away_from_the_weak_model_and_never_calls_the_null_class():
    model, weak = Counting(), Counting()
    got = sample(model, NOISE, LABELS, steps=4, shift=1.0, guidance=3.0, weak=lambda x, t, labels: 0.5 * weak(x, t, labels))
    assert [n for n, _ in model.calls] == [n for n, _ in weak.calls] == [2] * 4
    torch.testing.assert_close(got - NOISE, (0.5 + 3 * 0.5) * LABELS.float()[:, None, None, None].expand_as(NOISE))
    weak.calls.clear()
    sample(model, NOISE, LABELS, steps=4, shift=1.0, guidance=3.0, schedule="late", weak=weak)
    assert [t for _, t in weak.calls] == [0.5, 0.75]


def test_guidance_of_some_channels_leaves_the_others_to_the_class():
    noise = torch.zeros(2, 4, 1, 1)
    got = sample(Counting(), noise, LABELS, steps=3, guidance=4.0, guided_channels=3).flatten(1)
    guided = 3 + 4 * (LABELS.float() - 3)
    torch.testing.assert_close(got, torch.stack([guided, guided, guided, LABELS.float()], dim=1))


def test_a_weak_model_of_another_kind_is_refused():
    weak = type("Weak", (), {"objective": "ddpm"})()
    with pytest.raises(BadConfig, match="the weak model noise; autoguidance needs two models of one objective"):
        sample(Counting(), NOISE, LABELS, guidance=2.0, weak=weak)


@pytest.mark.parametrize(("against", "weak"), [("weak", None), ("null", Counting())])
def test_a_weak_model_and_the_setting_that_asks_for_it_belong_together(against, weak):
    sampling = SamplingProtocol(sampler="euler", steps=2, guidance=2.0, shift=1.0, against=against)
    with pytest.raises(BadConfig, match="give both or neither"):
        generate(Counting(), NOISE, LABELS, sampling, weak=weak)


def test_every_sampler_has_a_solver():
    drawing = {name for name, choice in SAMPLERS.items() if OBJECTIVES[choice.objective].generate}
    assert set(SOLVERS) == set(SAMPLERS) - drawing


def test_logit_normal_times_are_most_often_in_the_middle_and_then_shifted():
    positions = torch.arange(8192)
    t = flow.draw_times(3, positions, "logit-normal")
    assert t.logit().mean().item() == pytest.approx(0, abs=0.03) and t.logit().std().item() == pytest.approx(1, abs=0.03)
    data = torch.zeros(8192, 1, 1, 1)
    pair = flow.training_pair(data, positions, noise=1, time=3, shift=0.4, times="logit-normal")
    torch.testing.assert_close(pair.time, flow.shift_time(t, 0.4))


def test_predicted_data_is_a_velocity_whose_flow_ends_in_it():
    class Says(torch.nn.Module):
        channels, grid, classes, patch = 1, 2, 3, 1

        def forward(self, x, t, labels, tap=None):
            return torch.full_like(x, 3.0)

    model = flow.DataModel(Says())
    torch.testing.assert_close(sample(model, NOISE, LABELS, steps=9, shift=1.0), torch.full_like(NOISE, 3.0))


def test_the_true_data_and_only_it_has_no_loss_also_near_the_end_of_time():
    data, positions = torch.randn(64, 2, 2, 2), torch.arange(64)
    pair = flow.training_pair(data, positions, noise=1, time=2, shift=20.0, prediction="data")
    assert (pair.time > 0.95).any() and (pair.time < 0.95).any()
    said = flow.velocity_of_data(data, pair.x, pair.time)
    assert torch.equal(said, pair.target) and said.isfinite().all()
    plain = flow.training_pair(data, positions, noise=1, time=2, shift=20.0)
    early = pair.time < 0.95
    torch.testing.assert_close(pair.target[early], plain.target[early], rtol=1e-3, atol=1e-3)
    assert (flow.losses(flow.velocity_of_data(data + 0.1, pair.x, pair.time), pair.target) > 0).all()


def test_a_data_model_taps_as_its_transformer_does():
    model = flow.DataModel(SiT(channels=2, grid=2, width=8, depth=2, heads=2, classes=3))
    x, t = torch.randn(2, 2, 2, 2), torch.tensor([0.2, 0.99])
    velocity, tokens = model(x, t, LABELS, tap=1)
    torch.testing.assert_close(velocity, -x / torch.tensor([0.8, 0.05])[:, None, None, None])
    assert tokens.shape == (2, 4, 8)
