"""Vision transformers of timm. timm's own converters read the official files of Meta and open_clip."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor

from svgbench.backends.network import Network
from svgbench.backends.tokens import TokenNetwork
from svgbench.config.cards import EncoderCard
from svgbench.config.schema import Features
from svgbench.errors import BadConfig, unknown


class RotaryTables:
    """``get_embed`` of a timm rotary embedding without parameters. In evaluation a grid's table is computed once for each dtype and device
    (timm computes DINOv3's on the CPU in every forward pass, and its copy to a GPU waits for all earlier work)."""

    def __init__(self, rope: Any) -> None:
        self._rope = rope
        self.clear()

    def clear(self) -> None:
        """Discards all tables, because the periods have changed."""
        self._tables: dict[Any, Tensor] = {}

    def __call__(self, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """The table [h * w, 2 D] of a grid (h, w)."""
        compute = type(self._rope).get_embed
        if shape is None or self._rope.training:
            return compute(self._rope, shape, dtype)
        key = (*shape, dtype, next(self._rope.buffers()).device)
        if key not in self._tables:
            with torch.inference_mode(False), torch.no_grad():
                self._tables[key] = compute(self._rope, shape, dtype)
        return self._tables[key]


class TimmNetwork(TokenNetwork):
    """A timm ViT (VisionTransformer, Eva) without its head."""

    model: Any
    """``Any``, because the two classes have no common type that declares the attributes used here."""

    def __init__(self, name: str, arguments: dict[str, Any], features: Features) -> None:
        super().__init__()
        self.model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
        prefix = self.model.num_prefix_tokens
        self.select_features(features, width=self.model.embed_dim, depth=len(self.model.blocks), prefix=prefix, norm=self.model.norm)
        self.stride = self.model.patch_embed.patch_size[0]
        settings = get_pretrained_cfg(name)
        if settings is not None:
            (red, green, blue), (red_std, green_std, blue_std) = settings.mean, settings.std
            self.mean, self.std = (red, green, blue), (red_std, green_std, blue_std)
        rope: Any = getattr(self.model, "rope", None)
        if hasattr(rope, "get_embed") and not list(rope.parameters()):
            rope.get_embed = RotaryTables(rope)
        if hasattr(rope, "periods"):  # DINOv3 was trained and is released with periods rounded to bfloat16; timm computes them in float32
            self._set_periods(rope.periods.to(torch.bfloat16))

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Outputs of blocks, prefix tokens in front."""
        outputs = self.model.forward_intermediates(
            pixels, indices=list(blocks), norm=False, intermediates_only=True, output_fmt="NLC", return_prefix_tokens=bool(self.prefix)
        )
        return [torch.cat([prefix, patches], dim=1) for patches, prefix in outputs] if self.prefix else outputs

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Converts names to timm's, and resamples position embeddings to the network's grid."""
        module = importlib.import_module(type(self.model).__module__)
        if "rope_embed.periods" in state and hasattr(getattr(self.model, "rope", None), "periods"):
            self._set_periods(state["rope_embed.periods"])  # a buffer that timm does not keep in its state dict
        convert = getattr(module, "checkpoint_filter_fn", None)
        if convert is None:
            return state
        if "decoder_pred.weight" in state:  # MAE with its decoder
            state = {name: value for name, value in state.items() if not name.startswith("decoder_") and name != "mask_token"}
        expected = self.model.state_dict()
        # classification and contrastive heads are not part of an encoder, and files may hold values that the network itself computes
        return {name: value for name, value in convert(dict(state), self.model).items() if name in expected or not name.startswith("head.")}

    def _set_periods(self, periods: Tensor) -> None:
        """Sets RoPE's periods, and recomputes the embedding if timm caches one for a fixed grid."""
        rope = self.model.rope
        rope.periods.copy_(periods.to(rope.periods.dtype))
        rope.get_embed.clear()
        if rope.feat_shape is not None:
            rope._cache_embed(rope.feat_shape)


def open_network(card: EncoderCard, state: dict[str, Tensor] | None) -> Network:
    """The architecture ``card.model`` with ``card.arguments`` and random weights."""
    if not timm.is_model(card.model):
        raise unknown("timm model", card.model, timm.list_models(pretrained=False))
    arguments = {"dynamic_img_size": True, **card.arguments}  # any size that the patch divides, position embeddings resampled
    if state is not None and "storage_tokens" in state and "blocks.0.attn.qkv.bias" in state:
        arguments["qkv_bias"] = True  # Meta's DINOv3 files have query and value biases, which timm's converted files omit
    try:
        return TimmNetwork(card.model, arguments, card.features)
    except (TypeError, AttributeError, ValueError, AssertionError) as error:
        raise BadConfig(f"timm cannot build '{card.model}' with {arguments} as a patch encoder ({error}); correct the card.") from None
