"""What a checkpoint of a training holds of its task: state dicts of modules and optimisers as named tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from svgbench.config.records import flat
from svgbench.errors import BadConfig
from svgbench.machine.averages import Averages
from svgbench.machine.runtime import Runtime
from svgbench.machine.sharding import divided_like, gathered, load_optimiser, optimiser_state

if TYPE_CHECKING:
    from svgbench.machine.training import Task

Parts = dict[str, dict[str, Tensor]]
"""Part of a checkpoint -> name -> tensor."""


def of_task(task: Task, averages: Averages | None, runtime: Runtime) -> tuple[Parts, dict[str, Any]]:
    """The task's tensors (live ones, not copies, unless they are sharded) and the plain values of its optimisers; called on every rank."""
    parts = {f"module.{name}": gathered(module.state_dict(), runtime) for name, module in task.modules.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for name, optimiser in task.optimisers.items():
        parts[f"optimiser.{name}"], scalars[name] = optimiser_state(optimiser, runtime)
    if averages is not None:
        parts["averages"] = gathered(averages.state, runtime)
    return parts, scalars


def adopt(task: Task, averages: Averages | None, parts: Parts, scalars: Mapping[str, Any]) -> None:
    """Continues from what ``of_task`` returned, loaded from a checkpoint; called on every rank."""
    for name, module in task.modules.items():
        module.load_state_dict(divided_like(parts[f"module.{name}"], module.state_dict()))
    for name, optimiser in task.optimisers.items():
        load_optimiser(optimiser, parts[f"optimiser.{name}"], scalars[name])
    if averages is not None:
        averages.load(divided_like(parts["averages"], averages.state))


def check_same_training(saved: dict[str, Any], current: dict[str, Any], out: Path) -> None:
    """Raises BadConfig when a checkpoint belongs to other settings; the sentence names the differences."""
    if saved == current:
        return
    flat_saved, flat_current = flat(saved), flat(current)
    names = sorted(name for name in {*flat_saved, *flat_current} if flat_saved.get(name) != flat_current.get(name))
    differing = ", ".join(f"{name} {flat_saved.get(name)} there and {flat_current.get(name)} here" for name in names)
    raise BadConfig(f"{out}: its checkpoint belongs to another training ({differing}); give another --out, or remove the directory.")
