"""MeanFlow: average velocities over an interval of time, which one step integrates (Geng et al. 2025, arXiv 2505.13447).

On the path x_t = (1 - t) x_0 + t x_1 (x_0 noise, x_1 data) the average velocity from time s to a later time e is u(x_s, s, e) =
(x_e - x_s) / (e - s), so one evaluation of u takes a whole step. Differentiating (e - s) u = x_e - x_s by s gives the MeanFlow identity
u = v + (e - s) du/ds with the velocity v = x_1 - x_0 and the total derivative du/ds = v du/dx + d_s u, which trains u without integrals.
The paper's times run to noise: its t and r are 1 - s and 1 - e, its velocities -v and -u.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from svgbench.config.choices import shift_time
from svgbench.config.schema import Diffusion
from svgbench.nets import draws, flow
from svgbench.nets.sit import SiT, Tapped
from svgbench.nets.training_pair import TrainingPair

POWER, FLOOR = 1.0, 0.01
"""p and c of the adaptive weight 1 / (squared error + c)^p (equation 22): the defaults of the authors' code."""


class MeanFlowModel(nn.Module):
    """A model of average velocities around a transformer with interval embeddings."""

    objective = "meanflow"

    def __init__(self, sit: SiT) -> None:
        super().__init__()
        self.sit = sit
        self.channels, self.grid, self.patch, self.classes = sit.channels, sit.grid, sit.patch, sit.classes

    def forward(self, x: Tensor, time: Tensor, labels: Tensor, tap: int | None = None) -> Tensor | Tapped:
        """Average velocity [B, C, h, w] from x [B, C, h, w] over intervals ``time`` [B, 2] from start to end (0 noise, 1 data), for labels
        [B]; times [B] are empty intervals, whose average is the velocity. With ``tap`` also tokens, as in ``SiT``."""
        return self.sit(x, time if time.dim() == 2 else torch.stack([time, time], dim=1), labels, tap)


def draw_intervals(stream: int, positions: Tensor, settings: Diffusion) -> Tensor:
    """Intervals [B, 2] of training at global positions [B]: the earlier and the later of two times; a share of 1 -
    ``settings.meanflow.intervals`` of them ends where it starts."""
    drawn = [flow.draw_times(draws.stream(stream, name), positions, settings.time) for name in ("one", "other")]
    one, other = (shift_time(times, settings.shift) for times in drawn)
    start, end = torch.minimum(one, other), torch.maximum(one, other)
    whole = draws.chance(draws.stream(stream, "interval"), positions, (), settings.meanflow.intervals)
    return torch.stack([start, torch.where(whole, end, start)], dim=1)


def training_pair(
    model: MeanFlowModel, data: Tensor, positions: Tensor, noise: int, time: int, settings: Diffusion, labels: Tensor
) -> TrainingPair:
    """The training pair of latents [B, C, h, w] whose noise and interval are drawn from two streams at global positions [B].

    ``labels`` [B]: those that the network is trained with. With ``settings.meanflow.guidance`` w, v becomes w v + (1 - w) u(x, s, s, null
    class) (equation 19), except where the label is the null class. The target is computed in float32 without gradients."""
    interval = draw_intervals(time, positions, settings)
    start, length = interval[:, 0], (interval[:, 1] - interval[:, 0])[:, None, None, None]
    x_0 = draws.normal(noise, positions, tuple(data.shape[1:]))
    velocity = data - x_0
    x = x_0 + start[:, None, None, None] * velocity
    with torch.no_grad():
        velocity = _guided(model, velocity, x, start, labels, settings.meanflow.guidance)
        return TrainingPair(x, interval, velocity + length * _derivative(model, x, interval, labels, velocity))


def _guided(model: MeanFlowModel, velocity: Tensor, x: Tensor, start: Tensor, labels: Tensor, guidance: float) -> Tensor:
    if guidance == 1:
        return velocity
    without: Any = model(x, start, torch.full_like(labels, model.classes))
    return torch.where((labels == model.classes)[:, None, None, None], velocity, without.float() + guidance * (velocity - without.float()))


def _derivative(model: MeanFlowModel, x: Tensor, interval: Tensor, labels: Tensor, velocity: Tensor) -> Tensor:
    """du/ds [B, C, h, w] along the path, by one forward-mode product; uncompiled, because compiled code has none, and with plain attention,
    because fused attention has none."""

    def average(x: Tensor, start: Tensor) -> Tensor:
        return model(x, torch.stack([start, interval[:, 1]], dim=1), labels)

    with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH), torch.autocast(x.device.type, enabled=False):
        return torch.func.jvp(average, (x, interval[:, 0]), (velocity, torch.ones_like(interval[:, 0])))[1]


def losses(average: Tensor, target: Tensor) -> Tensor:
    """The squared error of each sample's average velocity, summed and divided by its own value (the adaptive weight): [B] float32."""
    error = (average.float() - target).square().flatten(1).sum(1)
    return error / (error.detach() + FLOOR) ** POWER
