"""State dicts in the layouts of releases, of any size, with random weights: what a test hands over where no fixture has the size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svgbench.backends.from_checkpoint import LdmAutoencoder
from svgbench.nets.blocks import grid_positions


def weight(*shape: int) -> Tensor:
    """Matrices and kernels N(0, 1 / fan-in), vectors N(0, 0.01)."""
    return torch.randn(shape) * (math.prod(shape[1:]) if len(shape) > 1 else 100) ** -0.5


def linear(name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": weight(outputs, inputs), f"{name}.bias": weight(outputs)}


def norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + weight(width), f"{name}.bias": weight(width)}


def rae(*, channels: int = 20, width: int = 32, layers: int = 2, mlp: int = 48, patch: int = 8, grid: int = 4) -> dict[str, Tensor]:
    """RAE's decoder: Hugging Face's ViT-MAE decoder with a class token of its own."""
    positions = torch.cat([torch.zeros(1, width), grid_positions(width, grid)])[None]
    state = {"decoder_pos_embed": positions, "trainable_cls_token": weight(1, 1, width), **linear("decoder_embed", channels, width)}
    for number in range(layers):
        block = f"decoder_layers.{number}"
        for word in ("query", "key", "value"):
            state |= linear(f"{block}.attention.attention.{word}", width, width)
        state |= linear(f"{block}.attention.output.dense", width, width) | linear(f"{block}.intermediate.dense", width, mlp)
        state |= linear(f"{block}.output.dense", mlp, width)
        state |= norm(f"{block}.layernorm_before", width) | norm(f"{block}.layernorm_after", width)
    return state | norm("decoder_norm", width) | linear("decoder_pred", width, patch * patch * 3)


def residual(*, channels: int = 4, width: int = 64, layers: int = 2, mlp: int = 96, patch: int = 16, grid: int = 4) -> dict[str, Tensor]:
    """SVG's residual encoder: torchvision's ViT under ``extra_vit``."""
    state = {"class_token": weight(1, 1, width), "conv_proj.weight": weight(width, 3, patch, patch), "conv_proj.bias": weight(width)}
    state["encoder.pos_embedding"] = weight(1, grid * grid + 1, width)
    for number in range(layers):
        block = f"encoder.layers.encoder_layer_{number}"
        attention = {"in_proj_weight": weight(3 * width, width), "in_proj_bias": weight(3 * width)}
        state |= {f"{block}.self_attention.{name}": value for name, value in attention.items()}
        state |= linear(f"{block}.self_attention.out_proj", width, width)
        state |= linear(f"{block}.mlp.0", width, mlp) | linear(f"{block}.mlp.3", mlp, width)
        state |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
    state |= norm("encoder.ln", width) | linear("heads.0", width, width) | linear("heads.2", width, channels)
    return {f"extra_vit.{name}": value for name, value in state.items()} | {"mask_token": weight(1, channels, 1)}


def dinov3(*, width: int = 384, depth: int = 12, mlp: int = 1536) -> dict[str, Tensor]:
    """DINOv3 S/16 as Meta publishes it, under ``encoder``."""
    state = {"cls_token": weight(1, 1, width), "storage_tokens": weight(1, 4, width), "mask_token": weight(1, width)}
    state |= {"patch_embed.proj.weight": weight(width, 3, 16, 16), "patch_embed.proj.bias": weight(width)}
    state["rope_embed.periods"] = 100.0 ** (2 * torch.arange(16) / 32)
    for number in range(depth):
        block = f"blocks.{number}"
        state |= linear(f"{block}.attn.qkv", width, 3 * width) | linear(f"{block}.attn.proj", width, width)
        state[f"{block}.attn.qkv.bias_mask"] = torch.cat([torch.ones(width), torch.zeros(width), torch.ones(width)])
        state |= {f"{block}.ls1.gamma": 1 + weight(width), f"{block}.ls2.gamma": 1 + weight(width)}
        state |= linear(f"{block}.mlp.fc1", width, mlp) | linear(f"{block}.mlp.fc2", mlp, width)
        state |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
    return {f"encoder.{name}": value for name, value in (state | norm("norm", width)).items()}


def ldm(
    *, channels: int = 6, levels: int = 3, resolution: int = 32, attention: tuple[int, ...] = (8,), base: int = 128
) -> dict[str, Tensor]:
    """An autoencoder in LDM's names with an encoder and a decoder of ``base`` channels a level."""
    size = {"base": base, "multipliers": [1] * levels, "blocks": 1, "attention": attention, "resolution": resolution}
    state = LdmAutoencoder(embed_dim=channels, z_channels=channels, **size).state_dict()
    return {name: value.clone() for name, value in state.items()}
