"""How networks run: compiled, in cuDNN's layout, with activations computed again in the backward pass. None of it changes what they
compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Forward = TypeVar("Forward", bound=Callable[..., Tensor])
Function = TypeVar("Function", bound=Callable[..., Tensor])

GRAPHS = 256
"""Graphs that one process compiles for one function. Torch stops at 8 by default, but all networks of a process share the code of a block,
and a process may train and sample the networks of many experiments."""


def prepare_compilation() -> None:
    """Sets torch's options for compiling: at most ``GRAPHS`` graphs (beyond its limit, torch runs uncompiled what it should compile, or
    fails), and kernels that do not depend on the batch's size. By default Inductor fuses reductions of two orders from 5 Mi elements on, so
    that a smaller last batch is compiled again."""
    import torch._inductor.config as inductor

    if hasattr(inductor.triton, "mix_order_reduction_non_strict_mode"):  # not in older versions
        inductor.triton.mix_order_reduction_non_strict_mode = True
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # in torch 2.6
    setattr(config, name, max(getattr(config, name), GRAPHS))


def checkpointable(forward: Forward) -> Forward:
    """Decorates the ``forward`` of a block whose class has the attribute ``checkpointing``. Where that is True, only the block's inputs are
    kept for the backward pass, which computes the activations again (Chen et al., arXiv 1604.06174). Blocks draw no random numbers."""

    @wraps(forward)
    def call(self: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(lambda *x: forward(self, *x), *inputs, use_reentrant=False, preserve_rng_state=False)
        return forward(self, *inputs)

    return call  # type: ignore[return-value]


def checkpoint_activations(network: nn.Module) -> None:
    """Turns on activation checkpointing in all blocks of a network that support it."""
    for module in network.modules():
        if hasattr(module, "checkpointing"):
            module.checkpointing = True  # type: ignore[assignment]


class BlockList(nn.ModuleList):
    """Equal blocks of a transformer. Compiled, they share one graph, which serves every batch size."""

    compiled = False

    def compile(self, *options: object, **more: object) -> None:
        """Compiles each block in place; torch finds that all have the same code."""
        prepare_compilation()
        for block in self:
            block.compile(*options, **more)
        self.compiled = True

    def called(self, *batch: Tensor | None) -> list[Callable[..., Tensor]]:
        """The blocks as functions, to be called on the tensors ``batch`` [B, ...] and others."""
        if not self.compiled or _any_size(batch):
            return list(self)
        return [partial(_uncompiled, block) for block in self]


def _uncompiled(block: nn.Module, *inputs: Tensor | None) -> Tensor:
    """A compiled block run as written, with its hooks, by which a sharded block gets its weights."""
    with torch.compiler.set_stance("force_eager"):
        return block(*inputs)


def compiled(function: Function) -> Function:
    """A function of tensors [B, ...], compiled once for all batch sizes."""
    prepare_compilation()
    fast = torch.compile(function)

    @wraps(function)
    def call(*batch: Tensor) -> Tensor:
        return fast(*batch) if _any_size(batch) else function(*batch)

    return call  # type: ignore[return-value]


def _any_size(batch: Sequence[Tensor | None]) -> bool:
    """Tells torch.compile that the size of a batch of tensors [B, ...] varies, as that of a training's last one does, so that it compiles
    once. False for 0 and 1 images, for which torch always compiles apart; they run uncompiled."""
    for tensor in batch:
        if tensor is not None:
            if len(tensor) < 2:
                return False
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return True


def channels_last(images: Tensor) -> Tensor:
    """Images [B, C, H, W] in the memory layout of the fast convolutions of cuDNN and oneDNN, which the layers after it keep."""
    return images.contiguous(memory_format=torch.channels_last)
