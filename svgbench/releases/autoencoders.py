"""Official autoencoders on a frozen encoder: SVG's (a Lightning checkpoint) and RAE's decoder."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svgbench.backends.open import FrozenEncoder, adapted, open_network
from svgbench.config import cards
from svgbench.errors import BadConfig, BadWeights
from svgbench.nets.alignment import Alignment
from svgbench.nets.chunks import chunk_size, in_chunks
from svgbench.nets.ldm import LdmDecoder
from svgbench.nets.residual import ResidualEncoder
from svgbench.nets.tokenizer import Tokenizer
from svgbench.nets.vit_decoder import EPSILON, ViTDecoder
from svgbench.releases.shapes import (
    GROUPS,
    State,
    check_config,
    check_ldm_config,
    count,
    fill_from,
    ldm_sizes,
    parameters,
    part,
    require,
    rounding,
    whole_number,
)
from svgbench.weights import files

Config = Mapping[str, Any] | None

DINOV3 = {(384, False): "dinov3-s16", (384, True): "dinov3-s16plus", (768, False): "dinov3-b16", (1024, False): "dinov3-l16"}
"""Width and whether the MLP is gated -> the card of the encoder inside SVG's checkpoint."""
SVG_HEADS = 8
"""Attention heads of the residual encoder. SVG's code has a fixed number for all widths."""
RESIDUAL_NAMES = (
    (r"^project\.", "extra_vit.conv_proj."),
    (r"^class_token$", "extra_vit.class_token"),
    (r"^positions$", "extra_vit.encoder.pos_embedding"),
    (r"^mask_token$", "mask_token"),
    (r"^norm\.", "extra_vit.encoder.ln."),
    (r"^head\.", "extra_vit.heads."),
    (r"^blocks\.(\d+)\.", r"extra_vit.encoder.layers.encoder_layer_\1."),
    (r"\.norm_(\d)\.", r".ln_\1."),
    (r"\.qkv\.", ".self_attention.in_proj_"),
    (r"\.out\.", ".self_attention.out_proj."),
    (r"\.up\.", ".mlp.0."),
    (r"\.down\.", ".mlp.3."),
)
"""Tensor names of ``ResidualEncoder`` -> those of torchvision's ViT in SVG's checkpoint."""
RAE_NAMES = (
    (r"^class_token$", "trainable_cls_token"),
    (r"^(embed|norm)\.", r"decoder_\1."),
    (r"^conv_out\.", "decoder_pred."),
    (r"^blocks\.", "decoder_layers."),
    (r"\.norm_1\.", ".layernorm_before."),
    (r"\.norm_2\.", ".layernorm_after."),
    (r"\.out\.", ".attention.output.dense."),
    (r"\.up\.", ".intermediate.dense."),
    (r"\.down\.", ".output.dense."),
)
"""Tensor names of ``ViTDecoder`` -> those of Hugging Face's ViT-MAE decoder, whose query, key and value are one matrix here."""
RAE_HEADS = {768: 12, 1024: 16, 1152: 16}
"""Width -> heads of the released decoders B, L and XL."""


class Svg(NamedTuple):
    """SVG's autoencoder, and the settings with which a run builds the same networks."""

    tokenizer: Tokenizer
    settings: dict[str, Any]
    """Fields of ``schema.Autoencoder`` that build the same networks."""
    card: str
    """The card of the frozen encoder."""
    encoder_weights: dict[str, Tensor]
    """The encoder's weights in the names of Meta's release, which the card opens."""
    resolution: int


class Rae(NamedTuple):
    """RAE's decoder, and the settings with which a run builds the same network."""

    decoder: ViTDecoder
    settings: dict[str, Any]
    """Fields of ``schema.Autoencoder`` that build the same networks."""
    resolution: int


