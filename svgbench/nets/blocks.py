"""The parts of a SiT / DiT transformer (Peebles and Xie 2022, arXiv 2212.09748): attention, MLP, the adaLN-zero block, embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B batch, N tokens, C width, H heads, D head width

QK_EPS = 1e-5
"""Epsilon of the query and key norms: timm's and the SVG release's layer norm default."""


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift for tokens [B, N, C] and per-sample shift, scale [B, C]."""
    return torch.addcmul(shift.unsqueeze(1).to(x.dtype), x, 1 + scale.unsqueeze(1))


class Attention(nn.Module):
    """Multi-head self-attention [B, N, C] -> [B, N, C]; ``qk_norm`` normalises each head's queries and keys by a layer norm."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(width // heads, eps=QK_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads, eps=QK_EPS) if qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q_BHND, k_BHND, v_BHND = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        # under autocast the norms answer in fp32; attention wants one type for all three
        q_BHND, k_BHND = self.q_norm(q_BHND).to(v_BHND.dtype), self.k_norm(k_BHND).to(v_BHND.dtype)
        mixed_BHND = F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)
        return self.proj(mixed_BHND.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU (tanh form), linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each on normalised tokens that the condition shifts and scales, each added through a gate (adaLN-zero).

    The six vectors come from outside as one tensor [B, 6, C] (shift, scale, gate of attention, then of the MLP): the network makes
    those of all blocks in one matrix product, and equal blocks compile once.
    """

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads, qk_norm=qk_norm)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, round(width * mlp_ratio))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.unbind(1)
        x = x + gate_1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_1, scale_1))
        return x + gate_2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_2, scale_2))


class TimeEmbedding(nn.Module):
    """Times [B] in [0, 1] -> [B, width]: 128 cosines and 128 sines of frequencies 1 to 1/10000, then linear, SiLU, linear."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        half = frequencies // 2
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(half) / half), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


def grid_positions(width: int, side: int) -> Tensor:
    """Fixed sin-cos position embeddings [side * side, width] of MAE and DiT: half of the width for the column, half for the row."""
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * omega
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    column = line[None].expand(side, side, -1)
    return torch.cat([column, column.transpose(0, 1)], dim=-1).reshape(side * side, -1).float()
