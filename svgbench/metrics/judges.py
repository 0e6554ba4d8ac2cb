"""The networks that judge images: which there are, where their weights are, and opening these without running any code inside them.

Protocol: a judge is known by its name and the sha256 of the weights that were opened; another file is another judge, whose numbers
carry another name. Files: ``.safetensors``, or ``.pt``/``.pth`` read with weights_only=True. What a digest cannot tell: whether the
weights are good.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from svgbench.errors import BadWeights, unknown
from svgbench.shelf import folder, read_yaml
from svgbench.world.files import sha256_of


def row(kind: str, name: str) -> dict[str, Any]:
    """The facts of one judge; ``kind`` is ``features`` or ``pairs``."""
    known = read_yaml(folder("reports") / "extractors.yaml")[kind]
    if name not in known:
        raise unknown("extractor" if kind == "features" else "perceptual distance", name, known)
    return known[name]


def weights_file(kind: str, name: str, weights: str | Path | None = None) -> Path:
    """The file to open: the one given, else the one on the shelf."""
    facts = row(kind, name)
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise BadWeights(f"{path} does not exist; give the weights file of '{name}'{_whence(facts)}.")
        return path
    if "shelf" not in facts:
        setting = "scores.extractor_weights" if kind == "features" else "scores.lpips_weights"
        raise BadWeights(f"'{name}' needs its weights file{_whence(facts)}; fetch it where there is a network and set {setting} to it.")
    path = folder("encoders") / facts["shelf"]
    if not path.is_file():
        raise BadWeights(f"'{name}' has no {path}; install svgbench again, or train it by 'svgbench pretrain classifiers'.")
    found = sha256_of(path)
    if facts.get("sha256", found) != found:
        raise BadWeights(f"{path} has digest {found[:12]}..., extractors.yaml pins {facts['sha256'][:12]}...; install svgbench again.")
    return path


def _whence(facts: dict[str, Any]) -> str:
    return f" {facts['file']} (from {facts['source']}, licence {facts['licence']})" if "file" in facts else ""


def read_state(path: Path) -> dict[str, Tensor]:
    """Names and tensors in a weights file; a file that holds anything else is refused."""
    try:
        if path.suffix == ".safetensors":
            state = load_safetensors(path.read_bytes())
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own; whatever they say, the file is not one of tensors
        raise BadWeights(f"{path}: cannot be read as tensors only ({type(error).__name__}); fetch it again.") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadWeights(f"{path}: holds more than named tensors; give the file of the network's weights alone.")
    return state


def fill(network: torch.nn.Module, state: dict[str, Tensor], path: Path) -> torch.nn.Module:
    """The network with these weights, frozen, in evaluation mode; names and shapes must all fit."""
    own = network.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or surplus or shapes:
        raise BadWeights(
            f"{path} does not fit: {len(missing)} weights missing, {len(surplus)} too many, {len(shapes)} of another shape "
            f"(first: {(missing + surplus + shapes)[0]}); give the right file."
        )
    network.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()})
    return network.requires_grad_(False).eval()


def head_widths(state: dict[str, Tensor], path: Path) -> dict[str, int]:
    """How many classes and caption words the heads of a small classifier name, from the shapes of its weights."""
    heads = {"classes": "logits.weight", "words": "words.weight"}
    absent = [name for name in heads.values() if name not in state]
    if absent:
        raise BadWeights(f"{path} does not fit: it has no {absent[0]}; give the weights of a classifier of the embedded images.")
    return {width: len(state[name]) for width, name in heads.items()}
