"""Class share: the between-class share of the variance of vectors; near 0 for mixed classes, near 1 for separated ones.

Protocol: omega squared, a one-way analysis of variance over all dimensions at once (traces of the scatter matrices): the between-class sum
of squares minus (K - 1) within-class variances, divided by the total sum plus one within-class variance (Hays 1963). It has almost no
bias, so for vectors without structure it is about 0 and may be slightly negative. Vectors are in the units of the diffusion transformer
(latents standardised as in training). Intervals resample images. Limit: it does not show whether a nonlinear classifier could separate
the classes; for a linear one see the linear probe.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svgbench.config.records import Score
from svgbench.errors import BadData
from svgbench.metrics.protocol import ImageGroup, protocol
from svgbench.metrics.resampling import Resampling


def class_share(values: Tensor, labels: Tensor) -> float:
    """Omega squared of vectors [N, D] with labels [N]."""
    return _shares(_gram(values, labels), labels, torch.ones(1, len(labels), dtype=torch.float64)).item()


def class_share_score(
    values: Tensor, labels: Tensor, *, what: tuple[str, ...], images: ImageGroup, resampling: Resampling, detail: dict[str, Any]
) -> Score:
    """``class_share`` with its interval; ``what``: the measured vectors, as parts of the protocol."""
    gram = _gram(values, labels)
    value = _shares(gram, labels, torch.ones(1, len(labels), dtype=torch.float64)).item()
    low, high = resampling.interval(value, _shares(gram, labels, resampling.counts(len(labels))), ceiling=1.0)
    classes = f"{len(labels.unique())}classes"
    return Score(
        metric="class_share", value=value, low=low, high=high, count=len(labels),
        protocol=protocol("omega-squared", images=images, details=(*what, classes)), detail={**detail, **resampling.stated("images")},
    )  # fmt: skip


def _gram(values: Tensor, labels: Tensor) -> Tensor:
    """Inner products [N, N] float64 of the vectors, from which the sums of squares are computed."""
    if len(labels.unique()) < 2 or len(labels) <= len(labels.unique()):
        raise BadData(
            f"{len(labels)} images of {len(labels.unique())} classes do not show whether classes are separated; give two classes or "
            "more, with several images each."
        )
    flat = values.flatten(1).cpu().double()
    return flat @ flat.T


def _shares(gram: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Omega squared [R] with each image counted ``weights`` [R, N] times."""
    total = weights.sum(1)
    mean = torch.einsum("rn,nm,rm->r", weights, gram, weights) / total
    around_mean = weights @ gram.diagonal() - mean
    between, seen = -mean, torch.zeros_like(total)
    for label in labels.unique():
        mine = labels.cpu() == label
        part, count = weights[:, mine], weights[:, mine].sum(1)
        between += torch.einsum("rn,nm,rm->r", part, gram[mine][:, mine], part) / count.clamp(min=1)
        seen += count > 0
    within = (around_mean - between) / (total - seen)
    return (between - (seen - 1) * within) / (around_mean + within)
