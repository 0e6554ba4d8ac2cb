"""Vision transformers of Hugging Face's transformers: DINOv3, DINOv2 with and without registers, SigLIP, CLIP, ViT, MAE."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as progress

from svgbench.backends.network import Network
from svgbench.backends.tokens import TokenNetwork, block_outputs
from svgbench.config.cards import EncoderCard
from svgbench.config.preprocessing import IMAGENET, USUAL
from svgbench.config.schema import Features
from svgbench.errors import BadConfig, unknown

CLASSES = (
    "DINOv3ViTModel", "Dinov2Model", "Dinov2WithRegistersModel", "SiglipVisionModel", "CLIPVisionModel", "ViTModel", "ViTMAEModel",
)  # fmt: skip
"""Supported architectures. The order of their tokens is known: class token, registers (where they exist), patches row by row."""

OTHER_PARTS = ("text_model.", "text_projection.", "visual_projection.", "logit_", "classifier.", "decoder.", "pooler.")
"""Prefixes of tensor names that do not belong to an image encoder, in files of complete models."""


class TransformersNetwork(TokenNetwork):
    """An image encoder of transformers."""

    model: PreTrainedModel

    def __init__(self, kind: type[PreTrainedModel], arguments: dict[str, Any], features: Features) -> None:
        super().__init__()
        if kind.__name__ == "ViTMAEModel":
            arguments = {**arguments, "mask_ratio": 0.0}
        pooled = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}
        assert kind.config_class is not None  # every architecture has one
        self.model = kind(kind.config_class(**arguments), **pooled)
        config, embeddings = self.model.config, _part(self.model, "embeddings")
        self.cls = int(hasattr(embeddings, "cls_token") or hasattr(embeddings, "class_embedding"))
        norm = next(part for name in ("norm", "layernorm", "post_layernorm") if (part := _part(self.model, name)) is not None)
        prefix = self.cls + getattr(config, "num_register_tokens", 0)
        self.select_features(features, width=config.hidden_size, depth=config.num_hidden_layers, prefix=prefix, norm=norm)
        self.stride = config.patch_size
        self.mean, self.std = USUAL.get(kind.__name__, IMAGENET)
        rope = getattr(self.model, "rope_embeddings", None)
        if rope is not None:  # DINOv3 was trained and is released with periods rounded to bfloat16; transformers computes them in float32
            rope.inv_freq.copy_(1 / (1 / rope.inv_freq).to(torch.bfloat16).to(rope.inv_freq.dtype))

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Outputs of blocks: prefix tokens first, then patches in row order."""
        extra: dict[str, Any] = {}
        known = inspect.signature(self.model.forward).parameters
        if "interpolate_pos_encoding" in known and tuple(pixels.shape[2:]) != (self.model.config.image_size,) * 2:
            extra["interpolate_pos_encoding"] = True
        if "noise" in known:  # MAE sorts its tokens by this noise even when it masks none; ascending noise keeps their order
            count = pixels.shape[2] // self.stride * (pixels.shape[3] // self.stride)
            extra["noise"] = torch.arange(count, device=pixels.device, dtype=torch.float32).expand(len(pixels), count)
        stack = next(part for part in self.model.modules() if isinstance(part, nn.ModuleList) and len(part) == self.depth)
        with block_outputs(stack, blocks) as outputs:
            self.model(pixel_values=pixels, **extra)
        return outputs

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Converts names to current ones (transformers does this for older files), and resamples position embeddings to the grid."""
        state = {name: self._resampled(name, value) for name, value in state.items()}
        with _silent():
            loaded: Any = type(self.model).from_pretrained(
                None,
                config=self.model.config,
                state_dict=state,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        model, report = loaded  # a pair because of ``output_loading_info``
        missing, shapes = set(report["missing_keys"]), {name: shape for name, shape, _ in report["mismatched_keys"]}
        expected = self.model.state_dict().keys()  # without a pooling head, which ``model`` may have
        result = {name: value for name, value in model.state_dict().items() if name in expected and name not in missing}
        result |= {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        for name in report["unexpected_keys"]:
            plain = name.removeprefix("vision_model.").removeprefix("vit.")
            if not plain.startswith(OTHER_PARTS) and not plain.endswith("position_ids"):
                result[name] = state.get(name, torch.empty(0))
        return result

    def _resampled(self, name: str, value: Tensor) -> Tensor:
        if not name.endswith(("position_embeddings", "position_embedding.weight")) or name.startswith(OTHER_PARTS):
            return value
        side = self.model.config.image_size // self.stride
        grids = resample_abs_pos_embed(value if value.ndim == 3 else value[None], [side, side], num_prefix_tokens=self.cls)
        return grids.reshape(*grids.shape[-value.ndim :])


def open_network(card: EncoderCard, state: dict[str, Tensor] | None) -> Network:
    """The class ``card.model`` with the configuration ``card.arguments`` and random weights."""
    if card.model not in CLASSES or not hasattr(transformers, card.model):
        raise unknown("image encoder of transformers", card.model, CLASSES)
    try:
        return TransformersNetwork(getattr(transformers, card.model), dict(card.arguments), card.features)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise BadConfig(f"transformers cannot build '{card.model}' with {card.arguments} ({error}); correct the card.") from None


def _part(model: nn.Module, name: str) -> nn.Module | None:
    """A part of the encoder; in older classes it is one level deeper."""
    return getattr(model, name, None) or getattr(getattr(model, "vision_model", None), name, None)


@contextmanager
def _silent() -> Iterator[None]:
    """Context without the library's loading report and progress bar; missing and unexpected weights are reported by svgbench."""
    logger = logging.getLogger("transformers")
    level, bars = logger.level, progress.is_progress_bar_enabled()
    logger.setLevel(logging.CRITICAL)
    progress.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            progress.enable_progress_bar()
