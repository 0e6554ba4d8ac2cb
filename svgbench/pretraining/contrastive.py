"""Contrastive image-text training with a sigmoid loss (SigLIP, arXiv 2303.15343): in a batch only an image and its caption match."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.machine.order import Batch
from svgbench.machine.training import adam
from svgbench.nets import draws
from svgbench.pretraining.families import open_trainable
from svgbench.pretraining.pictures import OnDevice
from svgbench.pretraining.shipped import Job, Shipped
from svgbench.pretraining.views import view

AREA = (0.75, 1.0)


class Towers(nn.Module):
    """The family's ViT with its attention pooling, and a small text transformer."""

    network: Any
    """A ViT of timm."""

    def __init__(self, network: Any, pixels: nn.Module, words: int, length: int) -> None:
        super().__init__()
        width = network.embed_dim
        self.network, self.pixels = network, pixels
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(1, length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 3, width * 2, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.text = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.text_norm = nn.LayerNorm(width)
        # initial values of the paper: with a bias of -10 the many pairs that do not match have a small loss at first
        self.log_scale, self.bias = nn.Parameter(torch.tensor(math.log(10.0))), nn.Parameter(torch.tensor(-10.0))

    def forward(self, images: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors [B, C] of images [B, 3, H, W] in [0, 1] and of captions [B, words]."""
        pooled = self.network.forward_head(self.network.forward_features(self.pixels(images)))
        text = self.text_norm(self.text(self.words(captions) + self.places).mean(1))
        return F.normalize(pooled, dim=-1), F.normalize(text, dim=-1)


class Matching(OnDevice):
    """A training task: open_clip's sigmoid loss over all pairs of a batch. A batch is therefore never split into micro-batches."""

    averaged = "towers"

    def __init__(self, towers: Towers, job: Job, stream: int) -> None:
        from open_clip.loss import SigLipLoss

        self.towers, self.pictures, self.stream, self.loss = towers, job.pictures, stream, SigLipLoss()
        self.modules = {"towers": towers}
        self.optimisers = {"towers": adam(towers.parameters(), job.training.optimiser)}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update; returns the loss."""
        images = self.pictures.floats(batch.indices)
        stream = draws.stream(self.stream, "view")
        images = view(images, batch.positions, stream=stream, size=self.pictures.side, area=AREA, light=0.2, mirror=False)
        image_features, text_features = self.towers(images, self.pictures.captions[batch.indices])
        loss = self.loss(image_features, text_features, self.towers.log_scale.exp(), self.towers.bias)
        loss.backward()
        apply("towers")
        return {"sigmoid": loss.detach()}


def siglip(job: Job) -> Shipped:
    """SigLIP: the image tower with its attention pooling, as in the official files."""
    seed = draws.stream(job.seed, "siglip")
    network, pixels = open_trainable(job.card, seed)
    towers = Towers(network, pixels, len(job.pictures.words), job.pictures.captions.shape[1]).to(job.runtime.torch_device)
    return Shipped(Matching(towers, job, seed), network, averaged=False)
