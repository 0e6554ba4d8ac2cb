"""How networks run: compiled, in cuDNN's layout, with activations computed again in the backward pass. None of it changes what they
compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Forward = TypeVar("Forward", bound=Callable[..., Tensor])
Function = TypeVar("Function", bound=Callable[..., Tensor])


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


def any_batch(*tensors: Tensor | None) -> None:
    """Tells ``torch.compile`` that the first dimension of these tensors [B, ...] varies, so that the last, smaller batch of a training
    needs no further compilation."""
    for tensor in tensors:
        if tensor is not None:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)


def compilable(batch: Tensor) -> bool:
    """Whether compiled code serves this batch [B, ...]: torch would compile again for 0 and 1 images, which run uncompiled instead."""
    return len(batch) > 1


def compiled(function: Function) -> Function:
    """A function of tensors [B, ...], compiled once for all batch sizes."""
    fast = torch.compile(function)

    @wraps(function)
    def call(*tensors: Tensor) -> Tensor:
        if not compilable(tensors[0]):
            return function(*tensors)
        any_batch(*tensors)
        return fast(*tensors)

    return call  # type: ignore[return-value]


def channels_last(images: Tensor) -> Tensor:
    """Images [B, C, H, W], on CUDA in the memory layout of cuDNN's fast convolutions, which the layers after it keep."""
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cuda" else images
