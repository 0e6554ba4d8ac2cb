"""Weights of others: which local file, whether it is the pinned one, what it holds. Nothing is read that could run code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from svgbench.config.cards import EncoderCard, weights_file, weights_files
from svgbench.config.hub import hub_file
from svgbench.errors import BadConfig, BadWeights, closest
from svgbench.world.files import sha256_of
from svgbench.world.kinds import looks_like

WRAPPERS = ("ema", "model_ema", "state_dict", "model", "module", "teacher")
"""Keys under which training codes keep the weights in their checkpoints."""


def resolve(card: EncoderCard, weights: str | Path | None = None) -> Path:
    """The local file (or directory) of a card's weights: the one handed over, else the shelf's, else the Hugging Face cache's, else a
    download."""
    check_licence(card)
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.exists():
            raise BadWeights(f"the weights file {path} for '{card.name}' does not exist; {_origin(card)}.")
        weights_files(path)
        return path
    path = weights_file(card)
    if path is None:
        path = _from_hub(card)
    elif not path.exists():
        made = f" or make it again with `{card.trained_by}`" if card.trained_by else ""
        raise BadWeights(f"{path} of '{card.name}' is missing; reinstall svgbench{made}.")
    if card.weights.sha256:
        check_digest(path, card)
    return path


def check_licence(card: EncoderCard) -> None:
    """Refuses weights whose licence forbids the use that the environment declares (``SVGBENCH_USE=commercial``; research else)."""
    use = os.environ.get("SVGBENCH_USE", "research").strip().lower() or "research"
    if use not in ("research", "commercial"):
        raise BadConfig(f"SVGBENCH_USE is '{use}'; it must be research or commercial.{closest(use, ('research', 'commercial'))}")
    if use in card.forbids:
        raise BadWeights(
            f"the weights of '{card.name}' are licensed {card.licence}, which forbids {use} use, and SVGBENCH_USE declares it; "
            f"take an encoder whose licence allows it (`svgbench encoders`) or ask its authors ({card.origin})."
        )


def check_digest(path: Path, card: EncoderCard) -> None:
    """Refuses a file that is not the one the card pins."""
    found, pinned = sha256_of(path), card.weights.sha256 or ""
    if found != pinned:
        raise BadWeights(
            f"{path.name} of '{card.name}' has digest {found[:12]}..., the card pins {pinned[:12]}...; "
            f"fetch {path} again or correct the card."
        )


def read(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a ``.safetensors`` file, of a ``.pt``, ``.pth``, ``.ckpt`` or ``.bin`` read with ``weights_only=True``, or of all
    parts of a directory."""
    parts = weights_files(path)
    if len(parts) == 1:
        return _read_one(parts[0])
    return {name: value for part in parts for name, value in _read_one(part).items()}


def _read_one(path: Path) -> dict[str, Tensor]:
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error) and "WeightsUnpickler" not in str(error):
            raise BadWeights(f"{path} is truncated or not a weights file; fetch it again.") from None
        raise BadWeights(f"{path} holds pickled objects, which could run code and are not read; save its tensors alone.") from None
    except (SafetensorError, EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        if isinstance(error, PermissionError):
            raise BadWeights(f"{path} may not be read; change its permissions.") from None
        raise BadWeights(f"{path} is truncated or not a weights file ({_first_line(error)}); fetch it again.") from None
    return _tensors(content, path)


def fill(module: nn.Module, state: Mapping[str, Tensor], *, where: str, found: Iterable[str] | None = None) -> None:
    """Loads ``state`` into ``module``, every name and shape or nothing, in the module's own precision; ``where`` opens the error.

    ``found``: the names as the file had them, where they were changed on the way, so that the error can say what the file looks like."""
    wanted = module.state_dict()
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    faults = [_named("missing", missing), _named("surplus", surplus), _named("of another shape", shapes)]
    if any(faults):
        listed = "; ".join(fault for fault in faults if fault)
        kind = looks_like(state if found is None else found)
        guess = f"it looks like {kind}, " if kind else ""
        raise BadWeights(f"{where} does not fit, of {len(wanted)} tensors: {listed}; {guess}hand over the file of this architecture.")
    broken = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise BadWeights(f"{where} holds numbers that are not finite: {_named('tensors', broken)}; fetch it again.")
    module.load_state_dict(dict(state))


def _from_hub(card: EncoderCard) -> Path:
    """The card's file from the local Hugging Face cache, else from its server."""
    source = card.weights
    if source.hub is None:
        raise BadWeights(f"the card '{card.name}' names no weights; {_origin(card)}.")
    name = source.hub_file or "model.safetensors"
    return hub_file(source.hub, name, source.revision, what=f"the weights file {name} of '{card.name}'", advice=_origin(card))


def _origin(card: EncoderCard) -> str:
    """Which file, from where, under which licence, how to hand it over."""
    if card.weights.hub is None:
        return f"see {card.origin} (licence {card.licence}) and hand a file over: --weights FILE"
    name = card.weights.hub_file or "model.safetensors"
    place = f"https://huggingface.co/{card.weights.hub}"
    return f"get {name} from {place} (licence {card.licence}) and hand it over: --weights FILE"


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of tensors inside a checkpoint, out of its wrappers."""
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping) and content[key]), None)
        if inner is None or len(tensors) > 1:
            break
        content = inner
    else:
        raise BadWeights(f"{path} holds {type(content).__name__}, not named tensors; hand over a state dict.")
    if not tensors:
        raise BadWeights(f"{path} holds no named tensors; hand over a state dict.")
    prefix = "module."
    return {name.removeprefix(prefix): value for name, value in tensors.items()} if all(n.startswith(prefix) for n in tensors) else tensors


def _named(what: str, names: Iterable[str]) -> str:
    """``3 missing (a, b, c)``; empty where there is none."""
    names = list(names)
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".")
