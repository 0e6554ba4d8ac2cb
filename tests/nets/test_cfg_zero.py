"""CFG-Zero* (arXiv 2503.18886): zero-init and the optimised scale, and the SVG release's guidance modes."""

import pytest
import torch

import svgbench
from svgbench.config.build import build
from svgbench.config.choices import parse_schedule, shifted_times
from svgbench.config.sampling import SamplingProtocol
from svgbench.errors import BadConfig
from svgbench.nets.guidance import optimised_scale
from svgbench.nets.sampler import sample

NOISE, LABELS = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0])
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
"""Times reach a network in float32."""


class Field:
    """A velocity model of two classes that depends on latent, time and label, the null class included."""

    classes, channels, grid = 2, 2, 4

    def __call__(self, x, t, labels):
        t, label = t[:, None, None, None].to(x.dtype), labels[:, None, None, None].to(x.dtype)
        return torch.sin(x + label) * (1 + t) - label * x.flip(1)


def released(noise, labels, *, steps, scale, mode, shift, solver):
    """shiml20/SVG, rectified_flow/rectified_flow.py, ``sample``: its guidance modes ``late`` and ``cfg_star-SKIP-RATIO`` as that file
    states them, both ends of a Heun step with the step's own number."""
    times, model = shifted_times(steps, shift), Field()

    def velocity(x, t, i):
        at = torch.full((len(x),), t, dtype=x.dtype)
        with_class, without = model(x, at, labels), model(x, at, torch.full_like(labels, 2))
        if mode == "late":
            now = scale if (i + 1) / steps > 0.5 else 1.0
            return without + now * (with_class - without)
        skipped, ratio = int(mode.split("-")[1]), float(mode.split("-")[2])
        return -without * ratio if i < skipped else (1 - scale) * without + scale * with_class

    x = noise
    for i in range(steps):
        length, here = times[i + 1] - times[i], velocity(x, times[i], i)
        if solver == "heun":
            here = 0.5 * (here + velocity(x + length * here, times[i + 1], i))
        x = x + length * here
    return x


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 6, 25])
def test_late_guides_as_the_release_at_odd_and_even_counts(steps, solver):
    expected = released(NOISE, LABELS, steps=steps, scale=3.0, mode="late", shift=0.4, solver=solver)
    got = sample(Field(), NOISE, LABELS, steps=steps, sampler=solver, shift=0.4, guidance=3.0, schedule="late")
    torch.testing.assert_close(got, expected, **ROUNDING)


@pytest.mark.parametrize(("steps", "first"), [(2, 1), (5, 2), (6, 3), (25, 12), (50, 25)])
def test_late_begins_at_the_step_after_half_of_them(steps, first):
    schedule = parse_schedule("late")
    assert [schedule.weight(2.0, 0.0, step, steps) for step in range(steps)] == [1.0] * first + [2.0] * (steps - first)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize(("steps", "skipped"), [(5, 1), (25, 1), (6, 3)])
def test_zero_init_is_the_releases_cfg_star_with_ratio_zero(steps, skipped, solver):
    expected = released(NOISE, LABELS, steps=steps, scale=1.5, mode=f"cfg_star-{skipped}-0", shift=0.15, solver=solver)
    got = sample(Field(), NOISE, LABELS, steps=steps, sampler=solver, shift=0.15, guidance=1.5, zero_init=skipped)
    torch.testing.assert_close(got, expected, **ROUNDING)


@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_constant_velocity_moves_for_the_rest_of_the_time_alone(solver, guidance):
    class Constant(Field):
        def __call__(self, x, t, labels):
            return torch.full_like(x, 2.0)

    got = sample(Constant(), NOISE, LABELS, steps=4, sampler=solver, shift=1.0, guidance=guidance, zero_init=1)
    torch.testing.assert_close(got, NOISE + 2 * 0.75)


def test_a_schedule_counts_the_skipped_steps():
    seen = []

    class Seen(Field):
        def __call__(self, x, t, labels):
            seen.append((len(x), round(t[0].item(), 6)))
            return torch.zeros_like(x)

    sample(Seen(), NOISE, LABELS, steps=4, shift=1.0, guidance=2.0, schedule="late", zero_init=1)
    assert seen == [(3, 0.25), (6, 0.5), (6, 0.75)]


