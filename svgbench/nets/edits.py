"""Editing with a velocity model: inversion along the ODE, a blurred box, an edit inside or outside it, and interpolation of two noises.

After appendix C of SVG (arXiv 2510.15301v4): the image is inverted along the ODE up to a time and its trajectory is stored. Noise replaces
the latents inside (or outside) a box. While the image is denoised, the rest is kept on the trajectory through a mask that is blurred by a
Gaussian and faded out. Times go from 0 (noise) to 1 (data). The width of the blur and the linear fading are our choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from svgbench.nets.guidance import Field

REACH = 3
"""A Gaussian blur is cut after this many standard deviations."""


def inverted(velocity: Field, data: Tensor, times: Sequence[float]) -> list[Tensor]:
    """The trajectory of data [B, C, h, w] integrated backwards along the ODE by Euler's method: a state [B, C, h, w] for each of the
    ``times`` (ascending, ending at 1); the last state is the data. Sampling from the first state along the same times returns the data up
    to an error of order 1 in the step length."""
    states = [data]
    for step in reversed(range(len(times) - 1)):
        before, after = times[step], times[step + 1]
        states.append(states[-1] - (after - before) * velocity(states[-1], after, step))
    return states[::-1]


def box(grid: int, share: float = 0.5) -> Tensor:
    """A square in the middle of a grid of positions, about ``share`` of its side: [grid, grid], 1 inside."""
    side = max(1, round(share * grid))
    first = (grid - side) // 2
    mask = torch.zeros(grid, grid)
    mask[first : first + side, first : first + side] = 1
    return mask


def softened(mask: Tensor, sigma: float) -> Tensor:
    """A mask [h, w] blurred by a Gaussian with a standard deviation of ``sigma`` positions, cut after ``REACH`` standard deviations. Edge
    values are repeated beyond the border, so a mask of ones is unchanged. Values stay in [0, 1]."""
    radius = math.ceil(REACH * sigma)
    if radius == 0:
        return mask
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(mask)
    padded = torch.nn.functional.pad(mask[None, None], (radius, radius, radius, radius), mode="replicate")
    rows = torch.nn.functional.conv2d(padded, kernel.view(1, 1, -1, 1))
    return torch.nn.functional.conv2d(rows, kernel.view(1, 1, 1, -1))[0, 0].clamp(0, 1)


def fading(t: float, start: float) -> float:
    """Weight of the mask at time t of an edit that starts at ``start``: linear from 1 at ``start`` to 0 at t = 1."""
    return (1 - t) / (1 - start) if start < 1 else 0.0


def edited(
    velocity: Field,
    trajectory: Sequence[Tensor],
    times: Sequence[float],
    noise: Tensor,
    mask: Tensor,
    *,
    fade: bool = True,
) -> Tensor:
    """Latents [B, C, h, w] of an edit by Euler's method along ``times`` (from the start of the edit to 1).

    ``trajectory``: the inverted image's state at each of the times. ``mask`` [h, w]: 1 where the image is generated again, from ``noise``
    [B, C, h, w] scaled to the standard deviation of states at that time, sqrt((1 - t)^2 + t^2) for standardised latents; 0 where it is kept
    on the trajectory. With ``fade`` this constraint is faded out while the image is denoised (``fading``), so that the parts can adapt to
    each other; without it, positions with mask 0 end exactly at the image's own latents.
    """
    start = times[0]
    x = torch.lerp(trajectory[0], math.hypot(1 - start, start) * noise, mask.to(noise))
    for step in range(len(times) - 1):
        t, after = times[step], times[step + 1]
        x = x + (after - t) * velocity(x, t, step)
        hold = (1 - mask.to(x)) * (fading(after, start) if fade else 1.0)
        x = torch.where(hold == 1, trajectory[step + 1], x + hold * (trajectory[step + 1] - x))
    return x


def linear(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Linear interpolation at ``share`` of the way from one tensor [...] to another of the same shape. Between two independent noises of
    high dimension, the midpoint has about 0.71 of their norm."""
    return (1 - share) * one + share * other


def spherical(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Spherical interpolation (Shoemake 1985) at ``share`` of the way along the great circle from one tensor [...] to another of the same
    shape, each treated as one vector. The norm is interpolated linearly, and so are parallel vectors."""
    angle = torch.acos((one.double() * other.double()).sum().div(one.double().norm() * other.double().norm()).clamp(-1, 1)).item()
    if math.sin(angle) < 1e-6:
        return linear(one, other, share)
    weights = math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)
    norms = one.norm(), other.norm()
    turned = weights[0] * one / norms[0] + weights[1] * other / norms[1]
    return turned * linear(norms[0], norms[1], share)
