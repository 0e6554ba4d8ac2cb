"""A weights file of Inception's shape for tests, where the real one cannot be fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor


def write_inception(path: Path, images: Tensor) -> Path:
    """Random weights. The constructor insists on a file, so it is stopped before it loads one; batch norms are set by a pass over
    ``images`` (uint8 [N, 3, H, W]), else every image's features are zero."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.train().momentum = 1.0
    with torch.no_grad():
        network(images)
    network.fc.weight.data *= 5
    torch.save(network.state_dict(), path)
    return path
