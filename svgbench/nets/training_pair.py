"""Training pairs of diffusion objectives."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class TrainingPair(NamedTuple):
    """The network's input x [B, C, h, w], its time (flow: [B], 0 noise to 1 data; ddpm: [B], the step's number; meanflow: [B, 2],
    an interval; mar: ``mar.Hidden``, the hidden tokens), and the target [B, C, h, w] (mar: the noise of the hidden tokens)."""

    x: Tensor
    time: Any
    target: Tensor
