"""REPA's loss (Yu et al., arXiv 2410.06940): tokens of an early block, projected by a small MLP, are aligned with frozen features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Sequential):
    """Tokens [B, N, inputs] -> [B, N, outputs]: three linear layers with SiLU between (REPA's projector)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def misalignment(projected: Tensor, features: Tensor) -> Tensor:
    """Minus the mean cosine between projected tokens [B, N, D] and features [B, D, h, w], per image: [B] in [-1, 1].

    Features on another grid are resized bilinearly to the tokens' grid.
    """
    side = round(projected.shape[1] ** 0.5)
    if features.shape[2:] != (side, side):
        features = F.interpolate(features, size=(side, side), mode="bilinear", align_corners=False)
    return -F.cosine_similarity(projected.float(), features.flatten(2).transpose(1, 2), dim=2).mean(1)
