"""The interface of a backend: a network on normalised pixels, and the conversion of official files to its parameter names."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """Base class of the networks that an opener ``(card, state) -> Network`` returns, with random weights.

    ``state`` is the state dict that will be loaded, or None; some architectures can only be recognised by it. Backends of svgbench have a
    row in ``svgbench.config.backends``; other packages register openers as entry points of the group ``svgbench.backends``.
    """

    model: nn.Module
    """The library's module; a weights file must have the names of its state dict."""
    channels: int
    stride: int
    """Pixels per latent position along a side, at the input of the network."""
    side: int | None = None
    """Side of the input in pixels if it is fixed; None if any multiple of the stride is accepted."""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    """Pixel mean and std of the library; None if it has none."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Features or posterior mean [B, C, h, w] of normalised pixels [B, 3, H, W]."""
        raise AttributeError(f"{type(self).__name__} does not encode")

    def encode_blocks(self, pixels: Tensor) -> Tensor:
        """Tokens of each of several blocks, not yet combined, [B, L, C, h, w] of normalised pixels [B, 3, H, W]; transformers only."""
        raise AttributeError(f"{type(self).__name__} has no blocks")

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] of latents [B, C, h, w]; codecs only."""
        raise AttributeError(f"{type(self).__name__} does not decode")

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Converts the state dict of a file to the names and shapes of ``model``."""
        return state
