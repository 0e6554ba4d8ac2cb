"""Stages that import a network or statistics of an official release instead of training or measuring them. Their artifacts have the same
format as those of the stages they replace, so later stages need not distinguish them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from svgbench.config import schema
from svgbench.errors import BadConfig
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.nets.latents import LatentStats
from svgbench.nets.objectives import objective_of
from svgbench.nets.sit import SiT
from svgbench.releases import autoencoders
from svgbench.releases.open import TRANSFORMERS, opened, read
from svgbench.releases.statistics import read_statistics
from svgbench.stages.statistics import write as write_statistics
from svgbench.stages.tokenizers import build, describe, open_frozen, open_tokenizer
from svgbench.stages.transformers import write_description


def autoencoder(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """SVG's trained autoencoder, or RAE's decoder around its encoder: ``autoencoder.safetensors`` and ``autoencoder.json``."""
    release = schema.Release.model_validate(slice_["autoencoder"]["release"])
    card, encoder = open_frozen(slice_["encoder"], torch.device("cpu"))
    state = read(release.file, release.weights_key)
    if release.kind == "svg-autoencoder":
        released: Any = autoencoders.svg_autoencoder(state, release.config, release.file)
        tokenizer = released.tokenizer
        if (released.tokenizer.feature_channels, released.tokenizer.stride) != (encoder.channels, encoder.stride):
            use = f"set encoder.card={released.card}"
            raise BadConfig(f"{release.file} was trained on '{released.card}', this run has '{card.name}'; {use}.")
    elif release.kind == "rae-decoder":
        tokenizer, released = autoencoders.rae_tokenizer(state, encoder, release.config, release.file)
    else:
        raise BadConfig(
            f"autoencoder.release.kind '{release.kind}' is not an autoencoder that can be imported; use svg-autoencoder or rae-decoder."
        )
    side = slice_["data"]["resolution"]
    if released.resolution != side:
        raise BadConfig(
            f"{release.file} was trained at {released.resolution} px, this run has {side}; set data.resolution={released.resolution}."
        )
    settings = schema.Autoencoder.model_validate(released.settings)
    weights = {name: tensor.contiguous() for name, tensor in tokenizer.state_dict().items()}
    build(encoder, settings, side, torch.device("cpu")).load_state_dict(weights)  # check that it can be opened later
    save_file(weights, out / "autoencoder.safetensors")
    about = describe(slice_["encoder"], card, settings=settings.model_dump(mode="json"), resolution=side)
    write_atomic(out / "autoencoder.json", about)
    return {"parameters": sum(p.numel() for p in tokenizer.parameters()), "weights_key": state.key}


def statistics(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """A release's means and standard deviations, or its single scale factor: ``statistics.safetensors``."""
    part = schema.Latents.model_validate(slice_["latents"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    if part.scale is not None:
        whole = torch.ones(tokenizer.channels, dtype=torch.float64)
        stats = LatentStats(0 * whole, whole / part.scale)
    else:
        assert part.statistics is not None  # the stage needs one of the two
        stats = read_statistics(part.statistics, channels=tokenizer.channels)
    write_statistics(stats, out, autoencoder=inputs["autoencoder"], images=0)
    return {}


def diffusion(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """A released transformer: ``sit.safetensors`` and ``sit.json``."""
    release = schema.Release.model_validate(slice_["diffusion"]["release"])
    if release.kind not in TRANSFORMERS:
        raise BadConfig(f"diffusion.release.kind '{release.kind}' is no transformer; use {', '.join(TRANSFORMERS)}.")
    model, key = opened(release.kind, release.file, release.config, release.weights_key)
    network = model if isinstance(model, SiT) else model.sit
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    if network.channels != tokenizer.channels:
        raise BadConfig(
            f"{release.file} generates latents of {network.channels} channels, the autoencoder gives {tokenizer.channels}; "
            "import the autoencoder it was trained with, or name it by --encoder."
        )
    save_file({name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}, out / "sit.safetensors")
    names = [str(number) for number in range(network.classes)]
    write_description(out, network.sizes, names, objective=objective_of(model))
    return {"parameters": sum(p.numel() for p in network.parameters()), "weights_key": key}
