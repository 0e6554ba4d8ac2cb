"""Image towers of open_clip: its vision transformer, and the timm trunks of its SigLIP models. Text towers are not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from open_clip.model import _build_vision_tower
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from svgbench.backends.network import Network
from svgbench.backends.tokens import TokenNetwork
from svgbench.config.cards import EncoderCard
from svgbench.config.schema import Features
from svgbench.errors import BadConfig, unknown

TOWER = "visual."
"""Prefix of the image tower's weights in open_clip's files."""


class OpenClipNetwork(TokenNetwork):
    """The image tower of a contrastive model, for images of one size."""

    model: TimmModel | VisionTransformer
    side: int

    def __init__(self, tower: TimmModel | VisionTransformer, side: int, features: Features) -> None:
        super().__init__()
        self.model = tower
        self.side = side
        if isinstance(tower, TimmModel):
            trunk = tower.trunk
            self.select_features(features, width=trunk.embed_dim, depth=len(trunk.blocks), prefix=trunk.num_prefix_tokens, norm=trunk.norm)
            self.stride = trunk.patch_embed.patch_size[0]
            self.mean, self.std = tuple(trunk.pretrained_cfg["mean"]), tuple(trunk.pretrained_cfg["std"])
        else:
            depth, width = len(tower.transformer.resblocks), tower.conv1.out_channels
            self.select_features(features, width=width, depth=depth, prefix=1, norm=tower.ln_post)
            self.stride = tower.patch_size[0]
            self.mean, self.std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Outputs of blocks, the class token in front if there is one."""
        outputs = self.model.forward_intermediates(
            pixels, indices=list(blocks), normalize_intermediates=False, intermediates_only=True, output_fmt="NLC",
            output_extra_tokens=bool(self.prefix),
        )  # fmt: skip
        patches = outputs["image_intermediates"]
        if not self.prefix:
            return patches
        return [torch.cat([prefix, rest], dim=1) for prefix, rest in zip(outputs["image_intermediates_prefix"], patches, strict=True)]

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Selects the image tower from the file of a full model, and resamples position embeddings to the tower's grid."""
        if any(name.startswith(TOWER) for name in state):
            state = {name.removeprefix(TOWER): value for name, value in state.items() if name.startswith(TOWER)}
        grid = [self.side // self.stride] * 2
        for name in ("trunk.pos_embed", "positional_embedding"):
            if name in state:
                value = state[name] if state[name].ndim == 3 else state[name][None]
                value = resample_abs_pos_embed(value, grid, num_prefix_tokens=self.prefix)
                state = {**state, name: value.reshape(*value.shape[-state[name].ndim :])}
        return state


def open_network(card: EncoderCard, state: dict[str, Tensor] | None) -> Network:
    """The image tower of ``card.model`` with random weights; ``card.arguments`` (``embed_dim``, ``vision_cfg``...) override its
    configuration."""
    config: dict[str, Any] = open_clip.get_model_config(card.model) or {}
    if not config and not {"timm_model_name", "layers"} & card.arguments.get("vision_cfg", {}).keys():
        raise unknown("open_clip model", card.model, open_clip.list_models())
    arguments = dict(card.arguments)
    approximate = arguments.pop("gelu", None)  # ``tanh``: SigLIP was trained with it, but open_clip and timm build the exact GELU
    config |= {name: value for name, value in arguments.items() if name != "vision_cfg"}
    vision = {**config.get("vision_cfg", {}), **arguments.get("vision_cfg", {}), "timm_model_pretrained": False}
    try:
        tower = _build_vision_tower(config.get("embed_dim", 512), vision, quick_gelu=config.get("quick_gelu", False))
    except (TypeError, AttributeError, ValueError, RuntimeError, KeyError) as error:
        raise BadConfig(f"open_clip cannot build the image tower of '{card.model}' with {vision} ({error}); correct the card.") from None
    for module in tower.modules():
        if isinstance(module, nn.GELU) and approximate:
            module.approximate = approximate
    known = isinstance(tower, VisionTransformer) or (isinstance(tower, TimmModel) and hasattr(tower.trunk, "blocks"))
    if not known:
        raise BadConfig(f"the image tower of '{card.model}' is a {type(tower).__name__} without patch tokens; name a vision transformer.")
    side = tower.image_size[0]
    if isinstance(tower, TimmModel) and tuple(tower.trunk.patch_embed.img_size) != (side, side):
        tower.set_input_size(side)
    return OpenClipNetwork(tower, side, card.features)
