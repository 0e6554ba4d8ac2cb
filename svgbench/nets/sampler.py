"""Sampling: the solvers, and drawing latents from a model with the settings of a ``SamplingProtocol``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svgbench.config import choices
from svgbench.config.choices import SAMPLERS, listed, samplers_of, shifted_times, stochastic_times
from svgbench.config.sampling import SamplingProtocol
from svgbench.errors import BadConfig, unknown
from svgbench.nets import ddpm, draws
from svgbench.nets.guidance import Field, guided
from svgbench.nets.objectives import OBJECTIVES, objective_of
from svgbench.nets.precision import Precision

Draw = Callable[[int], Tensor]
"""Step -> fresh noise [B, C, h, w]."""

ABSOLUTE, RELATIVE = 1e-6, 1e-3
"""dopri5's tolerances in SiT."""


def euler(velocity: Field, noise: Tensor, times: Sequence[float]) -> Tensor:
    """Data [B, C, h, w] from noise [B, C, h, w]: one velocity per interval, order 1."""
    x = noise
    for step, (t, after) in enumerate(pairwise(times)):
        x = x + (after - t) * velocity(x, t, step)
    return x


def heun(velocity: Field, noise: Tensor, times: Sequence[float]) -> Tensor:
    """Data [B, C, h, w] from noise [B, C, h, w]: the mean of the velocities at both ends of an interval (trapezoid), order 2, two
    velocities per interval."""
    x = noise
    for step, (t, after) in enumerate(pairwise(times)):
        here = velocity(x, t, step)
        there = velocity(x + (after - t) * here, after, step)
        x = x + (after - t) / 2 * (here + there)
    return x


def midpoint(velocity: Field, noise: Tensor, times: Sequence[float]) -> Tensor:
    """Data [B, C, h, w] from noise [B, C, h, w]: the velocity in the middle of an interval, order 2, two velocities per interval."""
    x = noise
    for step, (t, after) in enumerate(pairwise(times)):
        half = (after - t) / 2
        x = x + 2 * half * velocity(x + half * velocity(x, t, step), t + half, step)
    return x


