"""What torch-fidelity asks of every extractor, for the extractors of this package, whose weights are local files."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase


class LocalExtractor(FeatureExtractorBase):
    """An extractor with the layers ``LAYERS``, of which the first is pooled features and the last gives IS its logits."""

    LAYERS: ClassVar[tuple[str, ...]]

    @classmethod
    def get_provided_features_list(cls) -> tuple[str, ...]:
        """Names of the layers."""
        return cls.LAYERS

    @classmethod
    def get_default_feature_layer_for_metric(cls, metric: str) -> str:
        """The layer that torch-fidelity uses for a metric."""
        return cls.LAYERS[-1 if metric == "isc" else 0]

    @staticmethod
    def can_be_compiled() -> bool:
        """True: these networks are plain."""
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        """Two black images [2, 3, 32, 32]."""
        return torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
