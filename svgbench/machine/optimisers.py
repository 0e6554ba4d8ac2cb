"""The optimiser of all trainings, and the schedules of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW

from svgbench.config import networks


def adam(parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], settings: networks.Optimiser) -> AdamW:
    """Fused AdamW with the configured betas and decay; ``lr_scale`` in a parameter group multiplies its learning rate."""
    return AdamW(parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)


def learning_rate(settings: networks.Training, images_seen: int) -> float:
    """Learning rate of the update that ends at ``images_seen``: linear warm-up, then constant, or a cosine or a line to the final rate."""
    optimiser = settings.optimiser
    warmup = optimiser.lr_warmup_images
    rate = optimiser.lr * min(1.0, images_seen / warmup) if warmup else optimiser.lr
    start = max(warmup, optimiser.decay_start_images)
    if optimiser.schedule == "constant" or images_seen <= start:
        return rate
    passed = (images_seen - start) / max(settings.total_images - start, 1)
    left = 0.5 * (1 + math.cos(math.pi * passed)) if optimiser.schedule == "cosine" else 1 - passed
    return optimiser.final_lr + (optimiser.lr - optimiser.final_lr) * left