def dopri5(velocity: Field, noise: Tensor, times: Sequence[float]) -> Tensor:
    """Data [B, C, h, w] from noise, by Dormand and Prince's adaptive solver; of ``times``, only the ends are used, and the number of steps
    for a guidance schedule.

    The step length depends on the error of the full batch. Unlike with other solvers, a sample therefore depends (within the tolerances) on
    its batch.
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


def sde_euler(velocity: Field, noise: Tensor, times: Sequence[float], draw: Draw) -> Tensor:
    """Data [B, C, h, w] from noise by the Euler-Maruyama method on SiT's reverse SDE (arXiv 2401.08740, section 2.3), the last step without
    noise.

    dx = (v + w s) dt + sqrt(2 w) dW with the score s = (t v - x) / (1 - t) and SiT's w = 1 - t; so v + w s = (1 + t) v - x.
    """
    x = noise
    for step, (t, after) in enumerate(pairwise(times)):
        length = after - t
        x = x + length * ((1 + t) * velocity(x, t, step) - x)
        if step < len(times) - 2:
            x = x + math.sqrt(2 * (1 - t) * length) * draw(step)
    return x


def average_steps(velocity: Field, noise: Tensor, times: Sequence[float]) -> Tensor:
    """Data [B, C, h, w] from noise [B, C, h, w] with a model of average velocities (MeanFlow): one for each interval, exact if they are."""
    x = noise
    for step, (t, after) in enumerate(pairwise(times)):
        x = x + (after - t) * velocity(x, (t, after), step)
    return x


class Solver(NamedTuple):
    """The implementation of a sampler of ``config.choices.SAMPLERS``."""

    solve: Callable[..., Tensor]
    """(field, noise [B, C, h, w], grid) -> data [B, C, h, w]; a stochastic solver also takes a ``Draw``."""
    grid: Callable[[int, float], Any] = shifted_times
    """(steps, shift) -> the grid for ``solve``."""
    stochastic: bool = False


SOLVERS: Mapping[str, Solver] = {
    "euler": Solver(euler),
    "heun": Solver(heun),
    "midpoint": Solver(midpoint),
    "dopri5": Solver(dopri5),
    "sde-euler": Solver(sde_euler, stochastic_times, stochastic=True),
    "ddim": Solver(ddpm.ddim, lambda steps, shift: ddpm.Chain(steps)),
    "ddpm": Solver(ddpm.ddpm, lambda steps, shift: ddpm.Chain(steps), stochastic=True),
    "meanflow": Solver(average_steps),
}


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
    zero_init: int = 0,
    optimised_scale: bool = False,
    precision: Precision = "fp32",
    head_steps: int = 100,
    temperature: float = 1.0,
    token_limit: float | None = None,
) -> Tensor:
    """Latents [B, C, h, w] from noise [B, C, h, w] and labels [B] by a model of any objective; ``generate`` with the settings as separate
    arguments.

    ``weak``: the weak model of autoguidance, which replaces the unconditional branch.
    """
    sampling = SamplingProtocol(
        sampler=sampler, steps=steps, guidance=guidance, shift=shift, schedule=schedule, against="null" if weak is None else "weak",
        guided_channels=guided_channels, zero_init=zero_init, optimised_scale=optimised_scale, precision=precision,
        head_steps=head_steps, temperature=temperature, token_limit=token_limit,
    )  # fmt: skip
    return generate(model, noise, labels, sampling, weak=weak, seed=seed, indices=indices)


@torch.no_grad()
def generate(
    model: Any,
    noise: Tensor,
    labels: Tensor,
    sampling: SamplingProtocol,
    *,
    weak: Any = None,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Latents [B, C, h, w] from noise [B, C, h, w] and labels [B] by a model of any objective.

    ``sampling.steps`` counts intervals of the time grid (for ddim and ddpm the number of steps kept out of 1000; they ignore the shift).
    Guidance 1 evaluates neither the unconditional branch, whose label is ``model.classes``, nor the ``weak`` model that replaces it.
    Stochastic samplers (sde-euler, ddpm) draw a step's noise from ``seed`` and the samples' ``indices`` [B] (None: 0, 1, ...). Except with
    dopri5, row i depends only on row i of noise, labels and indices, up to rounding: products of different shapes round differently, so
    keep the batch size constant for identical bits. ``sampling.guided_channels``: guide only this number of first channels, which is 3 in
    the sampling code of DiT, SiT and LightningDiT. The first ``sampling.zero_init`` steps use a velocity of zero and do not evaluate the
    network. The networks' products run in ``sampling.precision`` (fp32: as the caller runs them), everything else in the noise's. Raises
    UnknownName or BadConfig for a sampler that is unknown or does not fit the model.
    """
    _check(model, sampling, weak)
    places = torch.arange(len(noise), device=noise.device) if indices is None else indices.to(noise.device)

    objective = OBJECTIVES[objective_of(model)]
    if objective.generate is not None:
        return objective.generate(model, noise, labels, sampling, seed, places)

    def draw(step: int) -> Tensor:
        return draws.normal(draws.stream(seed, f"sampler/{step}"), places, tuple(noise.shape[1:])).to(noise.dtype)

    field = guided(model, labels, sampling, null=model.classes, weak=weak, schedule_time=objective.schedule_time)
    solver = SOLVERS[sampling.sampler]
    grid: Any = solver.grid(sampling.steps, sampling.shift)
    grid = grid.to(noise.device) if isinstance(grid, ddpm.Chain) else grid
    if sampling.zero_init:  # with a velocity of zero the noise is unchanged and only time advances
        return solver.solve(lambda x, t, step: field(x, t, step + sampling.zero_init), noise, grid[sampling.zero_init :])
    return solver.solve(field, noise, grid, draw) if solver.stochastic else solver.solve(field, noise, grid)


def _check(model: Any, sampling: SamplingProtocol, weak: Any) -> None:
    """Refuses a sampler that is unknown or belongs to another objective, and a weak model that is absent, unused or of another
    objective."""
    if sampling.sampler not in SAMPLERS:
        raise unknown("sampler", sampling.sampler, SAMPLERS)
    objective = objective_of(model)
    if SAMPLERS[sampling.sampler].objective != objective:
        predicts, fitting = choices.OBJECTIVES[objective].predicts, listed(samplers_of(objective))
        raise BadConfig(f"sampler {sampling.sampler} does not fit a model that predicts {predicts}; use {fitting}.")
    choice = choices.OBJECTIVES[objective]
    if choice.rounds:
        choices.check_rounds(sampling.sampler, sampling.schedule, sampling.guided_channels)
    if not (sampling.temperature > 0 and (sampling.token_limit is None or sampling.token_limit > 0)):
        raise BadConfig(f"temperature {sampling.temperature:g} and token_limit {sampling.token_limit} must be above 0; change them.")
    if weak is not None and choice.rounds:
        raise BadConfig(f"a model that predicts {choice.predicts} has no autoguidance; leave the weak model out.")
    choices.check_zero_init(sampling.sampler, sampling.steps, sampling.zero_init, sampling.optimised_scale, sampling.against)
    if (weak is not None) != (sampling.against == "weak"):
        raise BadConfig("sampling.against weak needs a weak model, and a weak model needs sampling.against weak; give both or neither.")
    if weak is not None and objective_of(weak) != objective:
        own, others = (choices.OBJECTIVES[objective_of(one)].predicts for one in (model, weak))
        raise BadConfig(f"the model predicts {own}, the weak model {others}; autoguidance needs two models of one objective.")
