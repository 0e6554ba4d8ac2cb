"""Reads a network's sizes from the shapes in an official state dict, and compares them with the config that was given."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svgbench.errors import BadConfig, BadWeights
from svgbench.weights import files
from svgbench.weights.kinds import looks_like

State = Mapping[str, Tensor]
GROUPS = 32
"""Groups of every group norm in LDM's code."""
OWN_GROUPS = 128
"""Levels of at least this many channels get ``GROUPS`` groups by default."""


def require(state: State, shapes: Mapping[str, int], *, kind: str, where: str) -> None:
    """Raises BadWeights for a file without the tensors that identify a kind; the error names the kind that it looks like. ``shapes``: name
    -> number of dimensions."""
    absent = [name for name in shapes if name not in state]
    if absent:
        other = looks_like(state)
        guess = f"it looks like {other}" if other else f"it begins with '{next(iter(state), '')}'"
        named = f"{len(absent)} of {len(shapes)} required tensors are missing, such as {absent[0]}"
        raise BadWeights(f"{where} is not a file of the kind '{kind}' ({named}); {guess}; give another file or the right kind.")
    for name, count in shapes.items():
        if state[name].ndim != count:
            raise BadWeights(f"{where} has {name} of shape {tuple(state[name].shape)} instead of {count} dimensions; fetch it again.")


def check_config(config: Mapping[str, Any], sizes: Mapping[str, Any], *, where: str) -> None:
    """Raises BadConfig for a config that contradicts the sizes read from the shapes. Only fields that both have are compared."""
    for name, value in sizes.items():
        stated = config.get(name)
        if stated is not None and _plain(stated) != _plain(value):
            raise BadConfig(f"the config has {name} {stated}, but {where} has {value}; correct the config or leave the field out.")


