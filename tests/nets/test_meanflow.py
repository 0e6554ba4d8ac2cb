"""MeanFlow's targets against finite differences and a known flow, its intervals, and its guidance."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.config.schema import Diffusion
from svgbench.errors import BadInput
from svgbench.lab.forecast.flops import DERIVATIVE
from svgbench.machine.measure import count_flops
from svgbench.nets import draws, meanflow
from svgbench.nets.sampler import sample
from svgbench.nets.sit import SiT
from svgbench.stages.diffusion import train

SHAPE = (5, 4, 4)
LABELS = torch.tensor([0, 1, 2, 7, 3, 4])
ALL = torch.arange(6)


def settings(**more) -> Diffusion:
    return Diffusion(objective="meanflow", shift=1.0, meanflow={"intervals": 1.0, **more})


@pytest.fixture(scope="module")
def model() -> meanflow.MeanFlowModel:
    torch.manual_seed(0)
    sit = SiT(channels=5, grid=4, width=32, depth=2, heads=4, classes=7, interval=True)
    for layer in (sit.final, sit.modulation, sit.final_modulation):
        nn.init.normal_(layer.weight, std=0.1)
    return meanflow.MeanFlowModel(sit)


def data() -> Tensor:
    return draws.normal(1, ALL, SHAPE)


def pair_of(model, part: Diffusion):
    return meanflow.training_pair(model, data(), ALL, 11, 12, part, LABELS)


def spread(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def differenced(model: meanflow.MeanFlowModel, part: Diffusion, velocity: Tensor, step: float = 1e-5) -> Tensor:
    """The target by central differences along the path, in double precision."""
    pair, exact = pair_of(model, part), meanflow.MeanFlowModel(SiT(**model.sit.sizes)).double()
    exact.load_state_dict(model.double().state_dict())
    model.float()
    interval, x, v = pair.time.double(), pair.x.double(), velocity.double()

    def average(by: float) -> Tensor:
        return exact(x + by * v, torch.stack([interval[:, 0] + by, interval[:, 1]], dim=1), LABELS)

    change = (average(step) - average(-step)) / (2 * step)
    return v + spread(interval[:, 1] - interval[:, 0]) * change


@torch.no_grad()
def test_the_target_is_the_velocity_plus_the_interval_times_the_derivative_along_the_path(model):
    part, velocity = settings(), data() - draws.normal(11, ALL, SHAPE)
    pair, target = pair_of(model, part), differenced(model, part, velocity)
    torch.testing.assert_close(pair.target.double(), target, rtol=1e-4, atol=1e-4)
    assert (target - velocity).abs().max() > 0.05, "the derivative matters here"


@torch.no_grad()
def test_with_guidance_the_velocity_is_guided_except_for_the_null_class(model):
    part, velocity = settings(guidance=3.0), data() - draws.normal(11, ALL, SHAPE)
    pair = pair_of(model, part)
    without = model(pair.x, pair.time[:, 0], torch.full_like(LABELS, 7))
    guided = torch.where(spread(LABELS == 7), velocity, 3 * velocity - 2 * without)
    torch.testing.assert_close(pair.target.double(), differenced(model, part, guided), rtol=1e-4, atol=1e-4)


def test_an_empty_interval_learns_the_velocity(model):
    pair = pair_of(model, settings(intervals=0.0))
    assert torch.equal(pair.time[:, 0], pair.time[:, 1])
    torch.testing.assert_close(pair.target, data() - draws.normal(11, ALL, SHAPE))


def test_intervals_are_in_order_and_as_many_as_asked():
    interval = meanflow.draw_intervals(5, torch.arange(20_000), settings(intervals=0.25))
    assert ((interval >= 0) & (interval <= 1)).all() and (interval[:, 0] <= interval[:, 1]).all()
    share = (interval[:, 0] < interval[:, 1]).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.01)
    # the earlier of two uniform times has mean 1/3, the later 2/3
    assert interval[:, 0].mean().item() == pytest.approx(1 / 3, abs=0.01)
    assert interval[interval[:, 0] < interval[:, 1], 1].mean().item() == pytest.approx(2 / 3, abs=0.01)


class OneImage(nn.Module):
    """The exact average velocity if all data are one image: (image - x) / (1 - start), the same over every later interval."""

    objective, channels, grid, patch, classes = "meanflow", 5, 4, 1, 7

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image

    def forward(self, x: Tensor, time: Tensor, labels: Tensor, tap: int | None = None) -> Tensor:
        start = time[:, 0] if time.dim() == 2 else time
        return (self.image - x) / spread((1 - start).clamp(min=1e-6))


def test_the_exact_average_velocity_has_no_loss_and_one_step_arrives():
    exact, image = OneImage(data()[:1]), data()[:1]
    everywhere = image.expand(6, *SHAPE)
    part = settings()
    pair = meanflow.training_pair(exact, everywhere, ALL, 11, 12, part, LABELS)
    torch.testing.assert_close(pair.target, exact(pair.x, pair.time, LABELS), rtol=1e-3, atol=1e-3)
    assert meanflow.losses(exact(pair.x, pair.time, LABELS), pair.target).max() < 1e-3
    noise = draws.normal(3, ALL, SHAPE)
    for steps in (1, 3):
        made = sample(exact, noise, LABELS, steps=steps, sampler="meanflow", guidance=1.0)
        torch.testing.assert_close(made, everywhere, rtol=1e-4, atol=1e-4)


def test_the_loss_of_a_sample_is_its_squared_error_over_itself_and_its_gradient_has_the_paper_s_weight():
    prediction, target = data().requires_grad_(), torch.zeros(6, *SHAPE)
    errors = prediction.detach().square().flatten(1).sum(1)
    loss = meanflow.losses(prediction, target)
    torch.testing.assert_close(loss, errors / (errors + meanflow.FLOOR))
    loss.sum().backward()
    torch.testing.assert_close(prediction.grad, spread(1 / (errors + meanflow.FLOOR)) * 2 * prediction.detach())


def test_the_derivative_costs_what_the_forecast_says(model):
    pair = pair_of(model, settings())
    forward = count_flops(lambda: model(pair.x, pair.time, LABELS))
    assert count_flops(lambda: pair_of(model, settings())) == DERIVATIVE * forward


def test_a_sharded_training_is_refused_before_it_reads_anything(tmp_path):
    part = {"objective": "meanflow", "training": {"total_images": 8, "batch": 8}}
    with pytest.raises(BadInput, match=r"--shard cannot train diffusion\.objective meanflow, .* leave it out"):
        train({"diffusion": part, "seed": 0}, {}, tmp_path, SimpleNamespace(sharded=True))


def test_other_objectives_leave_meanflow_s_settings_at_their_defaults():
    plain = build({}, preset="tiny")
    assert build(override(["diffusion.meanflow.guidance=2"]), preset="tiny") == plain
    assert "meanflow" not in plain.diffusion.model_dump(mode="json")
    named = build(override(["diffusion.objective=meanflow", "sampling.sampler=meanflow", "diffusion.meanflow.guidance=2"]), preset="tiny")
    assert named.diffusion.meanflow.guidance == 2 and named.diffusion.prediction == "velocity"
