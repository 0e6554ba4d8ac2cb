"""Recognises the model of a weights file by the names of its tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Kind(NamedTuple):
    """A known model: prefixes of names that must all occur, and prefixes of which none may occur."""

    description: str
    """Completes "it looks like ..."; in brackets the kind of ``load_official`` or the encoder that opens it."""
    required: tuple[str, ...]
    forbidden: tuple[str, ...] = ()


ADALN = "blocks.0.adaLN_modulation."
HF = "in Hugging Face's names (transformers:DIR)"
KINDS = (
    # models of the papers
    Kind("SVG's autoencoder (svg-autoencoder)", ("extra_vit.", "decoder.conv_in.")),
    Kind("a whole latent diffusion checkpoint with its autoencoder inside", ("first_stage_model.", "model.diffusion_model.")),
    Kind("RAE's decoder (rae-decoder)", ("decoder_embed.", "decoder_pred.", "decoder_layers.0.")),
    Kind("RAE's transformer with the wide head (ddt)", ("s_embedder.", "s_projector.", ADALN)),
    Kind("RAE's transformer with the wide head (ddt)", ("s_embedder.", "t_embedder.", ADALN)),
    Kind("REPA's SiT (repa)", ("projectors.0.", "t_embedder.mlp.", ADALN)),
    Kind("LightningDiT (lightningdit)", ("feat_rope.", "t_embedder.mlp.", ADALN)),
    Kind("LightningDiT (lightningdit)", ("blocks.0.mlp.w12.", "t_embedder.mlp.", ADALN)),
    Kind("SVG's DiT (svg-dit)", ("ln1.", "t_embedder.mlp.", ADALN)),
    Kind("SiT or DiT, which have the same names (sit, dit)", ("x_embedder.", "t_embedder.mlp.", ADALN)),
    # codecs
    Kind("VA-VAE as it was trained, its teacher included (vavae)", ("foundation_model.", "encoder.down.0.block.")),
    Kind("an autoencoder in LDM's layout (vavae, sdvae)", ("encoder.down.0.block.", "decoder.up.0.block.", "post_quant_conv.")),
    Kind("an autoencoder of diffusers (sdvae)", ("encoder.down_blocks.0.", "decoder.up_blocks.0.")),
    # models of svgbench
    Kind("an autoencoder that svgbench trained", ("decoder.conv_in.", "residual_encoder.")),
    Kind("an autoencoder that svgbench trained without residual", ("decoder.conv_in.", "decoder.up.0."), ("encoder.",)),
    Kind("a transformer that svgbench trained", ("patches.", "time.mlp.", "final_modulation.")),
    # encoders
    Kind("DINOv3 as Meta publishes it", ("storage_tokens", "blocks.0.ls1.gamma")),
    Kind("DINOv3 in timm's names", ("reg_token", "blocks.0.gamma_1")),
    Kind(f"DINOv3 {HF}", ("embeddings.register_tokens", "layer.0.layer_scale1.")),
    Kind(f"DINOv3 {HF}", ("embeddings.register_tokens", "model.layer.0.layer_scale1.")),
    Kind(f"DINOv3 {HF}", ("model.embeddings.register_tokens", "model.layer.0.layer_scale1.")),
    Kind("DINOv2 with registers as Meta publishes it", ("register_tokens", "mask_token", "blocks.0.ls1.gamma")),
    Kind("DINOv2 as Meta publishes it", ("mask_token", "pos_embed", "blocks.0.ls1.gamma")),
    Kind("DINOv2 with registers in timm's names", ("reg_token", "pos_embed", "blocks.0.ls1.gamma")),
    Kind("DINOv2 in timm's names", ("pos_embed", "blocks.0.ls1.gamma")),
    Kind(f"DINOv2 with registers {HF}", ("embeddings.register_tokens", "encoder.layer.0.layer_scale1.")),
    Kind(f"DINOv2 {HF}", ("embeddings.position_embeddings", "encoder.layer.0.layer_scale1.")),
    Kind("SigLIP of open_clip, images and text", ("visual.trunk.", "text.")),
    Kind("an image tower of open_clip", ("visual.trunk.",)),
    Kind("CLIP of open_clip or OpenAI", ("visual.conv1.", "visual.transformer.")),
    Kind(f"SigLIP {HF}", ("vision_model.embeddings.patch_embedding.", "vision_model.head.probe")),
    Kind(f"SigLIP {HF}", ("embeddings.patch_embedding.", "head.probe")),
    Kind(f"CLIP {HF}", ("vision_model.embeddings.class_embedding", "vision_model.pre_layrnorm.")),
    Kind("SigLIP in timm's names", ("pos_embed", "attn_pool.", "blocks.0.attn."), ("cls_token",)),
    Kind("MAE with its decoder, as Meta publishes it", ("decoder_blocks.0.", "decoder_embed.", "blocks.0.attn.")),
    Kind(f"MAE {HF}", ("vit.embeddings.", "decoder.decoder_embed.")),
    Kind("a plain vision transformer, as MAE or timm write it", ("cls_token", "pos_embed", "blocks.0.attn.qkv.")),
    Kind(f"a plain vision transformer {HF}", ("embeddings.cls_token", "embeddings.position_embeddings")),
    Kind(f"a plain vision transformer {HF}", ("vit.embeddings.cls_token", "vit.embeddings.position_embeddings")),
    # judges
    Kind("the Inception network of FID", ("Conv2d_1a_3x3.", "Mixed_7c.")),
    Kind("VGG16 of torchvision", ("features.0.", "classifier.6.")),
    Kind("a ResNet", ("layer1.0.conv1.", "layer4.0.conv1.")),
)
"""In order of precedence, the most specific first."""


def looks_like(names: Iterable[str]) -> str | None:
    """A description of the model of a state dict (or of its names), such as "DINOv3 as Meta publishes it"; None when it is unknown."""
    names = tuple(names)
    for kind in KINDS:
        if all(_starts_with_any(names, start) for start in kind.required) and not any(
            _starts_with_any(names, start) for start in kind.forbidden
        ):
            return kind.description
    return None


def _starts_with_any(names: tuple[str, ...], start: str) -> bool:
    return any(name.startswith(start) for name in names)
