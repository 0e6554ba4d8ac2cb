"""Standardisation of latents: means and standard deviations of a training set's raw latents, accumulated in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from svgbench.errors import BadData
from svgbench.nets import draws


@dataclass(frozen=True)
class LatentStats:
    """Mean and standard deviation of each channel, [C] each, float64; RAE's are for each channel and position, [C, h, w]."""

    mean: Tensor
    std: Tensor

    def standardise(self, raw: Tensor) -> Tensor:
        """Raw latents [B, C, h, w] -> latents of zero mean and unit standard deviation, the diffusion model's input; same dtype."""
        return (raw - self._like(self.mean, raw)) / self._like(self.std, raw)

    def restore(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> raw latents, the decoder's input; same dtype."""
        return latents * self._like(self.std, latents) + self._like(self.mean, latents)

    @staticmethod
    def _like(values: Tensor, x: Tensor) -> Tensor:
        if values.ndim == 1:
            return values.to(x)[:, None, None]
        if values.shape[1:] != x.shape[2:]:
            grids = ["x".join(str(side) for side in shape) for shape in (values.shape[1:], x.shape[2:])]
            raise BadData(
                f"statistics of {grids[0]} positions do not fit latents of {grids[1]}; use images of the size they were measured at."
            )
        return values.to(x)


def _of_all_numbers(stats: LatentStats, features: int) -> tuple[Tensor, Tensor]:
    mean = stats.mean.mean()
    return mean, (stats.std.square() + (stats.mean - mean).square()).mean().sqrt()


def _of_features(stats: LatentStats, features: int) -> tuple[Tensor, Tensor]:
    return stats.mean[:features].mean(), stats.std[:features].mean()


def _of_nothing(stats: LatentStats, features: int) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(stats.mean), torch.ones_like(stats.std)


STANDARDISED: Mapping[str, Callable[[LatentStats, int], tuple[Tensor, Tensor]]] = {
    "channel": lambda stats, features: (stats.mean, stats.std),
    "scalar": _of_all_numbers,
    "features": _of_features,
    "none": _of_nothing,
}
"""Standardisation (``config.choices.STANDARDISATIONS``) -> (statistics of each channel [C], count of feature channels) -> mean and standard
deviation, [C] or []."""


def standardised_by(mode: str, stats: LatentStats, features: int) -> LatentStats:
    """The statistics [C] for a standardisation mode, from those of each channel. ``features``: number of feature channels, which come
    first."""
    mean, std = STANDARDISED[mode](stats, features)
    return LatentStats(mean.expand_as(stats.mean).clone(), std.expand_as(stats.std).clone())


def noised(raw: Tensor, positions: Tensor, *, seed: int, tau: float) -> Tensor:
    """Raw latents [B, C, h, w] plus noise of a random strength per sample, sigma = |N(0, tau^2)|, to train a decoder for generated latents
    (RAE, arXiv 2510.11690, section on noise-augmented decoding; its code draws sigma uniformly from [0, tau]). ``positions`` [B]: global
    sample counters, which determine every draw."""
    if not tau:
        return raw
    sigma = draws.normal(draws.stream(seed, "decoder/noise-strength"), positions).abs() * tau
    noise = draws.normal(draws.stream(seed, "decoder/noise"), positions, tuple(raw.shape[1:]))
    return raw + (sigma[:, None, None, None] * noise).to(raw.dtype)


class LatentMoments:
    """Running count, sum and sum of squares of raw latents over images and positions; sums of several parts add up."""

    def __init__(self, channels: int, *, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(1 + 2 * channels, dtype=torch.float64, device=device)
        """Count, sums [C] and sums of squares [C], concatenated."""

    @torch.no_grad()
    def add(self, raw: Tensor) -> None:
        """Adds raw latents [B, C, h, w]."""
        exact = raw.double()
        count = torch.full((1,), raw.numel() // raw.shape[1], dtype=torch.float64, device=raw.device)
        self.sums += torch.cat([count, exact.sum((0, 2, 3)), exact.square().sum((0, 2, 3))])

    def finish(self) -> LatentStats:
        """Mean and population standard deviation. Raises BadData that names a channel that is constant or not finite."""
        count, (total, squares) = self.sums[0], self.sums[1:].chunk(2)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        bad = ~(torch.isfinite(std) & (std > 1e-9 * (1 + mean.abs())))
        if bool(bad.any()):
            channel = int(bad.nonzero()[0])
            raise BadData(
                f"{int(bad.sum())} of {len(std)} latent channels are constant or not finite, the first is {channel} "
                f"(mean {mean[channel]:g}, deviation {std[channel]:g}); train the autoencoder again or leave the channel out."
            )
        return LatentStats(mean, std)
