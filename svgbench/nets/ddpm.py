"""DDPM as in DiT: noise prediction over 1000 steps of the linear schedule, a learned variance, DDIM and ancestral sampling.

Ho et al. 2020 (arXiv 2006.11239); Nichol and Dhariwal 2021 (arXiv 2102.09672) for the variance; Song et al. 2020 (arXiv 2010.02502) for
DDIM; Peebles and Xie 2022 (arXiv 2212.09748). Step k, 0 (nearly data) to 999 (nearly noise): x_k = sqrt(a_k) x + sqrt(1 - a_k) eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from svgbench.config.choices import DDPM_STEPS, kept_steps
from svgbench.nets import draws
from svgbench.nets.sit import SiT, Tapped
from svgbench.nets.training_pair import TrainingPair

STEPS = DDPM_STEPS
FIRST_BETA, LAST_BETA = 1e-4, 0.02
"""The linear schedule of Ho et al., section 4."""
COSINE_OFFSET, MOST_BETA = 0.008, 0.999
"""s of the cosine schedule, and the largest beta (Nichol and Dhariwal, section 3.2)."""
HALF_BIN = 1 / 255
"""Half a bin of a likelihood over 8-bit values in [-1, 1]. DiT also applies it to latents."""

Epsilon = Callable[[Tensor, int, int], Tensor]
"""(x [B, C, h, w], k, number of steps before this one) -> predicted noise [B, C, h, w], or [B, 2C, h, w] with the variance last."""


def _linear() -> Tensor:
    """The betas [1000] of the linear schedule."""
    return torch.linspace(FIRST_BETA, LAST_BETA, STEPS, dtype=torch.float64)


def _cosine() -> Tensor:
    """The betas [1000] of the cosine schedule."""
    places = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
    kept = ((places + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).cos().square()
    return (1 - kept[1:] / kept[:-1]).clamp(max=MOST_BETA)


SCHEDULES: Mapping[str, Callable[[], Tensor]] = {"linear": _linear, "cosine": _cosine}


class Chain(nn.Module):
    """Constants of the kept steps (of 1000): float32 tables [steps], in the order of k."""

    signal: Tensor

    def __init__(self, steps: int = STEPS, schedule: Literal["linear", "cosine"] = "linear") -> None:
        """``steps``: the number of kept steps (``config.choices.kept_steps``)."""
        super().__init__()
        self.kept = kept_steps(steps)
        kept = torch.cumprod(1 - SCHEDULES[schedule](), 0)[self.kept]
        before = torch.cat([kept.new_ones(1), kept[:-1]])
        betas = 1 - kept / before
        variance = betas * (1 - before) / (1 - kept)
        clipped = torch.cat([variance[1:2], variance[1:]]) if steps > 1 else betas  # the first is 0 and has no logarithm
        tables = {
            "signal": kept.sqrt(),
            "noise": (1 - kept).sqrt(),
            "signal_before": before.sqrt(),
            "noise_before": (1 - before).sqrt(),
            "mean_of_data": betas * before.sqrt() / (1 - kept),
            "mean_of_x": (1 - before) * (1 - betas).sqrt() / (1 - kept),
            "log_variance": clipped.log(),  # of the posterior q(x_before | x_k, x): the least variance a model can predict
            "log_beta": betas.log(),  # the greatest variance
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def at(self, table: str, place: Tensor | int) -> Tensor:
        """The table's values at places [B] of the chain as [B, 1, 1, 1], or at one place as [1, 1, 1, 1]."""
        return getattr(self, table)[place].reshape(-1, 1, 1, 1)

    def data(self, x: Tensor, noise: Tensor, place: Tensor | int) -> Tensor:
        """The data [B, C, h, w] in x [B, C, h, w], given its ``noise`` [B, C, h, w]."""
        return (x - self.at("noise", place) * noise) / self.at("signal", place)

    def mean(self, data: Tensor, x: Tensor, place: Tensor | int) -> Tensor:
        """Mean [B, C, h, w] of q(x_before | x_k, data)."""
        return self.at("mean_of_data", place) * data + self.at("mean_of_x", place) * x

    def model_log_variance(self, numbers: Tensor | None, place: Tensor | int) -> Tensor:
        """Log variance [B, C, h, w] from a model's outputs (-1: least, 1: greatest variance); None: the greatest, DDPM's sigma^2 = beta."""
        least, greatest = self.at("log_variance", place), self.at("log_beta", place)
        if numbers is None:
            if isinstance(place, int):
                return greatest if place else least
            return torch.where(place.reshape(-1, 1, 1, 1) == 0, least, greatest)
        share = (numbers + 1) / 2
        return share * greatest + (1 - share) * least


class EpsilonModel(nn.Module):
    """A transformer that predicts the noise in x_k; its times are step numbers from 0 to 999."""

    objective = "ddpm"

    def __init__(self, sit: SiT) -> None:
        super().__init__()
        self.sit, self.chain = sit, Chain()
        self.channels, self.grid, self.patch, self.classes = sit.channels, sit.grid, sit.patch, sit.classes

    def forward(self, x: Tensor, timestep_index: Tensor, labels: Tensor, tap: int | None = None) -> Tensor | Tapped:
        """All outputs, [B, C, h, w] or [B, 2C, h, w] with the variance last; with ``tap`` k also the tokens after k blocks."""
        return self.sit.outputs(x, timestep_index, labels, tap)

    def epsilon(self, x: Tensor, timestep_index: Tensor, labels: Tensor) -> Tensor:
        """The noise [B, C, h, w] in x [B, C, h, w] at steps [B] for labels [B]."""
        return self.sit(x, timestep_index, labels)


