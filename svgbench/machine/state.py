"""What a checkpoint of a training holds of its task: state dicts of modules and optimisers as named tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from svgbench.config.records import flat
from svgbench.errors import BadConfig
from svgbench.machine.averages import Averages

if TYPE_CHECKING:
    from svgbench.machine.training import Task

Parts = dict[str, dict[str, Tensor]]
"""Part of a checkpoint -> name -> tensor."""


def gathered(task: Task, averages: Averages | None) -> tuple[Parts, dict[str, Any]]:
    """The task's tensors (the live ones, not copies) and the plain values of its optimisers; called on every rank."""
    parts = {f"module.{name}": dict(module.state_dict()) for name, module in task.modules.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for name, optimiser in task.optimisers.items():
        parts[f"optimiser.{name}"], scalars[name] = _flatten(optimiser)
    if averages is not None:
        parts["averages"] = averages.state
    return parts, scalars


def adopt(task: Task, averages: Averages | None, parts: Parts, scalars: Mapping[str, Any]) -> None:
    """Continues from what ``gathered`` returned, loaded from a checkpoint; called on every rank."""
    for name, module in task.modules.items():
        module.load_state_dict(parts[f"module.{name}"])
    for name, optimiser in task.optimisers.items():
        _unflatten(optimiser, parts[f"optimiser.{name}"], scalars[name])
    if averages is not None:
        averages.load(parts["averages"])


def check_same_training(saved: dict[str, Any], current: dict[str, Any], out: Path) -> None:
    """Raises BadConfig when a checkpoint belongs to other settings; the sentence names the differences."""
    if saved == current:
        return
    flat_saved, flat_current = flat(saved), flat(current)
    names = sorted(name for name in {*flat_saved, *flat_current} if flat_saved.get(name) != flat_current.get(name))
    differing = ", ".join(f"{name} {flat_saved.get(name)} there and {flat_current.get(name)} here" for name in names)
    raise BadConfig(f"{out}: its checkpoint belongs to another training ({differing}); give another --out, or remove the directory.")


def _flatten(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors and plain values named ``<parameter number>.<key>``."""
    entries = {f"{n}.{key}": value for n, state in optimiser.state_dict()["state"].items() for key, value in state.items()}
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in entries.items() if name not in tensors}


def _unflatten(optimiser: Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *scalars.items()]:
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
