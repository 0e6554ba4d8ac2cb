"""RAE's decoder (Zheng et al. 2025, arXiv 2510.11690): a plain ViT from latents to pixels, with the architecture of MAE's decoder (arXiv
2111.06377)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.errors import BadConfig, BadInput
from svgbench.nets.blocks import grid_positions
from svgbench.nets.execution import BlockList
from svgbench.nets.plain_block import PlainBlock

# B batch, N tokens (class token first), C width

EPSILON = 1e-12
"""Epsilon of every layer norm, as in Hugging Face's ViT-MAE, on which the release is based."""


class PatchPixels(nn.Linear):
    """Tokens [B, C, h, w] -> pixels [B, 3, h * patch, w * patch], one patch per token, with outputs ordered by row, column, colour."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__(width, patch * patch * 3)
        self.patch = patch

    def forward(self, tokens: Tensor) -> Tensor:
        """Unpatchified pixels."""
        patches = F.linear(tokens.permute(0, 2, 3, 1), self.weight, self.bias)
        return patches.unflatten(3, (self.patch, self.patch, 3)).permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class ViTDecoder(nn.Module):
    """Latents [B, z_channels, h, w] -> pixels [B, 3, h * stride, w * stride], where h = w = resolution / stride.

    Linear embedding, class token, fixed sin-cos positions, pre-norm blocks, norm, one linear layer to the pixels of each patch.
    """

    positions: Tensor

    def __init__(
        self, *, z_channels: int, resolution: int, stride: int, width: int, layers: int, heads: int, mlp: int, spacing: float = 1.0
    ) -> None:
        """``spacing``: distance between the positions of neighbouring tokens."""
        super().__init__()
        if width % heads or width % 4:
            raise BadConfig(
                f"a decoder of width {width} with {heads} heads cannot be built; use a width that is a multiple of 4 and of heads."
            )
        self.stride, self.grid = stride, resolution // stride
        self.embed = nn.Linear(z_channels, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = BlockList(PlainBlock(width, heads, mlp, eps=EPSILON) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.conv_out = PatchPixels(width, stride)  # the name of LdmDecoder's last layer, at which the adaptive weight is computed
        self.register_buffer("positions", grid_positions(width, self.grid, spacing), persistent=False)

    def compile_blocks(self) -> None:
        """Compiles the blocks, as one graph for all."""
        self.blocks.compile()

    def before_last(self, latents: Tensor) -> Tensor:
        """The input of ``conv_out``, [B, width, h, w]."""
        wanted = (self.embed.in_features, self.grid, self.grid)
        if latents.shape[1:] != wanted:
            raise BadInput(f"latents of {list(latents.shape[1:])} do not fit a decoder of {list(wanted)}; use what it was trained on.")
        patches = self.embed(latents.flatten(2).transpose(1, 2)) + self.positions
        x = torch.cat([self.class_token.expand(len(latents), -1, -1), patches], dim=1)  # the class token's position is zeros
        for block in self.blocks.called(x):
            x = block(x)
        return self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))

    def forward(self, latents: Tensor) -> Tensor:
        """Pixels, unclamped: in [-1, 1] as trained here, normalised by the encoder's statistics as released."""
        return self.conv_out(self.before_last(latents))
