"""Irreducible variance of the velocity of flow matching: what no network can predict, E Var[x_1 - x_0 | x_t, class], per number.

Protocol (velocity irreducible variance, arXiv 2606.03578, equations 2 to 5): x_t = (1 - t) x_0 + t x_1 with noise x_0 and standardised
latents x_1, t uniform in (0, 1), the class known. The sum over the numbers of a latent is divided by their count, so that latents of any
size compare; white noise of variance 1 gives pi / 2 = 1.571. Two estimates:

- Gaussian: one Gaussian for each class, whose covariance is a Kronecker product of positions and channels, fitted by maximum likelihood
  in turn (flip-flop; Dutilleul 1999), with n / (n - 1) for the fitted mean. An eigenvalue l adds the integral of l / ((1 - t)^2 + t^2 l),
  which is pi / 2 sqrt(l). The mean over classes is weighted by their images. Limit: real classes are no Gaussians.
- Images: the exact posterior if the data were only these images: image j of the class has the weight exp(-|x_t - t x_j|^2 / 2 (1 - t)^2),
  and the variance is that of the weighted latents / (1 - t)^2. It assumes no shape, but in many dimensions the posterior soon holds a
  single image, so that it is far below the truth and rises with the number of images. Compare it only at equal numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from svgbench.errors import BadData
from svgbench.nets import draws

ROUNDS = 8
"""Rounds of the flip-flop; each fits the channels, then the positions."""
WARM_ROUNDS = 2
"""Rounds of a fit without one group of images, which starts from the fit of all."""
FLOOR = 1e-10
"""Smallest eigenvalue in an inverse, as a share of the largest."""
TIMES = 40
"""Points of the integral over time, at t = u^2 for evenly spaced u: the posterior of many numbers changes near t = 0."""


class Kronecker(NamedTuple):
    """A Gaussian whose covariance is the Kronecker product of two matrices, float64."""

    mean: Tensor
    """[C, S]"""
    channels: Tensor
    """[C, C]"""
    positions: Tensor
    """[S, S], with the trace S"""

    def irreducible(self) -> float:
        """Irreducible variance per number, integrated over t: pi / 2 times the mean root of the eigenvalues."""
        roots = [torch.linalg.eigvalsh(part).clamp_min(0).sqrt().mean() for part in (self.channels, self.positions)]
        return (math.pi / 2 * roots[0] * roots[1]).item()

    def at(self, times: Tensor) -> Tensor:
        """Irreducible variance per number at each time [T] in [0, 1]: [T]."""
        parts = [torch.linalg.eigvalsh(part).clamp_min(0) for part in (self.channels, self.positions)]
        values = torch.outer(*parts).flatten()
        return torch.stack([(values / ((1 - t) ** 2 + t**2 * values).clamp_min(1e-300)).mean() for t in times.double()])


def least_images(channels: int, positions: int) -> int:
    """Fewest images of a class for which both factors of its covariance have full rank."""
    return 2 + math.ceil(max(channels / positions, positions / channels))


def fit(latents: Tensor, *, start: Kronecker | None = None, rounds: int = ROUNDS) -> Kronecker:
    """The most likely Kronecker Gaussian of latents [n, C, S] float64. ``start``: an earlier fit to begin with. Raises BadData for too few
    images, or latents that are not finite."""
    count, channels, positions = latents.shape
    if count < least_images(channels, positions):
        raise BadData(
            f"a class of {count} images gives no covariance of {channels} channels and {positions} positions; "
            f"it needs {least_images(channels, positions)} images."
        )
    if not bool(latents.isfinite().all()):
        raise BadData("latents hold NaN or infinity, so they have no covariance; encode the images again.")
    mean = latents.mean(0)
    centred = latents - mean
    wide = centred.transpose(0, 1)  # [C, n, S]
    channel, space = (torch.eye(channels).double(), torch.eye(positions).double()) if start is None else (start.channels, start.positions)
    for _ in range(rounds):
        white = (wide.reshape(-1, positions) @ _root_of_inverse(space)).view(channels, -1)
        channel = white @ white.T / ((count - 1) * positions)
        white = (_root_of_inverse(channel) @ wide.reshape(channels, -1)).view(-1, positions)
        space = white.T @ white / ((count - 1) * channels)
        scale = space.trace() / positions
        channel, space = channel * scale, space / scale
    return Kronecker(mean, channel, space)


def _root_of_inverse(covariance: Tensor) -> Tensor:
    """The symmetric root of the inverse [D, D] of a covariance [D, D]. Raises BadData for one without variance."""
    values, vectors = torch.linalg.eigh(covariance)
    if not values[-1] > 0:
        raise BadData("the latents of a class do not vary, so they have no covariance; leave the class out.")
    return (vectors * values.clamp_min(FLOOR * values[-1]).rsqrt()) @ vectors.T


def times() -> tuple[Tensor, Tensor]:
    """Times [TIMES] in (0, 1) and their weights [TIMES] in an integral over t, float64: the midpoint rule in sqrt(t)."""
    u = (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES
    return u.square(), 2 * u / TIMES


def posterior_variance(latents: Tensor, noise: Tensor, at: Tensor) -> Tensor:
    """Var[x_1 - x_0 | x_t] per number if the data were only these latents [n, D]: [n, T] for the times ``at`` [T] in [0, 1).

    Row i is for x_t = (1 - t) ``noise[i]`` + t ``latents[i]``, noise [n, D]; float64.
    """
    if not bool(latents.isfinite().all()):
        raise BadData("latents hold NaN or infinity, so they have no posterior; encode the images again.")
    squares = latents.square().sum(1)
    distances = (squares[:, None] + squares[None] - 2 * latents @ latents.T).clamp_min(0)
    along = noise @ latents.T
    along = along.diagonal()[:, None] - along  # noise_i (x_i - x_j)
    columns = []
    for t in at.tolist():
        ratio = t / (1 - t)
        weights = (-ratio * along - ratio**2 / 2 * distances).softmax(1)
        spread = weights @ squares - (weights @ latents).square().sum(1)
        columns.append(spread.clamp_min(0) / (1 - t) ** 2 / latents.shape[1])
    return torch.stack(columns, 1)


def noise_for(indices: Tensor, size: int) -> Tensor:
    """Standard normal noise [n, size] float64 for images at indices [n]; a fixed function of each index."""
    return draws.normal(draws.stream(0, "diffusability/noise"), indices, (size,)).double()
