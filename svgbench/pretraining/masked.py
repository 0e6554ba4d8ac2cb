"""Masked autoencoding (MAE, arXiv 2111.06377): the encoder gets a few patches, and a small decoder predicts the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from svgbench.machine.order import Batch
from svgbench.machine.training import adam
from svgbench.nets import draws
from svgbench.pretraining.families import open_trainable
from svgbench.pretraining.pictures import OnDevice
from svgbench.pretraining.shipped import Job, Shipped
from svgbench.pretraining.views import view

MASKED = 0.625
"""Share of masked patches: 10 of 16. The paper's 75 % would leave only 4."""
AREA = (0.5, 1.0)
"""Bounds of the crop's share of the image. Crops are the only augmentation, as in the paper's recipe; colours do not change."""


class MaskedAutoencoder(nn.Module):
    """A tiny MAE: a ViT, a narrower decoder of two blocks, and a mask token."""

    network: Any
    """A ViT of timm."""

    def __init__(self, network: Any, pixels: nn.Module, *, width: int = 64, depth: int = 2, heads: int = 2) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.network, self.pixels = network, pixels
        self.patch, self.count = network.patch_embed.patch_size[0], network.patch_embed.num_patches
        self.narrow = nn.Linear(network.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, self.count, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.to_pixels = nn.Linear(width, self.patch**2 * 3)

    def encode(self, pixels: Tensor, kept: Tensor) -> Tensor:
        """Class token and visible patches [B, 1 + K, C] after the final norm; ``kept`` [B, K]: indices of the visible patches."""
        tokens = self.network._pos_embed(self.network.patch_embed(pixels))
        patches = tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        tokens = self.network.norm_pre(torch.cat([tokens[:, :1], patches], 1))
        return self.network.norm(self.network.blocks(tokens))

    def forward(self, images: Tensor, order: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        """Predicted and true normalised colours of masked patches, [B, masked, 3 p p]; ``order`` [B, N]: patch indices, the ``kept``
        visible ones first."""
        pixels = self.pixels(images)
        seen = self.narrow(self.encode(pixels, order[:, :kept]))
        mask_tokens = self.mask_token.expand(len(images), self.count - kept, -1)
        inverse = order.argsort(1)[..., None]
        patches = torch.cat([seen[:, 1:], mask_tokens], 1).gather(1, inverse.expand(-1, -1, seen.shape[2])) + self.places
        predicted = self.to_pixels(self.norm(self.blocks(torch.cat([seen[:, :1], patches], 1))))[:, 1:]
        hidden = order[:, kept:, None].expand(-1, -1, predicted.shape[2])
        return predicted.gather(1, hidden), self.colours(pixels).gather(1, hidden)

    def colours(self, pixels: Tensor) -> Tensor:
        """Patches [B, N, 3 p p] of pixels, each normalised to mean 0 and variance 1 (MAE's ``norm_pix_loss``)."""
        patches = nn.functional.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
        return (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-2).sqrt()


class MaskedTraining(OnDevice):
    """A training task with the mean squared error of the masked patches."""

    averaged = "painter"

    def __init__(self, autoencoder: MaskedAutoencoder, job: Job, stream: int) -> None:
        self.autoencoder, self.pictures, self.stream = autoencoder, job.pictures, stream
        self.modules = {"painter": autoencoder}
        self.optimisers = {"painter": adam(autoencoder.parameters(), job.training.optimiser)}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update; returns the loss."""
        images = self.pictures.floats(batch.indices)
        images = view(images, batch.positions, stream=draws.stream(self.stream, "view"), size=self.pictures.side, area=AREA, light=0.0)
        count = self.autoencoder.count
        order = draws.uniform(draws.stream(self.stream, "mask"), batch.positions, (count,)).argsort(1)
        predicted, colours = self.autoencoder(images, order, count - round(MASKED * count))
        loss = (predicted - colours).square().mean((1, 2)).sum() / batch.size
        loss.backward()
        apply("painter")
        return {"painted": loss.detach()}


def mae(job: Job) -> Shipped:
    """MAE."""
    seed = draws.stream(job.seed, "mae")
    autoencoder = MaskedAutoencoder(*open_trainable(job.card, seed)).to(job.runtime.torch_device)
    return Shipped(MaskedTraining(autoencoder, job, seed), autoencoder.network, averaged=False)
