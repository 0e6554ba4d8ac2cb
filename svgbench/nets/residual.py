"""The residual encoder: a small ViT on the pixels that adds the detail frozen features lack (SVG, arXiv 2510.15301, section 3.2)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.nets import draws
from svgbench.nets.execution import BlockList, checkpointable

# B batch, N tokens (class token first), H heads, D head width

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, for every frozen encoder: in the release, this ViT has the same input as DINOv3."""


class Mask(NamedTuple):
    """A dropout mask, a function of (seed, place in the network, image position), so that it does not depend on the batch's layout."""

    keep: Tensor
    """[B, ...] bool."""
    probability: float
    """With which an element is dropped."""


class BlockMasks(NamedTuple):
    """Dropout masks of one block; None drops nothing."""

    weights: Mask | None = None
    """For the attention weights, [B, H, N, N]."""
    attention: Mask | None = None
    """For the attention's output, [B, N, C]."""
    hidden: Mask | None = None
    """For the MLP's hidden channels, [B, N, mlp]."""
    mlp: Mask | None = None
    """For the MLP's output, [B, N, C]."""


PLAIN = BlockMasks()
"""Without dropout."""


def drop(x: Tensor, mask: Mask | None) -> Tensor:
    """``x`` [B, ...] with elements dropped and the rest scaled up."""
    return x if mask is None else x * mask.keep / (1 - mask.probability)


def _attention(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, mask: Mask | None) -> Tensor:
    """Self-attention [B, H, N, D], in training with dropout on its weights, as in torch's multi-head attention."""
    if mask is None:
        return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)
    weights_BHNN = (q_BHND @ k_BHND.transpose(2, 3) / math.sqrt(q_BHND.shape[3])).softmax(3)
    return drop(weights_BHNN, mask).to(v_BHND.dtype) @ v_BHND


class PlainBlock(nn.Module):
    """Pre-norm transformer block, [B, N, C] -> [B, N, C], in training with dropout by ``masks``."""

    checkpointing = False

    def __init__(self, width: int, heads: int, mlp: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(width, mlp)
        self.down = nn.Linear(mlp, width)

    @checkpointable
    def forward(self, x: Tensor, masks: BlockMasks = PLAIN) -> Tensor:
        q_BHND, k_BHND, v_BHND = self.qkv(self.norm_1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = self.out(_attention(q_BHND, k_BHND, v_BHND, masks.weights).transpose(1, 2).flatten(2))
        x = x + drop(mixed, masks.attention)
        hidden = drop(F.gelu(self.up(self.norm_2(x))), masks.hidden)
        return x + drop(self.down(hidden), masks.mlp)


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
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self._sizes = (width, heads, mlp)
        self._streams: dict[tuple[int, torch.device, tuple[str, ...]], Tensor] = {}
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
        places = self._places(tokens)
        if not places:
            return None, [PLAIN] * len(self.blocks)
        key = (seed, positions.device, tuple(places))
        if key not in self._streams:  # copied to the device once
            numbers = [draws.stream(seed, f"residual/{place}") for place in places]
            self._streams = {key: torch.tensor(numbers, dtype=torch.int64, device=positions.device)}
        shapes, probabilities = zip(*places.values(), strict=True)
        keeps = draws.chances(self._streams[key], positions, shapes, [1 - probability for probability in probabilities])
        masks = {place: Mask(keep, probability) for place, keep, probability in zip(places, keeps, probabilities, strict=True)}
        blocks = (BlockMasks(*(masks.get(f"{number}/{kind}") for kind in BlockMasks._fields)) for number in range(len(self.blocks)))
        return masks.get("embedding"), list(blocks)

    def _places(self, tokens: int) -> dict[str, tuple[tuple[int, ...], float]]:
        """Place of each dropout -> the mask's shape for one image, and the probability, if there is any."""
        width, heads, mlp = self._sizes
        after = ((tokens, width), self.dropout)
        of_block: dict[str, tuple[tuple[int, ...], float]] = {
            "weights": ((heads, tokens, tokens), self.attention_dropout), "attention": after, "hidden": ((tokens, mlp), self.dropout),
            "mlp": after,
        }  # fmt: skip
        places: dict[str, tuple[tuple[int, ...], float]] = {"embedding": after}
        places |= {f"{number}/{kind}": place for number in range(len(self.blocks)) for kind, place in of_block.items()}
        return {name: place for name, place in places.items() if place[1]}

    def _positions(self, height: int, width: int) -> Tensor:
        """Position embeddings [1, 1 + height * width, C] of the class token and of a grid."""
        side = math.isqrt(self.positions.shape[1] - 1)
        if (height, width) == (side, side):
            return self.positions
        first, rest = self.positions[:, :1], self.positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        rest = F.interpolate(rest, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([first, rest.flatten(2).transpose(1, 2)], dim=1)
