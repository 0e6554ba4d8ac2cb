"""The residual encoder: a small ViT on the pixels that adds the detail frozen features lack (SVG, arXiv 2510.15301, section 3.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.nets import draws
from svgbench.nets.execution import BlockList
from svgbench.nets.plain_block import PLAIN, BlockMasks, Dropout, Mask, PlainBlock, drop

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, for every frozen encoder: in the release, this ViT has the same input as DINOv3."""


class ResidualNetwork(nn.Module):
    """What the residual encoders share: pixels as DINOv3 gets them, and a learned mask token that replaces an image's whole residual with
    probability ``drop``."""

    pixel_mean: Tensor
    pixel_std: Tensor
    mask_token: nn.Parameter
    drop: float

    def _share(self, channels: int, drop: float) -> None:
        """Adds what is shared, after a subclass's own parameters, whose order checkpoints keep."""
        self.drop = drop
        self.mask_token = nn.Parameter(torch.zeros(channels))
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] with ImageNet's mean and standard deviation removed."""
        return (images - self.pixel_mean) / self.pixel_std

    def compile_blocks(self) -> None:
        """Compiles the blocks in place, if there are any."""

    def replace(self, aligned: Tensor, positions: Tensor, seed: int) -> Tensor:
        """Aligned residuals [B, c, h, w], each replaced by the mask token with probability ``drop``. This happens after alignment, so that
        batch statistics are those of real residuals."""
        if not self.drop:
            return aligned
        dropped = draws.chance(draws.stream(seed, "residual/whole"), positions, (), self.drop)
        return torch.where(dropped[:, None, None, None], self.mask_token[:, None, None].to(aligned.dtype), aligned)


class PatchResidual(ResidualNetwork):
    """Images [B, 3, H, W] in [0, 1] -> residual [B, channels, H / patch, W / patch], before alignment: a linear map of each patch, without
    dropout."""

    def __init__(self, *, channels: int, drop: float, patch: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, channels, patch, stride=patch)
        self._share(channels, drop)

    def forward(self, images: Tensor, positions: Tensor | None = None, seed: int = 0) -> Tensor:
        """``positions``, ``seed``: unused; those of ``ResidualEncoder``."""
        return self.project(self.normalised(images))


class ResidualEncoder(ResidualNetwork):
    """Images [B, 3, H, W] in [0, 1] -> residual [B, channels, H / patch, W / patch], before alignment.

    ViT with class token and learned positions, then Linear-GELU-Linear on the patch tokens. ``dropout`` applies to the ViT's activations,
    ``attention_dropout`` to the attention weights; ``drop`` is the probability that a learned mask token replaces all of an image's
    residual (``replace``). For images of another size than in training, positions are resampled bicubically to their grid, as in DINOv2;
    the release does not support other sizes.
    """

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
        self._dropout = Dropout(
            "residual", width=width, heads=heads, mlp=mlp, dropout=dropout, attention_dropout=attention_dropout, embedding=True
        )
        self.project = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, (resolution // patch) ** 2 + 1, width).normal_(std=0.02))
        self.blocks = BlockList(PlainBlock(width, heads, mlp) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, channels))
        self._share(channels, drop)

    def compile_blocks(self) -> None:
        """Compiles the blocks in place."""
        self.blocks.compile()

    def forward(self, images: Tensor, positions: Tensor | None = None, seed: int = 0) -> Tensor:
        """``positions`` [B] (global sample counters): given in training; dropout masks depend on them and on ``seed``."""
        grid = self.project(self.normalised(images))
        tokens = [self.class_token.expand(len(images), -1, -1), grid.flatten(2).transpose(1, 2)]
        x = torch.cat(tokens, dim=1) + self._positions(*grid.shape[2:])
        first, masks = (None, [PLAIN] * len(self.blocks)) if positions is None else self._masks(positions, seed, x.shape[1])
        x = drop(x, first)
        of_first = masks[0] if masks else PLAIN
        for block, of_block in zip(self.blocks.called(x, *(mask.keep for mask in of_first if mask)), masks, strict=True):
            x = block(x, of_block)
        return self.head(self.norm(x)[:, 1:]).transpose(1, 2).unflatten(2, grid.shape[2:])

    def _masks(self, positions: Tensor, seed: int, tokens: int) -> tuple[Mask | None, list[BlockMasks]]:
        """The dropout masks after the embedding and in each block, for images at global positions [B]."""
        return self._dropout.masks(positions, seed, tokens=tokens, blocks=len(self.blocks))

    def _positions(self, height: int, width: int) -> Tensor:
        """Position embeddings [1, 1 + height * width, C] of the class token and of a grid."""
        side = math.isqrt(self.positions.shape[1] - 1)
        if (height, width) == (side, side):
            return self.positions
        first, rest = self.positions[:, :1], self.positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        rest = F.interpolate(rest, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([first, rest.flatten(2).transpose(1, 2)], dim=1)
