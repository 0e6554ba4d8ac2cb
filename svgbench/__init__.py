"""svgbench: benchmark and ablation toolkit for the latent spaces of image diffusion models. Importing it imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from svgbench.backends.open import FrozenEncoder

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder", "load_official", "sample"]


def load_encoder(name: str, weights: str | Path | None = None, device: str | torch.device = "cpu") -> FrozenEncoder:
    """The frozen encoder of a card's name, a family (its full-size member) or BACKEND:NAME; ``weights``: an official file."""
    from svgbench.backends.open import open_encoder
    from svgbench.config.cards import find

    return open_encoder(find(name, "paper"), weights, device)


def __getattr__(name: str) -> Any:
    if name == "sample":
        from svgbench.nets.sampler import sample

        return sample
    if name == "load_official":
        from svgbench.releases.open import load_official

        return load_official
    raise AttributeError(f"module 'svgbench' has no attribute '{name}'")
