"""The five networks of FDr6 beside Inception as torch-fidelity extractors with local files (arXiv 2604.28190): timm's ConvNeXtV2-B, MAE-L,
DINOv2-L, CLIP-L and SigLIP2-So400m.

Protocol: that of the authors' evaluator: uint8 images divided by 255, bicubic resize with antialiasing to 224 px (DINOv2 and CLIP: 256 px,
padded to whole patches), mean and standard deviation of the network's own training, position embeddings resampled by timm, float32.
Features: the class token after the final norm, SigLIP2's attention pool, ConvNeXt's last feature map averaged over its positions. Limit:
the authors' samples are scored before rounding to 8 bits, these after it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import get_pretrained_cfg
from torch import Tensor

from svgbench.errors import BadWeights
from svgbench.metrics.local_extractor import LocalExtractor
from svgbench.weights.files import fill, read


@dataclass(frozen=True)
class TimmMember:
    """A network and how images reach it."""

    architecture: str
    """timm's name with its tag, which gives mean and standard deviation."""
    side: int
    """Side in pixels of its input."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the constructor beside timm's own."""


ANY_SIZE: dict[str, Any] = {"dynamic_img_size": True, "dynamic_img_pad": True}
"""Arguments of timm's ViTs for inputs of another size than that of their training."""
MEMBERS = {
    "svgbench-convnextv2-b": TimmMember("convnextv2_base.fcmae_ft_in22k_in1k", 224),
    "svgbench-mae-l": TimmMember("vit_large_patch16_224.mae", 224, ANY_SIZE),
    "svgbench-dinov2-l-256": TimmMember("vit_large_patch14_dinov2.lvd142m", 256, ANY_SIZE),
    "svgbench-clip-l-256": TimmMember("vit_large_patch14_clip_224.openai", 256, ANY_SIZE),
    "svgbench-siglip2-so400m": TimmMember("vit_so400m_patch16_siglip_256.v2_webli", 224, ANY_SIZE),
}
"""Our names in torch-fidelity's registry -> networks."""


class TimmExtractor(LocalExtractor):
    """Features [B, D] of uint8 images [B, 3, H, W]."""

    LAYERS = ("pooled",)

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | Path, **unused: object) -> None:
        super().__init__(name, features_list)
        member, path = MEMBERS[name], Path(feature_extractor_weights_path)
        network: Any = timm.create_model(member.architecture, pretrained=False, num_classes=0, **member.arguments)
        try:
            state = adapted(read(path), network)
        except (RuntimeError, KeyError) as error:  # timm's converter expects the parts of its own networks
            reason = str(error).splitlines()[0]
            raise BadWeights(f"{path} does not fit {member.architecture} ({reason}); give the weights of that network.") from None
        fill(network, state, where=str(path))
        facts = get_pretrained_cfg(member.architecture)
        assert facts is not None  # every member is a pretrained network of timm
        self.network, self.side = network, member.side
        self.register_buffer("mean", torch.tensor(facts.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(facts.std).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The pooled features, the only layer."""
        pixels = images.float() / 255
        if pixels.shape[-2:] != (self.side, self.side):
            pixels = F.interpolate(pixels, (self.side, self.side), mode="bicubic", align_corners=False, antialias=True)
        features = self.network.forward_features((pixels - self.mean) / self.deviation)
        return (pooled(self.network, features),)


def pooled(network: Any, features: Tensor) -> Tensor:
    """The features [B, D] that are compared, of a network's last feature map [B, D, h, w] or tokens [B, N, D]."""
    if features.ndim == 4:
        return features.mean((2, 3))
    return features[:, 0] if network.num_prefix_tokens else network.attn_pool(features)


def adapted(state: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """A file's tensors (name -> Tensor of any shape [...]) under timm's names, without the head of a classifier and without a decoder."""
    convert = getattr(importlib.import_module(type(network).__module__), "checkpoint_filter_fn", None)
    left_out = ("head.fc.", "head.weight", "head.bias", "decoder_", "mask_token")
    state = {name: value for name, value in state.items() if not name.startswith(left_out)}
    return state if convert is None else convert(state, network)
