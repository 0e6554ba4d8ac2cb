"""The network of a shipped encoder, opened by its card, and its pixel normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svgbench.backends.open import open_network
from svgbench.config.cards import EncoderCard, load
from svgbench.shelf import folder


def card_of(name: str) -> EncoderCard:
    """The card of this name."""
    return load(folder("encoders") / f"{name}.yaml")


class CardPixels(nn.Module):
    """Normalises images in [0, 1] for a card's encoder: (image - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, card: EncoderCard) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(card.pixels.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.pixels.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] of images [B, 3, H, W] in [0, 1]."""
        return (images - self.mean) / self.std


def open_trainable(name: str, seed: int) -> tuple[nn.Module, CardPixels]:
    """The trainable network of a card, with random weights from a seed, and its pixel normalisation."""
    card = card_of(name)
    return open_network(card, seed=seed).model.train(), CardPixels(card)
