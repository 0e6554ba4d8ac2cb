"""From noise to latents: the time grid, the solvers, and guided sampling of velocity models and of noise-predicting models.

A velocity field is a function (x [B, C, h, w], t, step) -> [B, C, h, w]; times are plain floats, so no step waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from svgbench.errors import BadConfig, unknown
from svgbench.nets import ddpm, draws
from svgbench.nets import guidance as guiding
from svgbench.nets.flow import shift_time

Velocity = Callable[[Tensor, float, int], Tensor]
Draw = Callable[[int], Tensor]
"""Fresh noise [B, C, h, w] of a step."""

LAST_STEP = 0.04
"""Length of the stochastic sampler's last, noiseless step: SiT's and REPA's."""
ABSOLUTE, RELATIVE = 1e-6, 1e-3
"""dopri5's tolerances in SiT."""


def times(steps: int, shift: float) -> list[float]:
    """The ``steps`` + 1 times from 0 (noise) to 1 (data): a uniform grid, shifted."""
    if steps < 1:
        raise BadConfig(f"sampling needs at least 1 step, not {steps}.")
    return [*(shift_time(i / steps, shift) for i in range(steps)), 1.0]


def stochastic_times(steps: int, shift: float) -> list[float]:
    """The times of ``sde_euler``: ``steps`` points from 0 to 0.96, shifted inside, then 1 (SiT's grid where the shift is 1)."""
    return times(steps, shift) if steps <= 1 else [*(t * (1 - LAST_STEP) for t in times(steps - 1, shift)), 1.0]


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


def midpoint(velocity: Velocity, noise: Tensor, times: Sequence[float]) -> Tensor:
    """x at the last time: the velocity in the middle of an interval, order 2, two velocities an interval."""
    x = noise
    for step, (t, after) in enumerate(pairwise(times)):
        half = (after - t) / 2
        x = x + 2 * half * velocity(x + half * velocity(x, t, step), t + half, step)
    return x


def dopri5(velocity: Velocity, noise: Tensor, times: Sequence[float]) -> Tensor:
    """x at the last time, by Dormand and Prince's adaptive solver; ``times`` only counts the steps that a guidance schedule sees.

    The step's length follows the whole batch's error: unlike elsewhere, a sample depends (within the tolerances) on its batch.
    """
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise BadConfig("sampler dopri5 needs the package torchdiffeq; install it (pip install torchdiffeq) or use heun.") from None
    steps = len(times) - 1

    def field(t: Tensor, x: Tensor) -> Tensor:
        now = t.item()
        return velocity(x, now, min(int(now * steps), steps - 1))

    ends = torch.tensor([times[0], times[-1]], device=noise.device, dtype=noise.dtype)
    return odeint(field, noise, ends, method="dopri5", atol=ABSOLUTE, rtol=RELATIVE)[-1]


def sde_euler(velocity: Velocity, noise: Tensor, times: Sequence[float], draw: Draw) -> Tensor:
    """x at the last time by Euler and Maruyama's method on SiT's reverse SDE (arXiv 2401.08740 section 2.3), the last step without noise.

    dx = (v + w s) dt + sqrt(2 w) dW with the score s = (t v - x) / (1 - t) and SiT's w = 1 - t; so v + w s = (1 + t) v - x.
    """
    x = noise
    for step, (t, after) in enumerate(pairwise(times)):
        length = after - t
        x = x + length * ((1 + t) * velocity(x, t, step) - x)
        if step < len(times) - 2:
            x = x + math.sqrt(2 * (1 - t) * length) * draw(step)
    return x


ODE: dict[str, Callable[[Velocity, Tensor, Sequence[float]], Tensor]] = {
    "euler": euler,
    "heun": heun,
    "midpoint": midpoint,
    "dopri5": dopri5,
}
OF_VELOCITY = (*ODE, "sde-euler")
OF_NOISE = ("ddim", "ddpm")
SAMPLERS = (*OF_VELOCITY, *OF_NOISE)