class PixelDecoder(nn.Module):
    """RAE's decoder as released: ``decode`` returns pixels normalised by the statistics of its encoder."""

    def __init__(self, decoder: ViTDecoder, channels: int) -> None:
        super().__init__()
        self.decoder, self.channels, self.stride = decoder, channels, decoder.stride

    @torch.no_grad()
    def decode(self, features: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W], unclamped, of features [B, C, h, w]; multiplied by the encoder's std, plus its mean, they are in
        [0, 1]."""
        return in_chunks(self.decoder, features, chunk_size(features.device, *(side * self.stride for side in features.shape[2:])))


def svg_autoencoder(state: State, config: Config = None, where: str = "the file") -> Svg:
    """SVG's autoencoder from its Lightning checkpoint. The shapes of the tensors determine the encoder, the residual and the decoder.

    ``config``: the release's YAML, its ``model.params`` or a part of it; needed only when heads or alignment are not those of the release.
    """
    arguments = parameters(config)
    kind = "svg-autoencoder"
    require(state, {"encoder.patch_embed.proj.weight": 4, "encoder.norm.weight": 1, "decoder.conv_in.weight": 4}, kind=kind, where=where)
    extra = part(arguments, "residual", "extra_vit_config")
    sizes, residual, resolution = _residual(state, extra, where)
    resolution = resolution or whole_number(part(arguments, "decoder", "ddconfig"), "resolution", 256)
    groups = whole_number(part(arguments, "decoder", "ddconfig"), "norm_num_groups", GROUPS)
    ldm = ldm_sizes(state, "decoder.", resolution=resolution, kind=kind, where=where, groups=groups)
    check_ldm_config(part(arguments, "decoder", "ddconfig"), ldm, where=where)

    # the frozen encoder, by its card
    card = _dinov3(state, arguments, where)
    official = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    network = open_network(card, official)
    inside = f"the encoder '{card.name}' in {where}"
    files.fill(network.model, adapted(network, official, inside), where=inside, file_names=state)
    if ldm["z_channels"] != card.channels + sizes["channels"]:
        raise BadWeights(
            f"{where} decodes {ldm['z_channels']} channels, but {card.name} gives {card.channels} and the residual {sizes['channels']}; "
            "give the complete checkpoint of one training."
        )

    # the networks trained around it
    decoder = LdmDecoder(**ldm)
    trained = nn.ModuleDict({"decoder": decoder} if residual is None else {"decoder": decoder, "residual_encoder": residual})
    fill_from(trained, _modern(state, sizes), _svg_sources(trained), ignore=("encoder.", "loss.", "norm_vit."), where=where)
    align = "none" if extra.get("use_outnorm", True) is False else "batch"
    alignment = Alignment(align, feature_channels=card.channels, residual_channels=sizes["channels"]) if residual else None
    tokenizer = Tokenizer(FrozenEncoder(card, network), residual, alignment, decoder).eval().requires_grad_(False)
    layout: dict[str, Any] = {name: ldm[name] for name in ("base", "multipliers", "blocks", "attention", "groups") if name in ldm}
    settings = {"residual": sizes, "align": align, "decoder": {"kind": "ldm", **layout}}
    return Svg(tokenizer, settings, card.name, official, resolution)


def rae_decoder(state: State, config: Config = None, where: str = "the file") -> Rae:
    """RAE's decoder. ``config`` (of Hugging Face's ViT-MAE) gives the number of heads when the width is not that of B, L or XL."""
    arguments = parameters(config)
    if any(name.startswith("decoder.decoder_embed.") for name in state):  # a stage-1 checkpoint, which contains the encoder too
        state = {name.removeprefix("decoder."): value for name, value in state.items() if name.startswith("decoder.")}
    shapes = {"decoder_embed.weight": 2, "decoder_pred.weight": 2, "decoder_pos_embed": 3, "decoder_layers.0.intermediate.dense.weight": 2}
    require(state, shapes, kind="rae-decoder", where=where)
    width, channels = state["decoder_embed.weight"].shape
    stride = math.isqrt(state["decoder_pred.weight"].shape[0] // 3)
    grid = math.isqrt(state["decoder_pos_embed"].shape[1] - 1)
    layers, mlp = count(state, r"decoder_layers\.(\d+)\."), state["decoder_layers.0.intermediate.dense.weight"].shape[0]
    sizes_found = {"decoder_hidden_size": width, "decoder_num_hidden_layers": layers, "decoder_intermediate_size": mlp}
    check_config(arguments, {**sizes_found, "hidden_act": "gelu", "layer_norm_eps": EPSILON}, where=where)
    heads = whole_number(arguments, "decoder_num_attention_heads", RAE_HEADS.get(width))
    if not heads or width % heads or width % 4:
        fact = f"{heads} heads do not divide" if heads else "no released decoder has"
        raise BadConfig(f"{fact} the width {width} of {where}; give decoder_num_attention_heads in the config.")
    vit = {"width": width, "layers": layers, "heads": heads, "mlp": mlp}
    decoder = ViTDecoder(z_channels=channels, resolution=grid * stride, stride=stride, **vit)
    _check_positions(state["decoder_pos_embed"], decoder, where)
    fill_from(decoder, state, rae_sources(decoder), ignore=("decoder_pos_embed",), where=where)
    settings = {"residual": {"channels": 0}, "align": "none", "decoder": {"kind": "vit", "vit": vit}}
    return Rae(decoder.eval().requires_grad_(False), settings, grid * stride)


@torch.no_grad()
def with_pixels(decoder: ViTDecoder, encoder: FrozenEncoder) -> ViTDecoder:
    """Changes the decoder's last layer so that it gives pixels in [-1, 1], as decoders trained here do: 2 (x std + mean) - 1."""
    colours = len(decoder.conv_out.bias) // 3
    std, mean = (values.flatten().to(decoder.conv_out.bias).repeat(colours) for values in (encoder.std, encoder.mean))
    decoder.conv_out.weight.mul_(2 * std[:, None])
    decoder.conv_out.bias.mul_(2 * std).add_(2 * mean - 1)
    return decoder


