"""Vision transformers of any library: patch tokens of selected blocks, normalised, as a feature map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.backends.network import Network
from svgbench.config.schema import Features
from svgbench.errors import BadConfig


class TokenNetwork(Network):
    """A transformer whose patch tokens are the features. A backend implements ``tokens``; this class selects and normalises them."""

    features: Features
    depth: int
    prefix: int
    """Class and register tokens in front of the patch tokens."""
    norm: Any
    """The final norm, a module of ``model``: a layer norm, or a library's own RMS norm."""

    def select_features(self, features: Features, *, width: int, depth: int, prefix: int, norm: nn.Module) -> None:
        """Sets the features that ``encode`` returns. Raises BadConfig for a block or a norm that the network does not have."""
        self.features, self.depth, self.prefix = features, depth, prefix
        object.__setattr__(self, "norm", norm)  # registered in ``model`` already
        self.channels = width * features.width
        self.blocks = block_indices(features, depth)
        if features.norm == "plain" and getattr(norm, "normalized_shape", None) is None:
            raise BadConfig(f"features.norm: a {type(norm).__name__} cannot be applied without scale and shift; use affine or none.")

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Outputs [B, prefix + N, C] of the blocks with these indices (from 0, ascending), before the final norm."""
        raise AttributeError(f"{type(self).__name__} gives no tokens")

    def encode(self, pixels: Tensor) -> Tensor:
        """The selected features [B, C, h, w] of pixels [B, 3, H, W], without class and register tokens."""
        normalised = self._normalised(pixels)
        features = self._combined(normalised)
        if self.features.mean_token:
            features = features + normalised[-1].mean(1, keepdim=True)
        return features.transpose(1, 2).unflatten(2, self._grid(pixels)).contiguous()

    def encode_blocks(self, pixels: Tensor) -> Tensor:
        """The normalised tokens of each named block, not yet combined, [B, L, C, h, w] of pixels [B, 3, H, W]; ``combined`` makes features
        of them."""
        stacked = torch.stack(self._normalised(pixels), dim=1)
        return stacked.transpose(2, 3).unflatten(3, self._grid(pixels)).contiguous()

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        height, width = (side // self.stride for side in pixels.shape[2:])
        return height, width

    def _normalised(self, pixels: Tensor) -> list[Tensor]:
        """The normalised patch tokens [B, N, C] of each named block."""
        height, width = self._grid(pixels)
        indices = sorted(set(self.blocks))
        outputs = dict(zip(indices, self.tokens(pixels, indices), strict=True))
        count = next(iter(outputs.values())).shape[1]
        if count != self.prefix + height * width:
            raise BadConfig(
                f"{type(self.model).__name__} gave {count} tokens for {height} x {width} patches and {self.prefix} prefix tokens; "
                "it is not a supported patch encoder."
            )
        return [self._normed(outputs[index][:, self.prefix :]) for index in self.blocks]

    def _combined(self, normalised: list[Tensor]) -> Tensor:
        """One feature [B, N, C] for each token from those of all blocks."""
        if len(normalised) == 1:
            return normalised[0]
        if self.features.combine == "concat":
            return torch.cat(normalised, dim=2)
        stacked = torch.stack(normalised)
        return stacked.sum(0) if self.features.combine == "sum" else stacked.mean(0)

    def _normed(self, tokens: Tensor) -> Tensor:
        if self.features.norm == "none":
            return tokens
        if self.features.norm == "affine":
            return self.norm(tokens)
        if isinstance(self.norm, nn.LayerNorm):
            return F.layer_norm(tokens, self.norm.normalized_shape, eps=self.norm.eps)
        return F.rms_norm(tokens, self.norm.normalized_shape, eps=self.norm.eps)


def combined(blocks: Tensor, features: Features, kept: Tensor | None = None) -> Tensor:
    """Features [B, C, h, w] from the tokens of L blocks [B, L, C, h, w] (``TokenNetwork.encode_blocks``), by their mean or sum. ``kept``
    [B, L]: which blocks are used, at least one of each image; a sum is then scaled to all L blocks."""
    weights = blocks.new_full(blocks.shape[:2], 1 / blocks.shape[1]) if kept is None else kept / kept.sum(1, keepdim=True)
    weights = weights * (blocks.shape[1] if features.combine == "sum" else 1)
    found = (weights.to(blocks.dtype)[:, :, None, None, None] * blocks).sum(1)
    return found + blocks[:, -1].mean((2, 3), keepdim=True) if features.mean_token else found


def block_indices(features: Features, depth: int) -> list[int]:
    """Indices (from 0) of the blocks whose tokens are used, in the order of ``features.layers``. Raises BadConfig for a missing block."""
    named = [-1] if features.layers == "last" else list(features.layers)
    outside = [layer for layer in named if not -depth <= layer <= depth]
    if outside:
        raise BadConfig(f"features.layers: there is no block {outside[0]} among {depth}; name blocks from 1 to {depth} or -{depth} to -1.")
    indices = [layer - 1 if layer > 0 else depth + layer for layer in named]
    if len(set(indices)) != len(indices):
        raise BadConfig(f"features.layers: {named} names a block of {depth} twice.")
    return indices[-1:] if features.combine == "last" else indices


@contextmanager
def block_outputs(blocks: nn.ModuleList, indices: Sequence[int]) -> Iterator[list[Tensor]]:
    """Context in which a forward pass appends the outputs of some blocks to the yielded list."""
    outputs: list[Tensor] = []
    handles = [
        blocks[index].register_forward_hook(lambda _module, _inputs, out: outputs.append(out[0] if isinstance(out, tuple) else out))
        for index in indices
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
