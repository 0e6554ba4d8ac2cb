"""What a backend hands over: a network on normalised pixels, and how the names in its official files become its own."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """The base of what an opener ``(card, state) -> Network`` returns; weights are still random. ``state`` is the content of the file that
    will be loaded, or None, for architectures that show in the file only.

    Openers of other packages register as entry points of the group ``svgbench.backends``.
    """

    model: nn.Module
    """The library's own module; its state dict names what a weights file must hold."""
    channels: int
    stride: int
    """Network pixels per latent position."""
    side: int | None = None
    """Side in pixels of the images it takes, where it takes no other."""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    """Pixel statistics as the library states them, where it does."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Features or posterior mean [B, C, h, w] of normalised pixels [B, 3, H, W]."""
        raise AttributeError(f"{type(self).__name__} does not encode")

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] of latents [B, C, h, w]; codecs only."""
        raise AttributeError(f"{type(self).__name__} does not decode")

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a file by the names and shapes of ``model``."""
        return state