def fill_from(module: nn.Module, state: State, sources: Mapping[str, Sequence[str]], *, ignore: tuple[str, ...] = (), where: str) -> None:
    """Fills ``module`` from official tensors. ``sources``: tensor name of the module -> the official tensors to concatenate along dimension
    0 for it. Official names that begin with a word of ``ignore`` are not used.

    Raises BadWeights; the error names the missing, unexpected and misshapen tensors by their official names.
    """
    expected = module.state_dict()
    parts = {name: (ours, len(names)) for ours, names in sources.items() for name in names}
    missing = sorted(parts.keys() - state.keys())
    unexpected = sorted(name for name in state if name not in parts and not name.startswith(ignore))
    shapes = []
    for name, (ours, number) in parts.items():
        shape = (len(expected[ours]) // number, *expected[ours].shape[1:])
        if name in state and _essential(state[name].shape) != _essential(shape):
            shapes.append(f"{name} is {tuple(state[name].shape)} instead of {shape}")
    faults = [
        _named(what, names) for what, names in (("missing", missing), ("unexpected", unexpected), ("with another shape", shapes)) if names
    ]
    if faults:
        kind = looks_like(state)
        guess = f"it looks like {kind}; " if kind else ""
        raise BadWeights(
            f"{where} does not match this architecture of {len(parts)} tensors: {'; '.join(faults)}; {guess}give the complete release."
        )
    joined = {name: torch.cat([state[n] for n in names]).reshape(expected[name].shape) for name, names in sources.items()}
    files.fill(module, joined, where=where, file_names=state)


def count(state: State, pattern: str) -> int:
    """Number of layers: the length of the gapless sequence 0, 1, ... among the numbers in the group of ``pattern``, matched at the start of
    names."""
    numbers = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    return next(n for n in range(len(numbers) + 1) if n not in numbers)


def ldm_sizes(state: State, prefix: str, *, resolution: int, kind: str, where: str, groups: int = GROUPS) -> dict[str, Any]:
    """Constructor arguments of ``LdmDecoder`` from a state dict in LDM's names. Shapes do not determine the ``groups`` of the norms; the
    result has this argument only when it is not the decoder's default."""
    required = {f"{prefix}conv_in.weight": 4, f"{prefix}conv_out.weight": 4, f"{prefix}up.0.block.0.conv1.weight": 4}
    require(state, required, kind=kind, where=where)
    escaped = re.escape(prefix)
    levels = count(state, rf"{escaped}up\.(\d+)\.block\.0\.conv1\.weight$")
    widths = [state[f"{prefix}up.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    if any(width % groups for width in widths):
        raise BadWeights(
            f"{where} has levels of {widths} channels, which the {groups} groups of an official decoder's norms do not divide; "
            "give the number it was trained with: config norm_num_groups."
        )
    base = math.gcd(*widths)
    chosen = {"groups": groups} if groups != GROUPS or min(widths) < OWN_GROUPS else {}
    return {
        **chosen,
        "base": base,
        "multipliers": [width // base for width in widths],
        "blocks": count(state, rf"{escaped}up\.0\.block\.(\d+)\.conv1\.weight$") - 1,
        "attention": [resolution >> level for level in range(levels) if f"{prefix}up.{level}.attn.0.norm.weight" in state],
        "z_channels": state[f"{prefix}conv_in.weight"].shape[1],
        "resolution": resolution,
    }


def check_ldm_config(config: Mapping[str, Any], sizes: Mapping[str, Any], *, where: str) -> None:
    """``check_config`` for LDM's ``ddconfig``: ch, ch_mult, num_res_blocks, attn_resolutions, z_channels, out_ch."""
    words = "channels of the levels (ch x ch_mult)"
    widths = [whole_number(config, "ch", sizes["base"]) * m for m in whole_numbers(config, "ch_mult", sizes["multipliers"])]
    check_config({words: widths}, {words: [sizes["base"] * m for m in sizes["multipliers"]]}, where=where)
    sizes_found = {"num_res_blocks": sizes["blocks"], "z_channels": sizes["z_channels"], "resolution": sizes["resolution"], "out_ch": 3}
    check_config(config, sizes_found, where=where)
    attention = sorted(whole_numbers(config, "attn_resolutions", sizes["attention"]))
    check_config({"attn_resolutions": attention}, {"attn_resolutions": sorted(sizes["attention"])}, where=where)


def parameters(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The constructor's arguments in a release's YAML (``model: params: ...``), or the mapping itself."""
    inner: Any = config or {}
    for key in ("model", "params"):
        if isinstance(inner, Mapping) and isinstance(inner.get(key), Mapping):
            inner = inner[key]
    if not isinstance(inner, Mapping):
        raise BadConfig(f"the config of a release is {type(inner).__name__}; give its constructor's arguments by name.")
    return inner


def part(config: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The first of the named sections that the config has; empty when it has none."""
    for name in names:
        section = config.get(name)
        if section is not None:
            if not isinstance(section, Mapping):
                raise BadConfig(f"{name} in the config of a release is {type(section).__name__}; give its fields by name.")
            return section
    return {}


def whole_number(config: Mapping[str, Any], name: str, default: int | None) -> Any:
    """A positive integer from the config; the default when the field is missing."""
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadConfig(f"{name} in the config of a release is {value!r}; give a whole number above 0.")
    return value


def whole_numbers(config: Mapping[str, Any], name: str, default: Sequence[int]) -> list[int]:
    """A list of integers from the config; the default when the field is missing."""
    values = config.get(name)
    if values is None:
        return list(default)
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(value, int) for value in values):
        raise BadConfig(f"{name} in the config of a release is {values!r}; give a list of whole numbers.")
    return list(values)


def rounding(value: Tensor) -> float:
    """Tolerance for comparing a table of numbers up to 1: the spacing of the coarsest type that represents all of them, so that a table in
    half precision that was saved again in single precision is recognised."""
    exact = value.float()
    for kind in (torch.bfloat16, torch.float16):
        if torch.equal(exact.to(kind).float(), exact):
            return torch.finfo(kind).eps
    return 1e-4


def _essential(shape: Sequence[int]) -> list[int]:
    """A shape without dimensions of size 1, which releases add for broadcasting."""
    return [side for side in shape if side != 1]


def _named(what: str, names: Sequence[str]) -> str:
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
