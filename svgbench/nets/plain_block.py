"""The pre-norm transformer block without conditioning, and dropout masks that depend only on an image's position."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.nets import draws
from svgbench.nets.execution import checkpointable

# B batch, N tokens (class token first), H heads, D head width


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


class Dropout:
    """Draws the dropout masks of equal blocks in training."""

    def __init__(
        self, name: str, *, width: int, heads: int, mlp: int, dropout: float, attention_dropout: float, embedding: bool = False
    ) -> None:
        """``name``: begins the names of the streams; ``dropout``: of activations; ``attention_dropout``: of attention weights;
        ``embedding``: the tokens before the first block are dropped too."""
        self.name, self.width, self.heads, self.mlp = name, width, heads, mlp
        self.dropout, self.attention_dropout, self.embedding = dropout, attention_dropout, embedding
        self._streams: dict[tuple[int, torch.device, tuple[str, ...]], Tensor] = {}

    def masks(self, positions: Tensor, seed: int, *, tokens: int, blocks: int) -> tuple[Mask | None, list[BlockMasks]]:
        """The masks of the tokens before the first block and in each block, for images at global positions [B]."""
        places = self._places(tokens, blocks)
        if not places:
            return None, [PLAIN] * blocks
        key = (seed, positions.device, tuple(places))
        if key not in self._streams:  # copied to the device once
            numbers = [draws.stream(seed, f"{self.name}/{place}") for place in places]
            self._streams = {key: torch.tensor(numbers, dtype=torch.int64, device=positions.device)}
        shapes, probabilities = zip(*places.values(), strict=True)
        keeps = draws.chances(self._streams[key], positions, shapes, [1 - probability for probability in probabilities])
        masks = {place: Mask(keep, probability) for place, keep, probability in zip(places, keeps, probabilities, strict=True)}
        of_blocks = (BlockMasks(*(masks.get(f"{number}/{kind}") for kind in BlockMasks._fields)) for number in range(blocks))
        return masks.get("embedding"), list(of_blocks)

    def _places(self, tokens: int, blocks: int) -> dict[str, tuple[tuple[int, ...], float]]:
        """Place of each dropout -> the mask's shape for one image, and the probability, if there is any."""
        after = ((tokens, self.width), self.dropout)
        of_block: dict[str, tuple[tuple[int, ...], float]] = {
            "weights": ((self.heads, tokens, tokens), self.attention_dropout), "attention": after,
            "hidden": ((tokens, self.mlp), self.dropout), "mlp": after,
        }  # fmt: skip
        places: dict[str, tuple[tuple[int, ...], float]] = {"embedding": after} if self.embedding else {}
        places |= {f"{number}/{kind}": place for number in range(blocks) for kind, place in of_block.items()}
        return {name: place for name, place in places.items() if place[1]}
