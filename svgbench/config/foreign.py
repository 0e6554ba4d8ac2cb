"""BACKEND:NAME: what a card would say of a model that has none, read from its library's names and from its configuration file. No torch."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svgbench.config.hub import hub_file
from svgbench.errors import BadConfig, BadWeights, unknown

SIDE = 256
"""Side in pixels of the images that these cards are made for."""

CLASSES = {
    "dinov3_vit": "DINOv3ViTModel", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel",
    "siglip": "SiglipVisionModel", "siglip_vision_model": "SiglipVisionModel", "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel", "vit": "ViTModel", "vit_mae": "ViTMAEModel",
}  # fmt: skip
"""``model_type`` of transformers -> its image encoder."""

PATCHES = {"dinov2": 14, "clip": 32, "clip_vision_model": 32}
"""Patch sizes that transformers assumes where a configuration does not say; 16 for all others."""

WORDS = ("architectures", "model_type", "transformers_version", "torch_dtype", "dtype")
"""Fields of a configuration that say nothing about the network."""


def describe(name: str) -> dict[str, Any]:
    """The fields of a card for BACKEND:NAME; channels, parameters and mostly pixel statistics are the library's, filled in on opening."""
    backend, _, model = name.partition(":")
    if backend not in READERS:
        raise BadConfig(f"'{name}' cannot be opened by its name alone; write a card for it (--shelf DIR) or use {', '.join(READERS)}.")
    if not model:
        raise BadConfig(f"'{name}' names no model; write {backend}:NAME.")
    return {
        "name": name, "family": "other", "backend": backend, "channels": 0, "params_m": 0, "licence": "see origin", "paper": "see origin",
        **READERS[backend](model, name),
    }  # fmt: skip


def _timm(model: str, name: str) -> dict[str, Any]:
    patch = re.search(r"patch(\d+)", model)
    if patch is None:
        raise BadConfig(f"'{name}' does not say its patch size (patch16) in its name; write a card for it (--shelf DIR).")
    hub = {"hub": f"timm/{model}"} if "." in model else {}
    return {"model": model, "weights": hub, "origin": f"https://huggingface.co/timm/{model}", **_grid(int(patch[1]))}


def _open_clip(model: str, name: str) -> dict[str, Any]:
    own = _own_config(model)
    if own is not None:
        hub = {"hub": f"timm/{model}", "hub_file": "open_clip_model.safetensors"} if "SigLIP" in model else {}
        place: dict[str, Any] = {"model": model, "weights": hub, "origin": "https://github.com/mlfoundations/open_clip"}
        config, arguments, pixels = own, {}, {}
    elif "/" in model or Path(model).is_dir():
        content, place = _configured(model, name, ("open_clip_config.json",), "open_clip_model.safetensors")
        config, pixels = content.get("model_cfg", {}), _statistics(content.get("preprocess_cfg", {}))
        arguments, place["model"] = config, "custom"
    else:
        raise unknown("open_clip model", model, _own_names())
    vision = config.get("vision_cfg", {})
    found = re.search(r"patch(\d+)", vision.get("timm_model_name") or "")
    patch = int(found[1]) if found else vision.get("patch_size", 16)
    grid = _grid(patch, **pixels)
    sized = {**arguments.get("vision_cfg", {}), "image_size": _seen(patch)}
    return {**place, **grid, "arguments": {**arguments, "vision_cfg": sized}}


def _transformers(model: str, name: str) -> dict[str, Any]:
    config, place = _configured(model, name, ("config.json",), "model.safetensors")
    kind = config.get("model_type")
    if kind not in CLASSES:
        raise BadConfig(f"'{name}' is a '{kind}' and svgbench knows these of transformers: {', '.join(CLASSES)}; write a backend for it.")
    config = config.get("vision_config", config)
    patch = config.get("patch_size", PATCHES.get(kind, 16))
    arguments = {key: value for key, value in config.items() if key not in WORDS and not key.startswith("_")}
    arguments |= {"patch_size": patch, "image_size": _seen(patch)}
    return {**place, "model": CLASSES[kind], "arguments": arguments, **_grid(patch)}