def rae_tokenizer(state: State, encoder: FrozenEncoder, config: Config = None, where: str = "the file") -> tuple[Tokenizer, Rae]:
    """A tokenizer without residual: the encoder and RAE's decoder for it; and the settings with which a run builds the same decoder."""
    rae = rae_decoder(state, config, where)
    channels = rae.decoder.embed.in_features
    if (channels, rae.decoder.stride) != (encoder.channels, encoder.stride):
        raise BadConfig(
            f"{where} decodes {channels} channels at stride {rae.decoder.stride}, but '{encoder.card.name}' gives {encoder.channels} "
            f"at stride {encoder.stride}; name the encoder that this decoder was trained with."
        )
    return Tokenizer(encoder, None, None, with_pixels(rae.decoder, encoder)).eval().requires_grad_(False), rae


def _dinov3(state: State, arguments: Mapping[str, Any], where: str) -> cards.EncoderCard:
    """The card of the encoder inside SVG's checkpoint. Raises BadConfig when the config names another."""
    width = state["encoder.norm.weight"].shape[0]
    gated = "encoder.blocks.0.mlp.w1.weight" in state
    if "encoder.storage_tokens" not in state or (width, gated) not in DINOV3:
        known = ", ".join(DINOV3.values())
        raise BadWeights(f"the encoder in {where} has width {width} and is none of {known}; give an autoencoder with one of those.")
    card = cards.find(DINOV3[width, gated], "paper")
    named = arguments.get("encoder") or part(arguments, "dinoconfig").get("model_name")
    spelled = card.name.replace("dinov3-", "dinov3_vit")
    if isinstance(named, str) and named not in (card.name, spelled):
        raise BadConfig(f"the config has the encoder {named}, but {where} has {spelled}; correct the config or leave the field out.")
    return card


def _residual(state: State, arguments: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ResidualEncoder | None, int | None]:
    """The residual encoder's sizes as fields of ``networks.Residual``, the network with random weights, and the images' side in pixels."""
    if not any(name.startswith("extra_vit.") for name in state):
        return {"channels": 0}, None, None
    shapes = {"extra_vit.conv_proj.weight": 4, "extra_vit.encoder.pos_embedding": 3, "extra_vit.heads.2.weight": 2}
    require(state, shapes, kind="svg-autoencoder", where=where)
    width, _, patch, _ = state["extra_vit.conv_proj.weight"].shape
    layer = "extra_vit.encoder.layers.encoder_layer_"
    up = state.get(f"{layer}0.mlp.0.bias", state.get(f"{layer}0.mlp.linear_1.bias"))
    sizes = {
        "channels": state["extra_vit.heads.2.weight"].shape[0],
        "layers": count(state, r"extra_vit\.encoder\.layers\.encoder_layer_(\d+)\."),
        "width": width,
        "heads": whole_number(arguments, "num_heads", SVG_HEADS),
        "mlp": 4 * width if up is None else len(up),
    }
    sizes_found = {"output_dim": sizes["channels"], "num_layers": sizes["layers"], "hidden_dim": width, "mlp_dim": sizes["mlp"]}
    check_config(arguments, sizes_found, where=where)
    if width % sizes["heads"]:
        raise BadConfig(f"{sizes['heads']} heads do not divide the width {width} of the residual encoder in {where}; correct num_heads.")
    resolution = math.isqrt(state["extra_vit.encoder.pos_embedding"].shape[1] - 1) * patch
    return sizes, ResidualEncoder(**sizes, dropout=0.0, drop=0.0, patch=patch, resolution=resolution), resolution


def _modern(state: State, sizes: Mapping[str, Any]) -> State:
    """The checkpoint with the names of current torchvision. Adds a mask token of zeros when training had none (mask_ratio 0)."""
    state = {name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): value for name, value in state.items()}
    return state if "mask_token" in state or not sizes["channels"] else {**state, "mask_token": torch.zeros(1, sizes["channels"], 1)}


def _svg_sources(trained: nn.ModuleDict) -> dict[str, list[str]]:
    """Our tensor names -> those of SVG's checkpoint. Both use LDM's names for the decoder."""
    sources = {}
    for name in trained.state_dict():
        module, _, rest = name.partition(".")
        sources[name] = [name if module == "decoder" else _official(rest, RESIDUAL_NAMES)]
    return sources


def rae_sources(decoder: ViTDecoder) -> dict[str, list[str]]:
    """Our tensor names -> those of RAE's decoder."""
    sources = {}
    for name in decoder.state_dict():
        block, is_qkv, kind = name.partition(".qkv.")
        projections = ("query", "key", "value") if is_qkv else ()
        qkv = [f"{_official(block, RAE_NAMES)}.attention.attention.{word}.{kind}" for word in projections]
        sources[name] = qkv or [_official(name, RAE_NAMES)]
    return sources


def _check_positions(given: Tensor, decoder: ViTDecoder, where: str) -> None:
    """Raises BadWeights when the position table is not the one that ``ViTDecoder`` computes."""
    ours = torch.cat([torch.zeros(1, decoder.positions.shape[1]), decoder.positions])
    if given.shape[1:] != ours.shape or not bool((given[0].float() - ours).abs().max() <= rounding(given)):
        raise BadWeights(f"{where} has positions that are not the fixed sines and cosines of RAE's decoders; give another file.")


def _official(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in table:
        name = re.sub(ours, theirs, name)
    return name
