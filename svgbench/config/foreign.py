"""BACKEND:NAME: makes a card for a model without one, from its library's names and its configuration file. No torch."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from pathlib import Path
from typing import Any

from svgbench.config.backends import BACKENDS
from svgbench.config.hub import hub_file
from svgbench.config.preprocessing import CLIP, IMAGENET, PROCESSORS, USUAL, Statistics, of_file, read_json
from svgbench.errors import BadConfig, BadWeights, notify_once, unknown

SIDE = 256
"""Side in pixels of the images for these cards."""

CLASSES = {
    "dinov3_vit": "DINOv3ViTModel", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel",
    "siglip": "SiglipVisionModel", "siglip_vision_model": "SiglipVisionModel", "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel", "vit": "ViTModel", "vit_mae": "ViTMAEModel",
}  # fmt: skip
"""``model_type`` of transformers -> its image encoder."""

DIFFUSERS = {"AutoencoderKL": "block_out_channels", "AutoencoderDC": "encoder_block_out_channels", "AutoencoderRAE": ""}
"""Codecs of diffusers -> the field with the width of each level, from which the stride follows."""

PATCHES = {"dinov2": 14, "clip": 32, "clip_vision_model": 32}
"""Default patch sizes in transformers for configurations that state none; 16 for all other models."""

NOT_STATED = Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Placeholder for pixel statistics that only the library knows."""

WORDS = ("architectures", "model_type", "transformers_version", "torch_dtype", "dtype")
"""Fields of a configuration that do not describe the network."""


def describe(name: str) -> dict[str, Any]:
    """The fields of a card for BACKEND:NAME; channels, parameters and usually pixel statistics are filled in when the library opens the
    model."""
    backend, _, model = name.partition(":")
    readers = {backend: row.card_reader for backend, row in BACKENDS.items() if row.card_reader}
    if backend not in readers:
        raise BadConfig(f"'{name}' cannot be opened by its name alone; write a card for it (--shelf DIR) or use {', '.join(readers)}.")
    if not model:
        raise BadConfig(f"'{name}' names no model; write {backend}:NAME.")
    return {
        "name": name, "family": "other", "backend": backend, "channels": 0, "params_m": 0, "licence": "see origin", "paper": "see origin",
        **pkgutil.resolve_name(readers[backend])(model, name),
    }  # fmt: skip


def by_name(card: Any) -> bool:
    """Whether a card of this module is for a library's own model, whose pixel statistics the library knows."""
    return card.backend in BACKENDS and BACKENDS[card.backend].has_pixel_statistics and card.model != "custom" and card.weights.file is None


def timm_card(model: str, name: str) -> dict[str, Any]:
    """The card fields of a timm model by its name, or of a directory that timm wrote."""
    if Path(model).expanduser().is_dir():
        return _timm_directory(model, name)
    patch = re.search(r"patch(\d+)", model)
    if patch is None:
        raise BadConfig(f"the name '{name}' does not contain a patch size, such as patch16; write a card for it (--shelf DIR).")
    hub = {"hub": f"timm/{model}"} if "." in model else {}
    return {"model": model, "weights": hub, "origin": f"https://huggingface.co/timm/{model}", **_grid(int(patch[1]))}


def _timm_directory(model: str, name: str) -> dict[str, Any]:
    """A directory as timm writes it for the hub: ``config.json`` with the architecture and its ``pretrained_cfg``."""
    config, place = _configured(model, name, ("config.json",), "model.safetensors")
    architecture, arguments = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(architecture, str) or not isinstance(arguments, dict):
        raise BadConfig(f"'{name}': its config.json names no architecture; name the directory that timm wrote.")
    match = re.search(r"patch(\d+)", architecture)
    patch = arguments.get("patch_size", int(match[1]) if match else 16)
    pixels = of_file(Path(model).expanduser() / "config.json") or _usual(IMAGENET, name, "config.json")
    arguments = {key: value for key, value in arguments.items() if key not in ("num_classes", "global_pool")}
    return {**place, "model": architecture, "arguments": arguments, **_grid(patch, *pixels)}


def open_clip_card(model: str, name: str) -> dict[str, Any]:
    """The card fields of an open_clip model by its name, or of a directory or repository of one."""
    local = _own_config(model)
    if local is not None:
        hub = {"hub": f"timm/{model}", "hub_file": "open_clip_model.safetensors"} if "SigLIP" in model else {}
        place: dict[str, Any] = {"model": model, "weights": hub, "origin": "https://github.com/mlfoundations/open_clip"}
        config, arguments, pixels = local, {}, NOT_STATED
    elif "/" in model or Path(model).is_dir():
        content, place = _configured(model, name, ("open_clip_config.json",), "open_clip_model.safetensors")
        config = content.get("model_cfg", {})
        pixels = _stated(model, ("open_clip_config.json",)) or _usual(CLIP, name, "open_clip_config.json")
        arguments, place["model"] = config, "custom"
    else:
        raise unknown("open_clip model", model, _own_names())
    vision = config.get("vision_cfg", {})
    match = re.search(r"patch(\d+)", vision.get("timm_model_name") or "")
    patch = int(match[1]) if match else vision.get("patch_size", 16)
    grid = _grid(patch, *pixels)
    sized = {**arguments.get("vision_cfg", {}), "image_size": _seen(patch)}
    return {**place, **grid, "arguments": {**arguments, "vision_cfg": sized}}


