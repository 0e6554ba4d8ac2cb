"""Batches cut into chunks of one constant size, so that what comes out of a row depends on that row alone, bit for bit.

Kernels choose their blocking, and with it the order of their sums, by the shape of the whole batch: on two CPU cores a row of a convolution
differs in its last bits between a batch of 1 and one of 8. At one fixed shape, each row gave the same bits at every place and beside
every mate (ViT and convolutional autoencoder, 1 and 2 threads, sizes 2 to 64), so a constant shape makes a latent a function of its image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

CPU_PIXELS = 2 * 256 * 256
ACCELERATOR_PIXELS = 64 * 256 * 256
"""Pixels in a chunk: enough to keep the device busy; more would only make the padding of a small batch dearer."""

_WHOLE: ContextVar[bool] = ContextVar("whole", default=False)


@contextmanager
def whole_batches() -> Iterator[None]:
    """Within it a batch is computed at once, as it is. For measuring time and memory alone, because rows then depend on their batch."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def chunk_size(device: torch.device, height: int, width: int) -> int:
    """Images [.., height, width] in one chunk: a function of the device's kind and the image's size, never of the batch."""
    pixels, most = (CPU_PIXELS, 32) if device.type == "cpu" else (ACCELERATOR_PIXELS, 256)
    return max(1, min(most, pixels // (height * width)))


def in_chunks(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """``function`` of rows [B, ...], called on exactly ``size`` rows each time; the last chunk is filled with copies of its first row."""
    if _WHOLE.get():
        return function(rows)
    if len(rows) == 0:
        return function(rows.new_zeros(size, *rows.shape[1:]))[:0]
    parts = []
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        count = len(chunk)
        if count < size:
            chunk = torch.cat([chunk, chunk[:1].expand(size - count, *chunk.shape[1:])])
        parts.append(function(chunk.contiguous())[:count])
    return parts[0] if len(parts) == 1 else torch.cat(parts)