def guided(
    say: Callable[[Tensor, Tensor, Tensor], Tensor],
    labels: Tensor,
    *,
    null: int,
    scale: float,
    schedule: str,
    steps: int,
    weak: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    clock: Callable[[float], float] = float,
    guided_channels: int | None = None,
) -> Velocity:
    """What a network ``say``s of labels [B], guided; class and null class go in one batch, and where the weight is 1 the class goes alone.

    ``weak``: a weaker network's word for the same labels in place of the null class (autoguidance, Karras et al., arXiv 2406.02507).
    ``clock``: the time in [0, 1] that the schedule sees. Channels from ``guided_channels`` on, and numbers past x's channels (a
    variance's), are the class's own.
    """
    chosen = guiding.parse(schedule)
    both = torch.cat([labels, torch.full_like(labels, null)])

    def field(x: Tensor, t: float, step: int) -> Tensor:
        weight = guiding.weight(chosen, scale, clock(t), step, steps)
        at = torch.full((len(x),), t, device=x.device)  # not in x's type: half precision has no number 999
        if weight == 1.0:
            return say(x, at, labels)
        if weak is not None:
            word, other = say(x, at, labels), weak(x, at, labels)
        else:
            word, other = say(torch.cat([x, x]), torch.cat([at, at]), both).chunk(2)
        channels = min(x.shape[1], guided_channels or x.shape[1])
        led = guiding.guide(word[:, :channels], other[:, :channels], weight)
        return led if word.shape[1] == channels else torch.cat([led, word[:, channels:]], dim=1)

    return field


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
    weak: Any = None,
    seed: int = 0,
    indices: Tensor | None = None,
    guided_channels: int | None = None,
) -> Tensor:
    """Latents [B, C, h, w] from noise [B, C, h, w] and labels [B] by a velocity or a noise-predicting model.

    ``steps`` counts intervals of the grid (for ddim and ddpm the steps kept of 1000, which no ``shift`` moves); ``guidance`` 1 never
    evaluates the null class, which is ``model.classes``, nor the ``weak`` model that replaces it. Stochastic samplers (sde-euler, ddpm)
    draw a step's noise from ``seed`` at the samples' own ``indices`` [B] (0, 1, ... when empty). Row i depends on row i of noise, labels
    and indices alone (up to the rounding of differently shaped products: keep the batch constant where bits matter; dopri5 aside).
    ``guided_channels``: guide the first so many channels alone, as the sampling code of DiT, SiT and LightningDiT does with 3.
    """
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    says_noise = hasattr(model, "epsilon")
    if says_noise != (sampler in OF_NOISE):
        kind, fitting = ("noise", OF_NOISE) if says_noise else ("velocities", OF_VELOCITY)
        raise BadConfig(f"sampler {sampler} does not fit a model that predicts {kind}; use {' or '.join(fitting)}.")
    if weak is not None and hasattr(weak, "epsilon") != says_noise:
        raise BadConfig("one of the model and the weak model predicts noise, the other velocities; autoguidance needs two of a kind.")
    places = torch.arange(len(noise), device=noise.device) if indices is None else indices.to(noise.device)

    def draw(step: int) -> Tensor:
        return draws.normal(draws.stream(seed, f"sampler/{step}"), places, tuple(noise.shape[1:])).to(noise.dtype)

    how: dict[str, Any] = {
        "null": model.classes, "scale": guidance, "schedule": schedule, "steps": steps, "weak": weak, "guided_channels": guided_channels
    }  # fmt: skip
    if says_noise:
        epsilon = guided(model, labels, clock=lambda k: 1 - k / (ddpm.STEPS - 1), **how)
        chain = ddpm.Chain(steps).to(noise.device)
        return ddpm.ddim(epsilon, noise, chain) if sampler == "ddim" else ddpm.ddpm(epsilon, noise, chain, draw)
    velocity = guided(model, labels, **how)
    if sampler == "sde-euler":
        return sde_euler(velocity, noise, stochastic_times(steps, shift), draw)
    return ODE[sampler](velocity, noise, times(steps, shift))
