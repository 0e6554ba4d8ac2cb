"""Finds, verifies and reads weights files. Nothing in a file is executed."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from svgbench.config.archives import DAMAGED
from svgbench.config.cards import EncoderCard, weights_file
from svgbench.config.file_state import FileState, state_of
from svgbench.config.file_types import form_of
from svgbench.config.hub import hub_file
from svgbench.config.preprocessing import check_statistics
from svgbench.config.weight_files import weights_files
from svgbench.errors import BadConfig, BadWeights, closest
from svgbench.machine.files import sha256_of
from svgbench.machine.progress import tell_once
from svgbench.weights.choice import average_beside, choose
from svgbench.weights.dcp import read_dcp
from svgbench.weights.kinds import looks_like
from svgbench.weights.torch_files import Hostile, Stored, read_archive, read_legacy


def resolve(card: EncoderCard, weights: str | Path | None = None, *, option: str = "--weights FILE") -> Path:
    """The local file or directory of a card's weights: ``weights`` if given, else the shipped file, else the Hugging Face cache, else a
    download. Raises BadWeights when there is none, when its digest differs from the card's, or when its licence forbids the declared
    use. ``option``: the option that the error names for giving a file."""
    check_licence(card)
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.exists():
            raise BadWeights(f"the weights file {path} for '{card.name}' does not exist; {_origin(card, option)}.")
        weights_files(path)
        _check_pixels(card, path)
        return path
    shipped = weights_file(card)
    path = _from_hub(card, option) if shipped is None else shipped
    if shipped is None:
        _check_pixels(card, path)
    elif not path.exists():
        made = f" or make it again with `{card.trained_by}`" if card.trained_by else ""
        raise BadWeights(f"{path} of '{card.name}' is missing; reinstall svgbench{made}.")
    if card.weights.sha256:
        check_digest(path, card)
    return path


def _check_pixels(card: EncoderCard, path: Path) -> None:
    """Raises BadWeights when the files state other pixel statistics than the card."""
    if card.channels:
        check_statistics(path, card.pixels.mean, card.pixels.std, card.name)


def check_licence(card: EncoderCard) -> None:
    """Raises BadWeights when the licence forbids the use declared by ``SVGBENCH_USE`` (``research``, the default, or ``commercial``)."""
    use = os.environ.get("SVGBENCH_USE", "research").strip().lower() or "research"
    if use not in ("research", "commercial"):
        raise BadConfig(f"SVGBENCH_USE is '{use}'; it must be research or commercial.{closest(use, ('research', 'commercial'))}")
    if use in card.forbids:
        raise BadWeights(
            f"the weights of '{card.name}' have the licence {card.licence}, which forbids {use} use (declared by SVGBENCH_USE); "
            f"use an encoder whose licence allows it (`svgbench encoders`) or ask its authors ({card.origin})."
        )


def check_digest(path: Path, card: EncoderCard) -> None:
    """Raises BadWeights when the file's SHA-256 is not the one in the card."""
    digest, pinned = sha256_of(path), card.weights.sha256 or ""
    if digest != pinned:
        raise BadWeights(
            f"{path.name} of '{card.name}' has the SHA-256 digest {digest[:12]}..., but the card requires {pinned[:12]}...; "
            f"download {path} again or correct the card."
        )


class State(dict[str, Tensor]):
    """Name -> tensor of a weights file."""

    key = "."
    """Dotted path of the weights in the checkpoint; a dot for the entire file."""


def read(path: Path, key: str | None = None) -> State:
    """Reads the tensors of a weights file (``.safetensors``, or written by ``torch.save``; objects other than tensors are not loaded), or
    of all parts of a directory.

    Averaged weights (EMA) of a checkpoint are preferred to the raw ones; ``key`` (a dotted path) selects others. If there was a choice,
    it is reported once on standard error. Raises BadWeights for damaged files and for checkpoints in which no rule selects the weights.
    """
    before = [(part, _state(part)) for part in weights_files(path)]
    parts = [part for part, _ in before]
    content = read_dcp(path) if parts[0].name == ".metadata" else _merged(parts)
    chosen = choose(content, path, key)
    _refuse_average_beside(path, parts[0], chosen.tensors)
    try:
        state = State({name: value.tensor() if isinstance(value, Stored) else value for name, value in chosen.tensors.items()})
    except UNREADABLE as error:
        raise _refusal(error, path) from None
    changed = next((part for part, then in before if _state(part) != then), None)
    if changed is not None:
        raise BadWeights(f"{changed} was changed while it was read; run the command again when nothing writes to it.")
    state.key = chosen.key
    if chosen.note:
        tell_once(chosen.note)
    variant = re.search(r"\.(fp16|bf16|non_ema|ema)[.-]", parts[0].name)
    if variant and path.is_dir():
        tell_once(f"{path}: holds no full-precision weights of the usual name; took its variant {variant[1]} ({parts[0].name}).")
    return state


