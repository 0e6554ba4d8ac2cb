"""DINOv2 as a torch-fidelity extractor with a local file: Meta's weights, the class token after the final norm.

Protocol: as torch-fidelity's ``dinov2-vit-*-14``, which downloads code and weights from GitHub and accepts no local file: uint8 images,
bilinear resize to 224 px as in TensorFlow 1, ImageNet's mean and standard deviation, position embeddings resampled from the file's 37 x 37
grid as in Meta's code (bicubic, without antialiasing, scale (16 + 0.1) / 37), float32. The network is timm's. The paper that proposed the
distance (arXiv 2306.04675) resizes with PIL's bicubic filter, so its numbers differ. Limit: details smaller than a 14 px patch of the 224
px image.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import Tensor
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from svgbench.metrics.local_extractor import LocalExtractor
from svgbench.weights.files import fill, read

MEMBERS = {"svgbench-dinov2-vit-s-14": "vit_small_patch14_dinov2", "svgbench-dinov2-vit-l-14": "vit_large_patch14_dinov2"}
"""Our names in torch-fidelity's registry -> timm's architectures."""

SIDE, GRID = 224, 16
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dinov2Extractor(LocalExtractor):
    """Features [B, D] of uint8 images [B, 3, H, W]."""

    LAYERS = ("dinov2",)

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | Path, **unused: object) -> None:
        super().__init__(name, features_list)
        path = Path(feature_extractor_weights_path)
        state = {key: value for key, value in read(path).items() if key != "mask_token"}
        if "pos_embed" in state:
            state["pos_embed"] = resampled_positions(state["pos_embed"])
        with torch.device("meta"):
            network = timm.create_model(MEMBERS[name], img_size=SIDE, num_classes=0)
        self.network = network.to_empty(device="cpu")
        fill(self.network, state, where=str(path))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1) * 255, persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The class token, the only layer."""
        resized = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(SIDE, SIDE), align_corners=False)
        return (self.network((resized - self.mean) / self.deviation),)


def resampled_positions(positions: Tensor) -> Tensor:
    """Position embeddings [1, 1 + n * n, D] resampled to a 16 x 16 grid as in Meta's code."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if side == GRID or side * side != positions.shape[1] - 1:
        return positions
    grid = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, scale_factor=(GRID + 0.1) / side, mode="bicubic", antialias=False)
    return torch.cat([positions[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