class FlowView(nn.Module):
    """A noise-predicting model as a velocity model of the straight path. Up to a factor, x_t = (1 - t) eps + t data is x_k of the step with
    the same signal-to-noise ratio (the nearest of the 1000); the velocity is the predicted data minus the predicted noise."""

    def __init__(self, model: EpsilonModel) -> None:
        super().__init__()
        self.model, self.channels, self.grid, self.classes = model, model.channels, model.grid, model.classes

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Velocity [B, C, h, w] of x [B, C, h, w] at times [B] (0 noise, 1 data) for labels [B]."""
        chain = self.model.chain
        length = (t.square() + (1 - t).square()).sqrt()
        index = (chain.signal[None] - (t / length)[:, None]).abs().argmin(1)
        x_k = x / length[:, None, None, None]
        noise = self.model.epsilon(x_k, index, labels)
        return chain.data(x_k, noise, index) - noise


def training_pair(chain: Chain, data: Tensor, positions: Tensor, *, noise: int, time: int) -> TrainingPair:
    """The training pair of latents [B, C, h, w] whose noise and step are drawn from two streams at global positions [B]."""
    index = draws.integers(time, positions, STEPS)
    eps = draws.normal(noise, positions, tuple(data.shape[1:]))
    return TrainingPair(chain.at("signal", index) * data + chain.at("noise", index) * eps, index, eps)


def losses(chain: Chain, outputs: Tensor, data: Tensor, pair: TrainingPair) -> Tensor:
    """The loss of each sample [B] float32: mean squared error of the noise, plus the term of the variational bound if a variance is
    predicted (DiT)."""
    outputs, channels = outputs.float(), data.shape[1]
    error = (outputs[:, :channels] - pair.target).square().flatten(1).mean(1)
    if outputs.shape[1] == channels:
        return error
    return error + bound(chain, outputs[:, :channels].detach(), outputs[:, channels:], data, pair)


def bound(chain: Chain, noise: Tensor, numbers: Tensor, data: Tensor, pair: TrainingPair) -> Tensor:
    """The term of the variational bound for each sample's step, [B] in bits per dimension. It trains only the variance; the predicted noise
    is detached.

    It is the KL divergence of the model's Gaussian from q(x_before | x_k, x), and at step 0 the negative log likelihood of the data.
    """
    k = pair.time
    mean = chain.mean(chain.data(pair.x, noise, k), pair.x, k)
    log_variance, true = chain.model_log_variance(numbers, k), chain.at("log_variance", k)
    square = (chain.mean(data, pair.x, k) - mean).square()
    divergence = 0.5 * (log_variance - true + (true - log_variance).exp() + square * (-log_variance).exp() - 1)
    term = torch.where((k == 0).reshape(-1, 1, 1, 1), -log_likelihood(data, mean, 0.5 * log_variance), divergence)
    return term.flatten(1).mean(1) / math.log(2)


def log_likelihood(data: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability [B, C, h, w] of each value's 8-bit bin under a Gaussian; the outermost bins extend to infinity. Uses DiT's tanh
    approximation of the CDF."""

    def cdf(x: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    above = cdf((data - mean + HALF_BIN) * (-log_scale).exp())
    below = cdf((data - mean - HALF_BIN) * (-log_scale).exp())
    above, below = torch.where(data > 0.999, 1.0, above), torch.where(data < -0.999, 0.0, below)
    return (above - below).clamp(min=1e-12).log()


def ddim(epsilon: Epsilon, x: Tensor, chain: Chain) -> Tensor:
    """Data [B, C, h, w] from noise [B, C, h, w] by DDIM with eta 0, from the chain's last step to its first."""
    for place in reversed(range(len(chain.kept))):
        noise = epsilon(x, chain.kept[place], len(chain.kept) - 1 - place)[:, : x.shape[1]]
        x = chain.at("signal_before", place) * chain.data(x, noise, place) + chain.at("noise_before", place) * noise
    return x


def ddpm(epsilon: Epsilon, x: Tensor, chain: Chain, draw: Callable[[int], Tensor], limit: float | None = None) -> Tensor:
    """Data [B, C, h, w] from noise by ancestral sampling; ``draw``: step -> fresh noise [B, C, h, w], not called for the last step;
    ``limit``: largest absolute value of the data that a step predicts."""
    channels = x.shape[1]
    for place in reversed(range(len(chain.kept))):
        step = len(chain.kept) - 1 - place
        outputs = epsilon(x, chain.kept[place], step)
        data = chain.data(x, outputs[:, :channels], place)
        mean = chain.mean(data if limit is None else data.clamp(-limit, limit), x, place)
        if place:
            numbers = outputs[:, channels:] if outputs.shape[1] > channels else None
            mean = mean + (0.5 * chain.model_log_variance(numbers, place)).exp() * draw(step)
        x = mean
    return x
