"""Flow matching on the straight path x_t = (1 - t) x_0 + t x_1, x_0 noise, x_1 data (Lipman et al., arXiv 2210.02747; SVG section 3.4)."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from torch import Tensor

from svgbench.nets import draws

Time = TypeVar("Time", Tensor, float)


class Pair(NamedTuple):
    """What the network sees and what it should say: x_t [B, C, h, w], t [B], target velocity x_1 - x_0 [B, C, h, w]."""

    x_t: Tensor
    t: Tensor
    target: Tensor


def shift_time(t: Time, shift: float) -> Time:
    """t <- s t / (1 + (s - 1) t): below 1, s moves times towards noise (t = 0); both ends stay where they are."""
    return shift * t / (1 + (shift - 1) * t)


def training_pair(data: Tensor, positions: Tensor, *, noise: int, time: int, shift: float) -> Pair:
    """The training pair of latents x_1 [B, C, h, w] whose noise and time are drawn from two streams at global positions [B]."""
    t = shift_time(draws.uniform(time, positions), shift)
    x_0 = draws.normal(noise, positions, tuple(data.shape[1:]))
    target = data - x_0
    return Pair(x_0 + t[:, None, None, None] * target, t, target)


def losses(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample's velocity: [B] float32."""
    return (velocity.float() - target).square().flatten(1).mean(1)