def test_the_optimised_scale_is_the_projection_on_the_unconditional_velocity():
    base, other = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    across = other - (other * base).sum((1, 2, 3), keepdim=True) / base.square().sum((1, 2, 3), keepdim=True) * base
    factor = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)[:, None, None, None]
    torch.testing.assert_close(optimised_scale(factor * base + across, base), factor)
    least = [((factor + step) * base - (factor * base + across)).square().sum() for step in (-1e-3, 0.0, 1e-3)]
    assert least[1] < least[0] and least[1] < least[2]  # the nearest multiple
    assert optimised_scale(base, torch.zeros_like(base)).eq(0).all() and optimised_scale(base.half(), base.half()).dtype == torch.half


@pytest.mark.parametrize("guided", [None, 1])
def test_guidance_with_the_optimised_scale_goes_from_the_scaled_null_velocity(guided):
    x, t = NOISE, torch.zeros(3, dtype=torch.float64)
    with_class, without = Field()(x, t, LABELS), Field()(x, t, torch.full_like(LABELS, 2))
    led = slice(0, guided or 2)
    scale = (with_class[:, led] * without[:, led]).sum((1, 2, 3)) / without[:, led].square().sum((1, 2, 3))
    expected, base = with_class.clone(), scale[:, None, None, None] * without[:, led]
    expected[:, led] = base + 3 * (with_class[:, led] - base)
    how = {"steps": 1, "shift": 1.0, "guidance": 3.0, "optimised_scale": True, "guided_channels": guided}
    torch.testing.assert_close(sample(Field(), NOISE, LABELS, **how), NOISE + expected)
    plain = sample(Field(), NOISE, LABELS, **{**how, "guidance": 1.0})
    torch.testing.assert_close(plain, NOISE + with_class)  # without guidance there is no null velocity to scale


def test_the_python_function_takes_both_and_the_protocol_names_both():
    how = {"steps": 5, "guidance": 1.5, "zero_init": 1, "optimised_scale": True}
    assert torch.equal(svgbench.sample(Field(), NOISE, LABELS, **how), sample(Field(), NOISE, LABELS, shift=0.15, **how))
    protocol = SamplingProtocol(sampler="euler", shift=0.15, **how)
    assert protocol.text == "euler-shift0.15-zero1-optimised-5steps-guidance1.5"
    assert (
        SamplingProtocol(sampler="euler", steps=5, guidance=1.5, shift=0.15).model_dump().keys() & {"zero_init", "optimised_scale"} == set()
    )


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"zero_init": 5}, "zero_init 5 must be at least 0 and below the 5 steps"),
        ({"zero_init": -1}, "zero_init -1 must be at least 0"),
        ({"zero_init": 1, "sampler": "sde-euler"}, "zero_init works with the samplers euler, heun or midpoint, not with sde-euler"),
        ({"zero_init": 1, "sampler": "dopri5"}, "not with dopri5; set it to 0"),
        ({"optimised_scale": True, "weak": Field()}, "guidance against the null class, not weak; set it to false"),
    ],
)
def test_where_they_do_not_apply_they_are_refused(how, sentence):
    with pytest.raises(BadConfig, match=sentence):
        svgbench.sample(Field(), NOISE, LABELS, steps=5, guidance=2.0, **how)


@pytest.mark.parametrize(
    ("settings", "field", "sentence"),
    [
        (
            {"sampling": {"steps": [5, 3], "zero_init": 3}},
            "sampling.zero_init",
            "sampling.zero_init 3 must be at least 0 and below the 3 steps",
        ),
        ({"sampling": {"zero_init": 1, "sampler": "sde-euler"}}, "sampling.zero_init", "not with sde-euler"),
        (
            {"sampling": {"optimised_scale": True, "sampler": "ddim"}, "diffusion": {"objective": "ddpm"}},
            "sampling.optimised_scale",
            "sampling.optimised_scale works with velocity models and the samplers euler, .*, not with ddim",
        ),
        (
            {"sampling": {"optimised_scale": True, "against": "weak"}, "diffusion": {"weak_share": 0.5}},
            "sampling.optimised_scale",
            "against the null class, not weak",
        ),
    ],
)
def test_a_configuration_is_refused_before_anything_is_trained(settings, field, sentence):
    with pytest.raises(BadConfig, match=sentence) as caught:
        build(settings, preset="tiny")
    assert caught.value.field == field
