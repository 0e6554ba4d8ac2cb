"""Inception score (arXiv 1606.03498): exp of the mean KL(p(y|x) || p(y)) of an extractor's class probabilities.

Protocol: the mean over ten shuffled tenths of the samples, as torch-fidelity splits them; float64 sums in one pass, so the value needs no
stored logits. The interval resamples the images and splits each resample into the same ten parts. Limits: it uses no reference, and ten
copies of ten perfect images have the highest score.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from svgbench.errors import BadData
from svgbench.machine.runtime import Runtime

SPLITS = 10


@dataclass
class ClassSums:
    """For each shuffled tenth of N images: their count, the sum of p log p and the sum of p, float64 [10, 2 + K]."""

    parts: Tensor
    """Index of each image's tenth: int64 [N]."""
    sums: Tensor

    @classmethod
    def empty(cls, images: int, classes: int, device: torch.device | str = "cpu") -> ClassSums:
        """Empty sums for a set of ``images`` images."""
        order = np.random.RandomState(2020).permutation(images)
        parts = np.empty(images, dtype=np.int64)
        for part, (a, b) in enumerate(itertools.pairwise(number * images // SPLITS for number in range(SPLITS + 1))):
            parts[order[a:b]] = part
        return cls(torch.from_numpy(parts), torch.zeros(SPLITS, 2 + classes, dtype=torch.float64, device=device))

    def add(self, logits: Tensor, start: int) -> ClassSums:
        """Adds logits [B, K] of the images from ``start`` on; returns itself."""
        log_p = logits.to(self.sums.device, torch.float64).log_softmax(1)
        p = log_p.exp()
        rows = torch.cat([torch.ones_like(p[:, :1]), (p * log_p).sum(1, keepdim=True), p], 1)
        membership = torch.nn.functional.one_hot(self.parts[start : start + len(p)], SPLITS).to(rows.device, torch.float64)
        self.sums += membership.T @ rows
        return self

    def over_ranks(self, runtime: Runtime) -> ClassSums:
        """The sums over the images of all ranks."""
        return ClassSums(self.parts, runtime.all_reduce_(self.sums))

    def score(self) -> float:
        """The mean over the tenths."""
        if not bool((self.sums[:, 0] > 0).all()):
            raise BadData(f"an Inception score over {SPLITS} parts needs {SPLITS} images or more, there are {len(self.parts)}; give more.")
        means = self.sums[:, 1:] / self.sums[:, :1]
        marginal = means[:, 1:]
        gains = means[:, 0] - torch.special.xlogy(marginal, marginal).sum(1)
        return gains.clamp_min(0).exp().mean().item()


def inception_replicates(logits: Tensor, draws: Tensor) -> Tensor:
    """The score, over the same ten parts as the value, in each resample of logits [N, K]: [R]; ``draws`` [R, N]: the image at each position
    (``Resampling.draws``)."""
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    rows = torch.cat([(p * log_p).sum(1, keepdim=True), p], 1)
    parts = ClassSums.empty(len(rows), p.shape[1]).parts.to(rows.device)
    sizes = parts.bincount(minlength=SPLITS).to(rows)[:, None]
    scores = []
    for drawn in draws.to(rows.device):
        weights = rows.new_zeros(SPLITS, len(rows)).index_put_((parts, drawn), rows.new_ones(()), accumulate=True)
        means = weights @ rows / sizes
        gains = means[:, 0] - torch.special.xlogy(means[:, 1:], means[:, 1:]).sum(1)
        scores.append(gains.clamp_min(0).exp().mean())
    return torch.stack(scores) if scores else rows.new_zeros(0)
