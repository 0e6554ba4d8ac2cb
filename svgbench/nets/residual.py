"""The residual encoder: a small ViT on the pixels that adds the detail frozen features lack (SVG, arXiv 2510.15301, section 3.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.nets import draws

# B batch, N tokens (class token first), H heads, D head width

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, for every frozen encoder: in the release, this ViT has the same input as DINOv3."""


class _Keys:
    """Dropout masks as functions of (seed, place in the network, image position), so that they do not depend on the batch's layout."""

    def __init__(self, seed: int, positions: Tensor, probability: float, attention: float = 0.0) -> None:
        """``attention``: the probability for attention weights."""
        self._seed, self._positions, self._probability, self.attention = seed, positions, probability, attention

    def drop(self, x: Tensor, place: str, probability: float | None = None) -> Tensor:
        """``x`` [B, ...] with elements dropped and the rest scaled up."""
        probability = self._probability if probability is None else probability
        if not probability:
            return x
        keep = draws.chance(draws.stream(self._seed, f"residual/{place}"), self._positions, tuple(x.shape[1:]), 1 - probability)
        return x * keep / (1 - probability)


def _attention(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, keys: _Keys | None, place: int) -> Tensor:
    """Self-attention [B, H, N, D], in training with dropout on its weights, as in torch's multi-head attention."""
    if keys is None or not keys.attention:
        return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)
    weights_BHNN = (q_BHND @ k_BHND.transpose(2, 3) / math.sqrt(q_BHND.shape[3])).softmax(3)
    return keys.drop(weights_BHNN, f"{place}/weights", keys.attention).to(v_BHND.dtype) @ v_BHND


class PlainBlock(nn.Module):
    """Pre-norm transformer block, [B, N, C] -> [B, N, C]; with ``keys``, dropout is applied, with masks for this ``place``."""

    def __init__(self, width: int, heads: int, mlp: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(width, mlp)
        self.down = nn.Linear(mlp, width)

    def forward(self, x: Tensor, keys: _Keys | None = None, place: int = 0) -> Tensor:
        q_BHND, k_BHND, v_BHND = self.qkv(self.norm_1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = self.out(_attention(q_BHND, k_BHND, v_BHND, keys, place).transpose(1, 2).flatten(2))
        x = x + (keys.drop(mixed, f"{place}/attention") if keys else mixed)
        hidden = F.gelu(self.up(self.norm_2(x)))
        hidden = self.down(keys.drop(hidden, f"{place}/hidden") if keys else hidden)
        return x + (keys.drop(hidden, f"{place}/mlp") if keys else hidden)


class ResidualEncoder(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> residual [B, channels, H / patch, W / patch], before alignment.

    ViT with class token and learned positions, then Linear-GELU-Linear on the patch tokens. ``dropout`` applies to the ViT's activations,
    ``attention_dropout`` to the attention weights; ``drop`` is the probability that a learned mask token replaces all of an image's
    residual (``replace``). For images of another size than in training, positions are resampled bicubically to their grid, as in DINOv2;
    the release does not support other sizes.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        channels: int,
        layers: int,
        width: int,
        heads: int,
        mlp: int,
        dropout: float,
        drop: float,
        patch: int,
        resolution: int,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout, self.drop, self.attention_dropout = dropout, drop, attention_dropout
        self.project = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, (resolution // patch) ** 2 + 1, width).normal_(std=0.02))
        self.blocks = nn.ModuleList(PlainBlock(width, heads, mlp) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, channels))
        self.mask_token = nn.Parameter(torch.zeros(channels))
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor, positions: Tensor | None = None, seed: int = 0) -> Tensor:
        """``positions`` [B] (global sample counters): given in training; dropout masks depend on them and on ``seed``."""
        keys = None if positions is None else _Keys(seed, positions, self.dropout, self.attention_dropout)
        grid = self.project((images - self.pixel_mean) / self.pixel_std)
        tokens = [self.class_token.expand(len(images), -1, -1), grid.flatten(2).transpose(1, 2)]
        x = torch.cat(tokens, dim=1) + self._positions(*grid.shape[2:])
        x = keys.drop(x, "embedding") if keys else x
        for place, block in enumerate(self.blocks):
            x = block(x, keys, place)
        return self.head(self.norm(x)[:, 1:]).transpose(1, 2).unflatten(2, grid.shape[2:])

    def _positions(self, height: int, width: int) -> Tensor:
        """Position embeddings [1, 1 + height * width, C] of the class token and of a grid."""
        side = math.isqrt(self.positions.shape[1] - 1)
        if (height, width) == (side, side):
            return self.positions
        first, rest = self.positions[:, :1], self.positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        rest = F.interpolate(rest, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([first, rest.flatten(2).transpose(1, 2)], dim=1)

    def replace(self, aligned: Tensor, positions: Tensor, seed: int) -> Tensor:
        """Aligned residuals [B, c, h, w], each replaced by the mask token with probability ``drop``. This happens after alignment, so that
        batch statistics are those of real residuals."""
        if not self.drop:
            return aligned
        dropped = draws.chance(draws.stream(seed, "residual/whole"), positions, (), self.drop)
        return torch.where(dropped[:, None, None, None], self.mask_token[:, None, None].to(aligned.dtype), aligned)
