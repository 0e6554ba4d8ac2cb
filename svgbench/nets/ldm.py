"""The convolutional encoder and decoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752), as VA-VAE and SVG use them.

Parameters have LDM's names (``down.L.block.I``, ``mid.block_1``, ``up.L.block.I``), so that a released ``.pt`` loads strictly. Level 0 is
the finest grid on both sides. Pixels are in [-1, 1] inside these two classes only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.nets.execution import channels_last, checkpointable, compiled

# B batch, C channels, N positions of a grid (height x width)


class AutocastGroupNorm(nn.GroupNorm):
    """Group norm that returns its input's dtype: under autocast to bf16, whose convolutions return bf16, torch's returns fp32. Sums are
    fp32 in both, so only the result and the two learned vectors are rounded to bf16. [B, C, h, w] -> [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def _norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """Group norm with ``groups`` groups; None: 32 as in LDM, or fewer if a group would have less than LDM's 4 channels.

    With one channel per group, every channel of a narrow network would have mean 0 and standard deviation 1 in each image, so the network
    could hardly represent its brightness: at base 16 and 20k images that cost 1.2 dB (18.96 against 20.18 dB, one seed).
    """
    if groups is None:
        groups = max(count for count in range(1, min(32, max(1, channels // 4)) + 1) if channels % count == 0)
    return AutocastGroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after group norm and swish, plus a shortcut: [B, inputs, h, w] -> [B, outputs, h, w]."""

    checkpointing = False

    def __init__(self, inputs: int, outputs: int, groups: int | None = None) -> None:
        super().__init__()
        self.norm1 = _norm(inputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = _norm(outputs, groups)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    @checkpointable
    def forward(self, x: Tensor) -> Tensor:
        update = self.conv1(F.silu(self.norm1(x)))
        update = self.conv2(F.silu(self.norm2(update)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + update


class AttentionBlock(nn.Module):
    """Single-head self-attention over the positions of a grid, added to its input: [B, C, h, w] -> [B, C, h, w]."""

    checkpointing = False

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    @checkpointable
    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q_B1NC, k_B1NC, v_B1NC = (layer(normed).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v))
        if q_B1NC.dtype is torch.bfloat16:  # fused attention needs this layout; without it torch computes the products in fp32
            q_B1NC, k_B1NC, v_B1NC = q_B1NC.contiguous(), k_B1NC.contiguous(), v_B1NC.contiguous()
        mixed_B1NC = F.scaled_dot_product_attention(q_B1NC, k_B1NC, v_B1NC)
        return x + self.proj_out(mixed_B1NC.squeeze(1).transpose(1, 2).reshape(x.shape))


class _Downsample(nn.Module):
    """Halves the grid with a strided 3x3 convolution, padded only on the right and below, as in LDM."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    """Doubles the grid: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """The residual blocks of one grid size, each followed by attention if the level has any, then the resampling, if there is one."""

    def __init__(
        self, inputs: int, outputs: int, *, blocks: int, attention: bool, resample: nn.Module | None, name: str, groups: int | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(inputs if i == 0 else outputs, outputs, groups) for i in range(blocks))
        self.attn = nn.ModuleList(AttentionBlock(outputs, groups) for _ in range(blocks if attention else 0))
        self._resampling = name
        if resample is not None:
            self.add_module(name, resample)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return getattr(self, self._resampling)(x) if hasattr(self, self._resampling) else x


class _Middle(nn.Module):
    """Block, attention, block on the coarsest grid."""

    def __init__(self, channels: int, groups: int | None) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = AttentionBlock(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class LdmEncoder(nn.Module):
    """Pixels [B, in_channels, H, W] in [-1, 1] -> [B, z_channels (twice that with ``double_z``: mean, log-variance), h, w].

    ``multipliers`` are for levels from the finest to the coarsest and determine the stride, 2 ** (levels - 1); ``attention`` lists the grid
    sizes with self-attention (besides the middle), for images of ``resolution`` pixels; ``groups`` are those of each group norm (None: 32,
    or fewer on levels narrower than 128 channels).
    """

    def __init__(
        self,
        *,
        base: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        in_channels: int = 3,
        z_channels: int,
        resolution: int,
        double_z: bool = True,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        widths = [base * m for m in multipliers]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(in_channels, base, 3, padding=1)
        self.down = nn.ModuleList(
            _Level(
                widths[i - 1] if i else base,
                width,
                blocks=blocks,
                attention=resolution >> i in attention,
                resample=_Downsample(width) if i < last else None,
                name="downsample",
                groups=groups,
            )
            for i, width in enumerate(widths)
        )
        self.mid = _Middle(widths[-1], groups)
        self.norm_out = _norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], z_channels * (1 + double_z), 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class LdmDecoder(nn.Module):
    """Latents [B, z_channels, h, w] -> pixels [B, out_channels, h * stride, w * stride], in [-1, 1] up to overshoot.

    ``multipliers``, ``attention`` and ``groups`` as in the encoder; each level has one more residual block than ``blocks``.
    """

    def __init__(
        self,
        *,
        base: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        z_channels: int,
        out_channels: int = 3,
        resolution: int,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        widths = [base * m for m in multipliers]
        last = len(widths) - 1
        self.stride = 2**last
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1], groups)
        self.up = nn.ModuleList(
            _Level(
                widths[min(i + 1, last)],
                width,
                blocks=blocks + 1,
                attention=resolution >> i in attention,
                resample=_Upsample(width) if i else None,
                name="upsample",
                groups=groups,
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = _norm(widths[0], groups)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def compile_blocks(self) -> None:
        """Compiles everything before the last convolution, as one graph."""
        self.before_last = compiled(self.before_last)  # type: ignore[method-assign]

    def before_last(self, latents: Tensor) -> Tensor:
        """The input of ``conv_out`` [B, base * multipliers[0], H, W]; the adaptive weight of the GAN loss is computed at that
        convolution."""
        x = self.mid(self.conv_in(channels_last(latents)))
        for level in reversed(self.up):
            x = level(x)
        return F.silu(self.norm_out(x))

    def forward(self, latents: Tensor) -> Tensor:
        return self.conv_out(self.before_last(latents))
