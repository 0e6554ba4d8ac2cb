"""Which lines of a step talk to the host: they copy to or from a GPU, or ask it for a number. Found without a GPU, on fake CUDA tensors.

Under PyTorch's FakeTensorMode a forward pass or an optimiser's step runs for shapes, types and devices alone, so every operator can be
watched. A backward pass needs the device's own thread and does not run; ``fake_gpu`` replaces it by gradients of zeros.
"""

from __future__ import annotations

import collections
import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import svgbench
from svgbench.machine.runtime import Runtime

PACKAGE = f"{Path(svgbench.__file__).parent}/"
"""Where svgbench's own lines are, whatever the folder of the checkout is called."""
ASKING = {"_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim", "unique_consecutive"}
"""Operators whose result or its shape the host must know: they wait for the device."""
COPYING = {"_to_copy", "copy_", "_copy_from"}
INDEXING = {"index", "index_put_", "_index_put_impl_"}


class HostTalk(TorchDispatchMode):
    """Counts, for each line of svgbench, the operators that talk to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        what = _talk(function._schema.name.split("::")[1], args, kwargs or {})
        if what:
            places = [f"{frame.filename.removeprefix(PACKAGE)}:{frame.lineno}" for frame in traceback.extract_stack()
                      if frame.filename.startswith(PACKAGE) or frame.name.startswith("planted")]  # fmt: skip
            self.lines[f"{places[-1] if places else '?'} {what}"] += 1
        return function(*args, **(kwargs or {}))


def _talk(name: str, args: tuple, kwargs: dict) -> str | None:
    """What an operator says to the host; None if nothing."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    gpu, cpu = (any(tensor.device.type == kind for tensor in tensors) for kind in ("cuda", "cpu"))
    target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    if name in ASKING and gpu:
        return f"asks for a number ({name})"
    if name in COPYING and ((gpu and cpu) or (cpu and target == "cuda") or (gpu and target == "cpu")):
        return f"copies ({name})"
    if name in INDEXING and gpu:
        chosen = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, torch.Tensor)]
        if any(index.device.type == "cpu" for index in chosen):
            return f"copies an index ({name})"
        if any(index.dtype in (torch.bool, torch.uint8) for index in chosen):
            return f"asks where a mask is true ({name})"
    if name == "where" and gpu and cpu:  # it moves a tensor of one number to the device, and waits
        return "copies a number (where)"
    return None


class GpuRuntime(Runtime):
    """A runtime whose device is a GPU, on a machine without one."""

    torch_device = property(lambda self: torch.device("cuda", 0))  # type: ignore[assignment]


@contextlib.contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """A context in which tensors are fake and may be on a GPU that is not there; backward passes give zeros."""

    def backward(loss, *_, **__):
        for leaf in _leaves(loss):
            leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad + torch.zeros_like(leaf)

    def grad(outputs, inputs, *_, **__):
        return tuple(torch.zeros_like(tensor) for tensor in ([inputs] if isinstance(inputs, torch.Tensor) else inputs))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.amp.autocast_mode.torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.nn.Module, "to", lambda module, *_, **__: moved(module))
        patch.setattr(torch.Tensor, "backward", backward)
        patch.setattr(torch.autograd, "backward", backward)
        patch.setattr(torch.autograd, "grad", grad)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """A real module with fake parameters and buffers on the GPU."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                made = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                part._parameters[name] = torch.nn.Parameter(made, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return module


def _leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    """The leaves of the graph of a loss."""
    found, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found
