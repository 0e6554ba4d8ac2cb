"""Intervals: how much a number would change with other images from the same distribution.

Protocol: a bootstrap over images. Each of R resamples draws N of the N images with replacement (as multinomial counts from a Philox
generator keyed by the seed); the statistic is computed on each; the interval is value ± 1.96 standard deviations of the R results. It is
centred on the value, not on the resamples: a Frechet distance has a bias of order 1/N, and a resample has twice this bias, so percentiles
of resampled distances are above the distance itself (Efron & Tibshirani 1993, chapter 10 on bias; arXiv 1911.07023 on the bias of FID).
Near zero, where images and reference have the same distribution, such an interval is up to twice too wide, but never too narrow. Limits: it
does not contain the variation between training seeds, nor the bias, which is why protocols state counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Z95 = 1.959963984540054
"""Half width of a 95 % normal interval in standard deviations."""


def chosen(count: int, total: int) -> Tensor:
    """``count`` indices of ``range(total)`` in ascending order, a fixed pseudo-random choice: int64 [count].

    Every second image would be a wrong choice: if labels alternate, it contains only half of the classes.
    """
    if count >= total:
        return torch.arange(total)
    order = np.random.Generator(np.random.Philox(key=[total, count])).permutation(total)
    return torch.from_numpy(np.sort(order[:count]))


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """A seeded bootstrap over images; with fewer than 2 resamples there are no intervals."""

    resamples: int = 50
    seed: int = 0

    def counts(self, images: int, device: torch.device | str = "cpu") -> Tensor:
        """How often each image occurs in each resample: [R, N] float64, rows sum to N."""
        generator = np.random.Generator(np.random.Philox(key=[self.seed & 0xFFFFFFFFFFFFFFFF, images]))
        drawn = generator.multinomial(images, np.full(images, 1.0 / images), size=self.resamples)
        return torch.from_numpy(drawn).to(device, torch.float64)

    def draws(self, images: int, device: torch.device | str = "cpu") -> Tensor:
        """The image at each position of each resample, for statistics that depend on the order: int64 [R, N]."""
        generator = np.random.Generator(np.random.Philox(key=[self.seed & 0xFFFFFFFFFFFFFFFF, images], counter=[0, 0, 0, 1]))
        return torch.from_numpy(generator.integers(0, images, size=(self.resamples, images))).to(device)

    def interval(
        self, value: float, replicates: Tensor, *, floor: float = float("-inf"), ceiling: float = float("inf")
    ) -> tuple[float, float] | tuple[None, None]:
        """(low, high) around a value from the statistic of each resample [R], clipped to the range of the metric."""
        if self.resamples < 2:
            return None, None
        half = Z95 * replicates.double().std().item()
        return max(floor, value - half), min(ceiling, value + half)

    def of_mean(self, values: Tensor, **limits: float) -> tuple[float, float] | tuple[None, None]:
        """The interval of the mean of values [N], one per image."""
        values = values.double()
        return self.interval(values.mean().item(), self.counts(len(values), values.device) @ values / len(values), **limits)

    def stated(self, over: str) -> dict[str, str]:
        """How the interval was computed, for a score's ``detail``."""
        if self.resamples < 2:
            return {"interval": "none"}
        return {"interval": f"95 %, value ± 1.96 standard deviations of {self.resamples} bootstrap resamples over {over}"}
