"""The parts of a SiT / DiT transformer (Peebles and Xie 2022, arXiv 2212.09748): attention, MLPs, the adaLN-zero block, embeddings.

LightningDiT (arXiv 2501.01423) and RAE (arXiv 2510.11690) choose RMS norms, SwiGLU and rotary positions; RAE draws its time frequencies at
random.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.nets.execution import checkpointable

# B batch, N tokens, C width, H heads, D head width

Norm = Literal["layer", "rms"]
MlpKind = Literal["gelu", "swiglu"]

QK_EPS = 1e-5
"""Epsilon of the query and key layer norms: timm's and the SVG release's default."""
RMS_EPS = 1e-6
"""Epsilon of every RMS norm: LightningDiT's and RAE's."""
ROTARY_PERIOD = 10000.0
FREQUENCIES = 256
"""Size of DiT's time embedding, half of it cosines. RAE draws this many frequencies, so its embedding is twice as large."""


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift for tokens [B, N, C] and shift, scale [B, 1, C] per sample or [B, N, C] per token."""
    return torch.addcmul(shift.to(x.dtype), x, 1 + scale)


class RmsNorm(nn.RMSNorm):
    """x / sqrt(mean x^2 + 1e-6) times a learned gain, in the gain's precision, so that half-precision numbers are not squared
    (LightningDiT). Tokens [B, N, C] -> [B, N, C]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=RMS_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def token_norm(width: int, kind: Norm) -> nn.Module:
    """The norm before a modulation: DiT's plain layer norm, or LightningDiT's RMS norm with a learned gain."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) if kind == "layer" else RmsNorm(width)


def head_norm(width: int, kind: Norm) -> nn.Module:
    """The norm of each head's queries or keys [..., D]."""
    return nn.LayerNorm(width, eps=QK_EPS) if kind == "layer" else RmsNorm(width)


def rotate(x_BHND: Tensor, angles: Tensor) -> Tensor:
    """Rotates neighbouring pairs of each head's channels by the angles of their position, as cosines and sines [2, N, D] (arXiv
    2104.09864)."""
    first, second = x_BHND.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-second, first), dim=-1).flatten(-2)
    return x_BHND * angles[0] + turned * angles[1]


class Attention(nn.Module):
    """Multi-head self-attention [B, N, C] -> [B, N, C]; ``qk_norm`` normalises each head's queries and keys."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool, norm: Norm = "layer") -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm = head_norm(width // heads, norm) if qk_norm else nn.Identity()
        self.k_norm = head_norm(width // heads, norm) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        """``rotary``: cosines and sines [2, N, D] of the positions, or None."""
        q_BHND, k_BHND, v_BHND = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q_BHND, k_BHND = self.q_norm(q_BHND), self.k_norm(k_BHND)
        if rotary is not None:
            q_BHND, k_BHND = rotate(q_BHND, rotary), rotate(k_BHND, rotary)
        # under autocast the norms and the rotation return fp32; attention needs one dtype for all three
        mixed_BHND = F.scaled_dot_product_attention(q_BHND.to(v_BHND.dtype), k_BHND.to(v_BHND.dtype), v_BHND)
        return self.proj(mixed_BHND.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU (tanh form), linear: tokens [B, N, C] -> [B, N, C]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGlu(nn.Module):
    """Linear to two halves, SiLU of the first times the second, linear (Shazeer 2020, arXiv 2002.05202): tokens [B, N, C] -> [B, N, C]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


def hidden_width(width: int, mlp_ratio: float, kind: MlpKind) -> int:
    """Hidden width of a block's MLP; SwiGLU's is two thirds, rounded down, so that the MLP has as many weights (LightningDiT, RAE)."""
    return round(width * mlp_ratio) if kind == "gelu" else int(2 / 3 * int(width * mlp_ratio))


class Block(nn.Module):
    """Attention and MLP on normalised tokens; the condition shifts and scales their inputs and gates their outputs (adaLN-zero).

    The six vectors are passed in as one tensor (shift, scale, gate of attention, then of the MLP), [B, 6, C] per sample or [B, N, 6, C] per
    token: the network computes those of all blocks in one matrix product, and equal blocks are compiled only once.
    """

    checkpointing = False

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, qk_norm: bool, norm: Norm = "layer", mlp: MlpKind = "gelu") -> None:
        super().__init__()
        self.norm1 = token_norm(width, norm)
        self.attn = Attention(width, heads, qk_norm=qk_norm, norm=norm)
        self.norm2 = token_norm(width, norm)
        self.mlp = (Mlp if mlp == "gelu" else SwiGlu)(width, hidden_width(width, mlp_ratio, mlp))

    @checkpointable
    def forward(self, x: Tensor, modulation: Tensor, rotary: Tensor | None = None) -> Tensor:
        if modulation.ndim == 3:
            modulation = modulation.unsqueeze(1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.unbind(2)
        x = x + gate_1 * self.attn(modulate(self.norm1(x), shift_1, scale_1), rotary)
        return x + gate_2 * self.mlp(modulate(self.norm2(x), shift_2, scale_2))


class TimeEmbedding(nn.Module):
    """Times [B] -> [B, width]: 128 cosines and 128 sines of frequencies 1 to 1/10000, then linear, SiLU, linear."""

    frequencies: Tensor

    def __init__(self, width: int, frequencies: int = FREQUENCIES) -> None:
        super().__init__()
        half = frequencies // 2
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(half) / half), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class FourierEmbedding(nn.Module):
    """Times [B] -> [B, width]: sines and cosines of 256 frequencies drawn once from N(0, 1) and kept, then linear, SiLU, linear (RAE)."""

    frequencies: Tensor

    def __init__(self, width: int, frequencies: int = FREQUENCIES) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.register_buffer("frequencies", torch.randn(frequencies))

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * self.frequencies * 2 * math.pi
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


def grid_positions(width: int, side: int, spacing: float = 1.0) -> Tensor:
    """Fixed sin-cos position embeddings [side * side, width] of MAE and DiT: half of the width for the column, half for the row.
    ``spacing``: distance between neighbours; with 1/2 a grid of twice the side covers the extent of the first one (PixArt, arXiv
    2310.00426)."""
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = spacing * torch.arange(side, dtype=torch.float64)[:, None] * omega
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    column = line[None].expand(side, side, -1)
    return torch.cat([column, column.transpose(0, 1)], dim=-1).reshape(side * side, -1).float()


def rotary_angles(head_width: int, side: int, spacing: float = 1.0) -> Tensor:
    """Cosines and sines [2, side * side, D] of the positions of a grid: half of a head's pairs rotate by the row, half by the column
    (EVA-02). ``spacing``: distance between neighbours."""
    half = head_width // 2
    omega = 1.0 / ROTARY_PERIOD ** (torch.arange(0, half, 2).float() / half)
    line = (spacing * torch.arange(side)[:, None] * omega).repeat_interleave(2, dim=1)
    row, column = line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)
    angles = torch.cat([row, column], dim=-1).reshape(side * side, -1)
    return torch.stack([angles.cos(), angles.sin()])
