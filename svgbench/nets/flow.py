"""Flow matching on the straight path x_t = (1 - t) x_0 + t x_1, x_0 noise, x_1 data (Lipman et al., arXiv 2210.02747; SVG section 3.4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from svgbench.config.choices import shift_time
from svgbench.nets import draws
from svgbench.nets.sit import SiT, Tapped
from svgbench.nets.training_pair import TrainingPair

LEAST_REMAINDER = 0.05
"""JiT's lower bound on 1 - t when the velocity is computed from predicted data (arXiv 2511.13720)."""


def draw_times(stream: int, positions: Tensor, kind: Literal["uniform", "logit-normal"]) -> Tensor:
    """Unshifted training times [B] at global positions [B]: uniform, or the logistic of a standard normal (arXiv 2403.03206)."""
    return draws.uniform(stream, positions) if kind == "uniform" else draws.normal(stream, positions).sigmoid()


def velocity_of_data(data: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """(x_1 - x_t) / (1 - t) of data [B, C, h, w] at times [B]; 1 - t is clamped to at least 0.05."""
    return (data - x_t) / (1 - t).clamp(min=LEAST_REMAINDER)[:, None, None, None]


def training_pair(
    data: Tensor,
    positions: Tensor,
    *,
    noise: int,
    time: int,
    shift: float,
    times: Literal["uniform", "logit-normal"] = "uniform",
    prediction: Literal["velocity", "data"] = "velocity",
) -> TrainingPair:
    """The training pair of latents x_1 [B, C, h, w] whose noise and time are drawn from two streams at global positions [B].

    ``prediction: data``: the target is ``velocity_of_data`` of the true data, so that the true data has loss 0 also near t = 1, where 1 - t
    is clamped.
    """
    t = shift_time(draw_times(time, positions, times), shift)
    x_0 = draws.normal(noise, positions, tuple(data.shape[1:]))
    target = data - x_0
    x_t = x_0 + t[:, None, None, None] * target
    return TrainingPair(x_t, t, target if prediction == "velocity" else velocity_of_data(data, x_t, t))


def losses(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample's velocity: [B] float32."""
    return (velocity.float() - target).square().flatten(1).mean(1)


def misdirection(velocity: Tensor, target: Tensor) -> Tensor:
    """1 - cosine between velocity and target [B, C, h, w] over the channels, averaged over the positions of each sample [B]:
    LightningDiT's direction loss (arXiv 2501.01423, section 4)."""
    return (1 - torch.cosine_similarity(velocity.float(), target.float(), dim=1)).flatten(1).mean(1)


class DataModel(nn.Module):
    """A velocity model around a transformer that predicts the data x_1 (JiT, arXiv 2511.13720)."""

    def __init__(self, sit: SiT) -> None:
        super().__init__()
        self.sit = sit
        self.channels, self.grid, self.patch, self.classes = sit.channels, sit.grid, sit.patch, sit.classes

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, tap: int | None = None) -> Tensor | Tapped:
        """Velocity [B, C, h, w]; with ``tap`` also tokens, as in ``SiT``."""
        data = self.sit(x, t, labels, tap)
        if isinstance(data, Tapped):
            return Tapped(velocity_of_data(data.prediction, x, t), data.tokens)
        return velocity_of_data(data, x, t)
