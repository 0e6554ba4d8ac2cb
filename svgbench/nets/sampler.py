"""From noise to latents: the time grid, the two fixed-step solvers, and guided sampling of a velocity model.

A velocity field is a function (x [B, C, h, w], t, step) -> [B, C, h, w]; times are plain floats, so no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from svgbench.errors import BadConfig, unknown
from svgbench.nets import guidance as guiding
from svgbench.nets.flow import shift_time

Velocity = Callable[[Tensor, float, int], Tensor]


def times(steps: int, shift: float) -> list[float]:
    """The ``steps`` + 1 times from 0 (noise) to 1 (data): a uniform grid, shifted."""
    if steps < 1:
        raise BadConfig(f"sampling needs at least 1 step, not {steps}.")
    return [*(shift_time(i / steps, shift) for i in range(steps)), 1.0]


def euler(velocity: Velocity, noise: Tensor, times: Sequence[float]) -> Tensor:
    """x at the last time: one velocity an interval, order 1."""
    x = noise
    for step, (t, after) in enumerate(pairwise(times)):
        x = x + (after - t) * velocity(x, t, step)
    return x


def heun(velocity: Velocity, noise: Tensor, times: Sequence[float]) -> Tensor:
    """x at the last time: the mean of the velocities at both ends of an interval (trapezoid), order 2, two velocities an interval."""
    x = noise
    for step, (t, after) in enumerate(pairwise(times)):
        here = velocity(x, t, step)
        there = velocity(x + (after - t) * here, after, step)
        x = x + (after - t) / 2 * (here + there)
    return x


SAMPLERS: dict[str, Callable[[Velocity, Tensor, Sequence[float]], Tensor]] = {"euler": euler, "heun": heun}


def guided(model: Any, labels: Tensor, *, scale: float, schedule: str, steps: int) -> Velocity:
    """The model's velocity for labels [B], guided; class and null class go in one batch, and where the weight is 1 the class goes alone."""
    chosen = guiding.parse(schedule)
    both = torch.cat([labels, torch.full_like(labels, model.classes)])

    def velocity(x: Tensor, t: float, step: int) -> Tensor:
        weight = guiding.weight(chosen, scale, t, step, steps)
        if weight == 1.0:
            return model(x, x.new_full((len(x),), t), labels)
        conditional, null = model(torch.cat([x, x]), x.new_full((2 * len(x),), t), both).chunk(2)
        return guiding.guide(conditional, null, weight)

    return velocity


@torch.no_grad()
def sample(
    model: Any,
    noise: Tensor,
    labels: Tensor,
    *,
    steps: int = 25,
    sampler: str = "euler",
    shift: float = 0.15,
    guidance: float = 1.0,
    schedule: str = "constant",
) -> Tensor:
    """Latents [B, C, h, w] from noise [B, C, h, w] and labels [B] by a velocity model; its null class is ``model.classes``.

    ``steps`` counts intervals of the grid; ``guidance`` 1 never evaluates the null class. Row i depends on row i of noise and labels
    alone (up to the rounding of differently shaped products: keep the batch constant where bits matter).
    """
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    velocity = guided(model, labels, scale=guidance, schedule=schedule, steps=steps)
    return SAMPLERS[sampler](velocity, noise, times(steps, shift))
