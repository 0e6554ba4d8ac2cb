"""Copies from a device to host memory that nothing waits for until the content is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def sent_to_host(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Begins to copy tensors of one device, of any shapes [...], to host memory: from CUDA into pinned memory, in the current stream. The
    returned function waits for the copies, in any thread, and returns them."""
    device = tensors[0].device
    if device.type != "cuda":
        return lambda: [tensor.cpu() for tensor in tensors]
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event(blocking=True)  # waiting does not occupy a CPU core
    arrived.record(torch.cuda.current_stream(device))

    def wait() -> list[Tensor]:
        arrived.synchronize()
        return copies

    return wait
