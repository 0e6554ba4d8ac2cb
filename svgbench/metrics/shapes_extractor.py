"""The small classifier of the embedded images as a torch-fidelity extractor.

Protocol: the classifier was trained on the training images of ``shapes`` at 32 px; its pooled features feed the distances, its logits
the Inception-like score, always under its own name. What it cannot tell: anything about natural images; its distances never stand
beside Inception's.
"""

from __future__ import annotations

import torch
from svgbench.nets.classifier import ShapesCNN
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

NAME = "svgbench-shapes-cnn"


class ShapesExtractor(FeatureExtractorBase):
    """Features [B, 128] and logits [B, K] of uint8 images [B, 3, H, W]."""

    def __init__(self, name: str, features_list: list[str], **unused: object) -> None:
        super().__init__(name, features_list)
        self.network = ShapesCNN()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pooled = self.network.features(images.float() / 255)
        found = {"pooled": pooled, "logits": self.network.head(pooled)}
        return tuple(found[layer].to(torch.float32) for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Names of the layers."""
        return "pooled", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The layer torch-fidelity takes for a metric."""
        return "logits" if metric == "isc" else "pooled"

    @staticmethod
    def can_be_compiled() -> bool:
        """Plain convolutions."""
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        """Two small images."""
        return torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