def transformers_card(model: str, name: str) -> dict[str, Any]:
    """The card fields of a transformers model in a directory or repository."""
    config, place = _configured(model, name, ("config.json",), "model.safetensors")
    kind = config.get("model_type")
    if kind not in CLASSES:
        raise BadConfig(f"'{name}' is a '{kind}', but from transformers svgbench opens only {', '.join(CLASSES)}; write a backend for it.")
    config = config.get("vision_config", config)
    patch = config.get("patch_size", PATCHES.get(kind, 16))
    arguments = {key: value for key, value in config.items() if key not in WORDS and not key.startswith("_")}
    arguments |= {"patch_size": patch, "image_size": _seen(patch)}
    pixels = _stated(model, PROCESSORS) or _usual(USUAL.get(CLASSES[kind], IMAGENET), name, PROCESSORS[0])
    return {**place, "model": CLASSES[kind], "arguments": arguments, **_grid(patch, *pixels)}


def diffusers_card(model: str, name: str) -> dict[str, Any]:
    """The card fields of a codec of diffusers in a directory or repository."""
    config, place = _configured(model, name, ("config.json", "vae/config.json"), "diffusion_pytorch_model.safetensors")
    kind = config.get("_class_name")
    if kind not in DIFFUSERS:
        raise BadConfig(f"'{name}' is a '{kind}', but from diffusers svgbench opens only {', '.join(DIFFUSERS)}; give one of these.")
    mean, std, size = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), SIDE
    if kind == "AutoencoderRAE":  # it normalises its pixels itself, and takes one size
        mean, std = NOT_STATED
        stride = config.get("patch_size", 16)
        size = stride * (config.get("encoder_input_size", 224) // config.get("encoder_patch_size", 14))
    else:
        widths = config.get(DIFFUSERS[kind])
        if not isinstance(widths, list) or not widths:
            raise BadConfig(f"'{name}': its config.json has no {DIFFUSERS[kind]}; name the directory that diffusers wrote.")
        stride = 2 ** (len(widths) - 1)
    return {
        **place, "model": kind, "kind": "codec", "stride": stride, "patch": max(1, 16 // stride),
        "arguments": {key: value for key, value in config.items() if not key.startswith("_")},
        "pixels": {"mean": mean, "std": std, "size": size},
    }  # fmt: skip


def checkpoint_card(model: str, name: str) -> dict[str, Any]:
    """Raises BadConfig for a checkpoint without a card."""
    raise BadConfig(f"'{name}' is a file, whose architecture is not known; choose its card: --encoder va-vae-f16d32 --weights {model}.")


def _stated(model: str, files: tuple[str, ...]) -> Statistics | None:
    """The pixel statistics in the first of these files that states some, in a directory or a repository of the hub."""
    folder = Path(model).expanduser()
    for file in files:
        try:
            path = folder / file if folder.is_dir() else hub_file(model, file, what=file, advice="")
        except BadWeights:  # the repository has none, or cannot be asked
            continue
        statistics = of_file(path) if path.is_file() else None
        if statistics is not None:
            return statistics
    return None


def _usual(statistics: Statistics, name: str, file: str) -> Statistics:
    """The usual statistics of an architecture; a line on standard error states that they were assumed."""
    notify_once(f"'{name}': no {file} states how its pixels are normalised; using its library's default, {statistics.shown}.")
    return statistics


def _grid(patch: int, mean: Any = NOT_STATED.mean, std: Any = NOT_STATED.std) -> dict[str, Any]:
    """Stride and pixels; models with patch 14 get images resized by 14/16, so that the grid is that of patch 16. Statistics 0 and 1 are
    placeholders for the library's."""
    stride, scale = (16, "14/16") if patch == 14 else (patch, "1/1")
    return {"stride": stride, "pixels": {"mean": mean, "std": std, "size": SIDE, "scale": scale}}


def _seen(patch: int) -> int:
    """Side in pixels at which the network gets an image of side ``SIDE``."""
    return SIDE * 14 // 16 if patch == 14 else SIDE // patch * patch


def _configured(model: str, name: str, configs: tuple[str, ...], weights: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's configuration file, and where its weights are: in the directory ``model`` or in the repository of that name."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        path = next((folder / config for config in configs if (folder / config).is_file()), None)
        if path is None:
            raise BadConfig(f"'{name}': the directory {folder} holds no {configs[0]}; name the directory that its library wrote.")
        place = {"model": model, "weights": {"file": str(path.parent.resolve())}, "origin": str(path.parent.resolve())}
        return read_json(path), place
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise BadConfig(f"'{name}' is neither a directory here nor a repository OWNER/NAME of Hugging Face; check the name.")
    advice = f"give a directory that holds {configs[0]} and the weights: {name.partition(':')[0]}:DIR"
    for config in configs:
        try:
            path = hub_file(model, config, what=f"{config} of '{name}'", advice=advice)
        except BadWeights:
            if config == configs[-1]:
                raise
            continue
        inside = config.rpartition("/")[0]
        file = f"{inside}/{weights}" if inside else weights
        return read_json(path), {"model": model, "weights": {"hub": model, "hub_file": file}, "origin": f"https://huggingface.co/{model}"}
    raise BadConfig(f"'{name}' has no {configs[0]}.")


def _own_folder() -> Path | None:
    """The folder of open_clip's configurations, found without importing it."""
    spec = importlib.util.find_spec("open_clip")
    return Path(spec.origin).parent / "model_configs" if spec and spec.origin else None


def _own_config(model: str) -> dict[str, Any] | None:
    folder = _own_folder()
    if folder is None:
        raise BadConfig("the backend open_clip needs its package: pip install open_clip_torch.")
    path = folder / f"{model}.json"
    return read_json(path) if "/" not in model and path.is_file() else None


def _own_names() -> list[str]:
    folder = _own_folder()
    return sorted(path.stem for path in folder.glob("*.json")) if folder else []