def _diffusers(model: str, name: str) -> dict[str, Any]:
    config, place = _configured(model, name, ("config.json", "vae/config.json"), "diffusion_pytorch_model.safetensors")
    kind, widths = config.get("_class_name"), config.get("block_out_channels")
    if kind != "AutoencoderKL" or not widths:
        raise BadConfig(f"'{name}' is a '{kind}' of diffusers; only AutoencoderKL is known here.")
    stride = 2 ** (len(widths) - 1)
    half = (0.5, 0.5, 0.5)
    return {
        **place, "model": kind, "kind": "codec", "stride": stride, "patch": max(1, 16 // stride),
        "arguments": {key: value for key, value in config.items() if not key.startswith("_")},
        "pixels": {"mean": half, "std": half, "size": SIDE},
    }  # fmt: skip


def _checkpoint(model: str, name: str) -> dict[str, Any]:
    raise BadConfig(f"'{name}': a file does not say how it is opened; hand it to a card: --encoder va-vae-f16d32 --weights {model}.")


READERS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "timm": _timm, "open_clip": _open_clip, "transformers": _transformers, "diffusers": _diffusers, "checkpoint": _checkpoint,
}  # fmt: skip


def _grid(patch: int, mean: Any = (0.0, 0.0, 0.0), std: Any = (1.0, 1.0, 1.0)) -> dict[str, Any]:
    """Stride and pixels; patch 14 sees images at 14/16, so that its grid is that of patch 16. Statistics 0, 1 stand for the library's."""
    stride, scale = (16, "14/16") if patch == 14 else (patch, "1/1")
    return {"stride": stride, "pixels": {"mean": mean, "std": std, "size": SIDE, "scale": scale}}


def _seen(patch: int) -> int:
    """Side in pixels of what the network sees of an image of ``SIDE``."""
    return SIDE * 14 // 16 if patch == 14 else SIDE // patch * patch


def _statistics(content: dict[str, Any]) -> dict[str, Any]:
    return {key: content[key] for key in ("mean", "std") if content.get(key)} if content.get("mean") and content.get("std") else {}


def _configured(model: str, name: str, configs: tuple[str, ...], weights: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's configuration file, and where its weights are: in the directory ``model`` or in the repository of that name."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        path = next((folder / config for config in configs if (folder / config).is_file()), None)
        if path is None:
            raise BadConfig(f"'{name}': the directory {folder} holds no {configs[0]}; name the directory that its library wrote.")
        place = {"model": model, "weights": {"file": str(path.parent.resolve())}, "origin": str(path.parent.resolve())}
        return _json(path), place
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise BadConfig(f"'{name}' is neither a directory here nor a repository OWNER/NAME of Hugging Face; check the name.")
    advice = f"hand over a directory that holds {configs[0]} and the weights: {name.partition(':')[0]}:DIR"
    for config in configs:
        try:
            path = hub_file(model, config, what=f"{config} of '{name}'", advice=advice)
        except BadWeights:
            if config == configs[-1]:
                raise
            continue
        inside = config.rpartition("/")[0]
        file = f"{inside}/{weights}" if inside else weights
        return _json(path), {"model": model, "weights": {"hub": model, "hub_file": file}, "origin": f"https://huggingface.co/{model}"}
    raise BadConfig(f"'{name}' has no {configs[0]}.")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadConfig(f"{path} is no readable configuration ({type(error).__name__}); fetch it again.") from None
    if not isinstance(content, dict):
        raise BadConfig(f"{path} holds {type(content).__name__}, not a configuration; fetch it again.")
    return content


def _own_folder() -> Path | None:
    """Where open_clip keeps its configurations; finding it imports nothing."""
    spec = importlib.util.find_spec("open_clip")
    return Path(spec.origin).parent / "model_configs" if spec and spec.origin else None


def _own_config(model: str) -> dict[str, Any] | None:
    folder = _own_folder()
    if folder is None:
        raise BadConfig("the backend open_clip needs its package: pip install 'svgbench[encoders]'.")
    path = folder / f"{model}.json"
    return _json(path) if "/" not in model and path.is_file() else None


def _own_names() -> list[str]:
    folder = _own_folder()
    return sorted(path.stem for path in folder.glob("*.json")) if folder else []
