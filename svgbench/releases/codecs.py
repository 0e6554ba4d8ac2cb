"""Official codecs: VA-VAE and other autoencoders with LDM's tensor names, SD-VAE with diffusers' or LDM's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svgbench.backends.open import FrozenEncoder, adapted, open_network
from svgbench.config import cards
from svgbench.nets.tokenizer import Codec
from svgbench.releases.shapes import (
    GROUPS,
    State,
    check_config,
    check_ldm_config,
    count,
    ldm_sizes,
    parameters,
    part,
    require,
    whole_number,
)
from svgbench.weights import files

Config = Mapping[str, Any] | None


def vavae(state: State, config: Config = None, where: str = "the file") -> Codec:
    """VA-VAE, or another autoencoder with LDM's names; its sizes are read from the shapes."""
    arguments = parameters(config)
    shapes = {"encoder.conv_in.weight": 4, "quant_conv.weight": 4, "post_quant_conv.weight": 4}
    require(state, shapes, kind="vavae", where=where)
    layout = {**arguments, **part(arguments, "ddconfig")}
    groups = whole_number(layout, "norm_num_groups", GROUPS)
    sizes = ldm_sizes(state, "decoder.", resolution=whole_number(layout, "resolution", 256), kind="vavae", where=where, groups=groups)
    embed_dim = state["post_quant_conv.weight"].shape[1]
    check_ldm_config(layout, sizes, where=where)
    check_config(arguments, {"embed_dim": embed_dim}, where=where)
    card = cards.find("va-vae-f16d32", "paper")
    return _codec(card, {"embed_dim": embed_dim, **sizes}, embed_dim, 2 ** (len(sizes["multipliers"]) - 1), state, where)


def sdvae(state: State, config: Config = None, where: str = "the file") -> Codec:
    """SD-VAE, with LDM's names or those of any version of diffusers; ``config``: diffusers' config.json or LDM's ``ddconfig``."""
    arguments = parameters(config)
    if "decoder.up.0.block.0.conv1.weight" in state:
        layout = {**arguments, **part(arguments, "ddconfig")}
        groups = whole_number(layout, "norm_num_groups", GROUPS)
        sizes = ldm_sizes(state, "decoder.", resolution=whole_number(layout, "resolution", 256), kind="sdvae", where=where, groups=groups)
        check_ldm_config(layout, sizes, where=where)
        widths, blocks = [sizes["base"] * m for m in sizes["multipliers"]], sizes["blocks"]
        channels = sizes["z_channels"]
    else:
        shapes = {"encoder.conv_in.weight": 4, "decoder.conv_in.weight": 4, "encoder.down_blocks.0.resnets.0.conv1.weight": 4}
        require(state, shapes, kind="sdvae", where=where)
        levels = count(state, r"encoder\.down_blocks\.(\d+)\.resnets\.0\.conv1\.weight$")
        widths = [state[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
        blocks = count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.conv1\.weight$")
        channels = state["decoder.conv_in.weight"].shape[1]
        check_config(arguments, {"block_out_channels": widths, "layers_per_block": blocks, "latent_channels": channels}, where=where)
    card = cards.find("sd-vae-ema", "paper")
    convolutions = {f"use_{name}": f"{name}.weight" in state for name in ("quant_conv", "post_quant_conv")}  # later families have none
    card_arguments = {
        "block_out_channels": widths, "layers_per_block": blocks, "latent_channels": channels, **convolutions,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths), "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "norm_num_groups": whole_number({**arguments, **part(arguments, "ddconfig")}, "norm_num_groups", GROUPS),
        "sample_size": whole_number(arguments, "sample_size", 256),
    }  # fmt: skip
    return _codec(card, card_arguments, channels, 2 ** (len(widths) - 1), state, where)


def _codec(card: cards.EncoderCard, arguments: dict[str, Any], channels: int, stride: int, state: State, where: str) -> Codec:
    """The codec of a card with other sizes, filled from an official file."""
    card = card.model_copy(update={"arguments": arguments, "channels": channels, "stride": stride})
    network = open_network(card, dict(state))
    files.fill(network.model, adapted(network, dict(state), where), where=where, file_names=state)
    return Codec(FrozenEncoder(card, network)).eval()
