"""Fully sharded training (FSDP2, ``torch.distributed.fsdp``) of stage 2's transformer, for transformers beyond one GPU's memory.

Each rank holds a part of every weight, gradient, average and optimiser state. The weights of a block are gathered before its forward and
its backward pass and freed after it. The convention of ``machine.training`` stays: gradients are sums over ranks, in fp32, so a sharded
training gives the losses of a plain one, up to the order of float sums. Files hold whole tensors, so a checkpoint of either kind, from any
number of ranks, starts the other.

The other trainings ignore ``Runtime.sharded``: their networks are far smaller than one GPU's memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from svgbench.errors import BadConfig, BadInput
from svgbench.machine.order import Batch
from svgbench.machine.ranks import check_several
from svgbench.machine.runtime import Runtime


def shard_(model: nn.Module, runtime: Runtime) -> None:
    """Divides a transformer's weights among all ranks, in place, and moves it to the device. Call it after ``compile_blocks`` and before
    the optimiser is built. All ranks start from the main rank's weights."""
    check_several(runtime.world)
    parts = getattr(model, "parts", None)
    if parts is None:
        raise BadConfig(f"only stage 2's transformer can be sharded, and this is a {type(model).__name__}; leave --shard out.")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise BadInput(f"--shard needs a newer PyTorch than {torch.__version__}; update it, or leave --shard out.")
    for tensor in model.state_dict().values():
        runtime.broadcast_(tensor)
    mesh = init_device_mesh(runtime.torch_device.type, (runtime.world,))
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "outputs")
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)  # losses are divided by the global batch, so gradients are summed, not averaged
            part.set_force_sum_reduction_for_comms(True)  # gloo knows no sum with a factor
    model.to(runtime.torch_device)  # buffers
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # nothing writes into a prediction


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds only a part of the tensor [...] (a DTensor)."""
    return hasattr(tensor, "to_local")  # importing the class would cost plain runs a second or more


def local(tensor: Tensor) -> Tensor:
    """This rank's part [n, ...] of a tensor [N, ...], in the same memory; a tensor that is not sharded itself."""
    held: Any = tensor
    return held.to_local() if is_sharded(tensor) else tensor


def gradient_norm(gradients: Sequence[Tensor], runtime: Runtime) -> Tensor:
    """The norm, a scalar, of gradients [...] that are summed over ranks, sharded or not: the same bits on every rank."""
    if not any(map(is_sharded, gradients)):
        return torch.nn.utils.get_total_norm(gradients)
    parts = [local(gradient) for gradient in gradients if is_sharded(gradient)]
    whole = [gradient for gradient in gradients if not is_sharded(gradient)]
    squares = runtime.all_reduce_(torch.nn.utils.get_total_norm(parts).square())
    return (squares + torch.nn.utils.get_total_norm(whole).square()).sqrt() if whole else squares.sqrt()


def gathered(tensors: Mapping[str, Tensor], runtime: Runtime) -> dict[str, Tensor]:
    """The whole tensors of a state dict, for a file: sharded ones are gathered one by one, to the main rank's host memory. All ranks call
    this together; the other ranks get only the tensors that are not sharded."""
    found = {}
    for name, tensor in tensors.items():
        if not is_sharded(tensor):
            found[name] = tensor
            continue
        held: Any = tensor.detach()
        whole = held.full_tensor()
        if runtime.is_main:
            found[name] = whole.cpu()
    return found


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor [N, ...] from a file as the tensor of its rank: this rank's part if ``like`` is sharded, else unchanged."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    whole = tensor.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)  # every rank has read the file


def divided_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``divided`` for a state dict; names that ``like`` lacks stay, so that loading reports them."""
    return {name: divided(tensor, like[name]) if name in like else tensor for name, tensor in tensors.items()}


def optimiser_state(optimiser: Optimizer, runtime: Runtime) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as whole tensors and plain values named ``<parameter number>.<key>``; all ranks call this together."""
    entries = {f"{n}.{key}": value for n, state in optimiser.state_dict()["state"].items() for key, value in state.items()}
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    return gathered(tensors, runtime), {name: value for name, value in entries.items() if name not in tensors}


def load_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    """Restores what ``optimiser_state`` returned, whole tensors [N, ...]; each rank takes its part."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *scalars.items()]:
        number, _, key = name.partition(".")
        like = parameters[int(number)]
        fits = isinstance(value, Tensor) and value.shape == like.shape  # a moment of the parameter; the count of steps is one number
        state.setdefault(int(number), {})[key] = divided(value, like) if fits else value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def passes(model: Any, batch: Batch, limit: int | None) -> Iterator[Batch]:
    """``batch.micro_batches``; the gradients of a sharded model are summed over ranks in the last one's backward pass."""
    micros = list(batch.micro_batches(limit))
    for number, micro in enumerate(micros, start=1):
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(number == len(micros))
        yield micro
