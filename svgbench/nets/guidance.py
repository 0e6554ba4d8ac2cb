"""Guided predictions: classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) and autoguidance (arXiv 2406.02507).

prediction = s unconditional + w (conditional - s unconditional), where w follows a schedule (``config.choices.parse_schedule``). If w is 1,
the unconditional branch is not evaluated. s is 1, or CFG-Zero*'s optimised scale (``optimised_scale``, arXiv 2503.18886).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from svgbench.config.choices import parse_schedule
from svgbench.config.sampling import SamplingProtocol
from svgbench.nets.precision import Precision, products_in

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [B, C, h, w], times [B] or intervals [B, 2], labels [B]) -> prediction [B, C or 2C, h, w]."""
Field = Callable[[Tensor, Any, int], Tensor]
"""(x [B, C, h, w], time or interval (start, end), step) -> guided prediction [B, C or 2C, h, w]; times are plain floats, so no step waits
for the device."""


SMALL_SQUARE = 1e-8
"""Added to the squared norm in the denominator of the optimised scale, as in CFG-Zero*'s code."""


def guide(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """unconditional + weight (conditional - unconditional) of two predictions [B, C, h, w]."""
    return unconditional + weight * (conditional - unconditional)


def optimised_scale(conditional: Tensor, unconditional: Tensor) -> Tensor:
    """CFG-Zero*'s scale [B, 1, 1, 1] of two velocities [B, C, h, w]: <conditional, unconditional> / |unconditional|^2 of each sample. This
    s minimises |conditional - s unconditional| (arXiv 2503.18886, section 4); it is 0 when the unconditional velocity is zero."""
    exact = torch.promote_types(conditional.dtype, torch.float32)
    with_class, base = conditional.to(exact).flatten(1), unconditional.to(exact).flatten(1)
    scale = (with_class * base).sum(1) / (base.square().sum(1) + SMALL_SQUARE)
    return scale.to(conditional.dtype)[:, None, None, None]


def predicting(network: Predict, precision: Precision) -> Predict:
    """The network with its products in this precision (fp32: as the caller runs it); its predictions have x's dtype, so that guidance and
    steps do not round."""
    if precision == "fp32":
        return network

    def predict(x: Tensor, at: Tensor, labels: Tensor) -> Tensor:
        with products_in(precision, x.device):
            prediction = network(x, at, labels)
        return prediction.to(x.dtype)

    return predict


def _filled(t: float | tuple[float, float], count: int, device: torch.device) -> Tensor:
    """A time for each row [count], or an interval [count, 2]; not in x's dtype: bfloat16 cannot represent 999."""
    if isinstance(t, tuple):
        return torch.stack([torch.full((count,), end, device=device) for end in t], dim=1)
    return torch.full((count,), t, device=device)


def guided(
    predict: Predict,
    labels: Tensor,
    sampling: SamplingProtocol,
    *,
    null: int,
    weak: Predict | None = None,
    schedule_time: Callable[[Any], float] = float,
) -> Field:
    """The guided prediction for labels [B]. Both branches of classifier-free guidance go through the network in one batch.

    ``null``: the label of the unconditional branch. ``weak``: a weaker network whose prediction for the same labels replaces the
    unconditional branch (autoguidance). ``schedule_time``: the network's time -> the schedule's time in [0, 1]. Channels from
    ``sampling.guided_channels`` on, and outputs beyond x's channels (a variance), are taken from the conditional branch and not used for
    ``sampling.optimised_scale``. Only the networks run in ``sampling.precision``.
    """
    predict = predicting(predict, sampling.precision)
    weak = None if weak is None else predicting(weak, sampling.precision)
    schedule = parse_schedule(sampling.schedule)
    both = torch.cat([labels, torch.full_like(labels, null)])

    def field(x: Tensor, t: float | tuple[float, float], step: int) -> Tensor:
        weight = schedule.weight(sampling.guidance, schedule_time(t), step, sampling.steps)
        times = _filled(t, len(both), x.device)
        at = times[: len(x)]
        if weight == 1.0:
            return predict(x, at, labels)
        if weak is not None:
            conditional, other = predict(x, at, labels), weak(x, at, labels)
        else:
            conditional, other = predict(torch.cat([x, x]), times, both).chunk(2)
        channels = min(x.shape[1], sampling.guided_channels or x.shape[1])
        with_class, base = conditional[:, :channels], other[:, :channels]
        prediction = guide(with_class, optimised_scale(with_class, base) * base if sampling.optimised_scale else base, weight)
        return prediction if conditional.shape[1] == channels else torch.cat([prediction, conditional[:, channels:]], dim=1)

    return field