def preferred_key(path: Path) -> str:
    """The key of the weights that ``read`` takes from a file or a directory if nobody names one; reports nothing."""
    parts = weights_files(path)
    return choose(read_dcp(path) if parts[0].name == ".metadata" else _merged(parts), path).key


NUMBERED = re.compile(r"^(custom_checkpoint_\d\.pkl|model_\d\.safetensors|pytorch_model_\d\.bin)$")
"""File names of Accelerate for further networks and registered objects."""


def _refuse_average_beside(path: Path, part: Path, names: Mapping[str, Any]) -> None:
    """Raises BadWeights when another file in a folder of Accelerate may be an average of these weights; file names do not show this."""
    for file in sorted(path.glob("*_[0-9].*")) if path.is_dir() else ():
        if not NUMBERED.match(file.name):
            continue
        try:
            average = average_beside(_content(file), file, dict(names))
        except BadWeights:  # not a file of tensors
            continue
        if average:
            raise BadWeights(
                f"the directory {path} holds {part.name} and, in {file.name}, other weights of the same network, perhaps its average; give "
                "the file to use."
            )


def _merged(parts: list[Path]) -> Any:
    """The content of a file, or of all parts of one state dict."""
    if len(parts) == 1:
        return _content(parts[0])
    merged: dict[str, Any] = {}
    for part in parts:
        content = _content(part)
        if not isinstance(content, Mapping) or merged.keys() & content.keys():
            raise BadWeights(f"{part} is not part of the same state dict as {parts[0].name}; fetch the directory again.")
        merged |= content
    return merged


def _content(path: Path) -> Any:
    """The content of one file, read by its actual format, not by its name."""
    form = form_of(path)
    try:
        if form == "safetensors":
            return load_file(path)
        return read_archive(path) if form == "archive" else read_legacy(path)
    except UNREADABLE as error:
        raise _refusal(error, path) from None


UNREADABLE = (*DAMAGED, SafetensorError, pickle.UnpicklingError, KeyError, IndexError, TypeError, MemoryError)
"""Exceptions that damaged files cause."""


def _refusal(error: Exception, path: Path) -> BadWeights:
    if isinstance(error, Hostile):
        return BadWeights(f"{path} contains pickled objects ({error}) that could run code, and is not read; save only its tensors.")
    if isinstance(error, PermissionError):
        return BadWeights(f"{path} may not be read; change its permissions.")
    return BadWeights(f"{path} is truncated or not a weights file ({_first_line(error)}); fetch it again.")


def _state(path: Path) -> FileState | None:
    """The file's state; None if there is no file."""
    try:
        return state_of(path.stat())
    except OSError:
        return None


def fill(module: nn.Module, state: Mapping[str, Tensor], *, where: str, file_names: Iterable[str] | None = None) -> None:
    """Loads ``state`` into ``module`` in the precision of the module. All names and shapes must match and all values must be finite.

    Otherwise raises BadWeights, whose message begins with ``where``, and leaves the module unchanged. ``file_names``: the names in the
    file, if they differ from those of ``state``; the error uses them to suggest a known model.
    """
    expected = module.state_dict()
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    faults = [_named("missing", missing), _named("unexpected", unexpected), _named("with another shape", shapes)]
    if any(faults):
        listed = "; ".join(fault for fault in faults if fault)
        kind = looks_like(state if file_names is None else file_names)
        guess = f"it looks like {kind}; " if kind else ""
        raise BadWeights(
            f"{where} does not match this architecture of {len(expected)} tensors: {listed}; {guess}give a file of this architecture."
        )
    broken = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise BadWeights(f"{where} has values that are not finite: {_named('tensors', broken)}; fetch it again.")
    module.load_state_dict(dict(state))


def _from_hub(card: EncoderCard, option: str) -> Path:
    """The card's file from the local Hugging Face cache, else from its server."""
    source = card.weights
    if source.hub is None:
        raise BadWeights(f"the card '{card.name}' names no weights file; {_origin(card, option)}.")
    name = source.hub_file or "model.safetensors"
    return hub_file(source.hub, name, source.revision, what=f"the weights file {name} of '{card.name}'", advice=_origin(card, option))


def _origin(card: EncoderCard, option: str) -> str:
    """Advice: which file, from where, under which licence, and how to give it."""
    if card.weights.hub is None:
        return f"see {card.origin} (licence {card.licence}) and give the file with {option}"
    name = card.weights.hub_file or "model.safetensors"
    place = f"https://huggingface.co/{card.weights.hub}"
    return f"get {name} from {place} (licence {card.licence}) and give it with {option}"


def _named(what: str, names: Iterable[str]) -> str:
    """``3 missing (a, b, c)``; empty if there is none."""
    names = list(names)
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (line if len(line) <= 120 else line[:117] + "...").replace("(", "[").replace(")", "]").rstrip(".")
