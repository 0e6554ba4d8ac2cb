"""Splits batches into chunks of one constant size, so that the output for a row depends only on that row, bit for bit.

Kernels choose their blocking, and with it the order of their sums, by the shape of the batch: on two CPU cores a row of a convolution
differs in its last bits between batches of 1 and of 8. With one fixed shape, a row gave the same bits at every position and with any other
rows (ViT and convolutional autoencoder, 1 and 2 threads, sizes 2 to 64). So a latent depends only on its image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

CPU_PIXELS = 2 * 256 * 256
ACCELERATOR_PIXELS = 64 * 256 * 256
"""Pixels in a chunk: enough to keep the device busy. With more, the padding of small batches would cost more."""

_WHOLE: ContextVar[bool] = ContextVar("whole", default=False)


@contextmanager
def whole_batches() -> Iterator[None]:
    """Inside this context, batches are not split into chunks. Only for measuring time and memory, because rows then depend on their
    batch."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def chunk_size(device: torch.device, height: int, width: int) -> int:
    """Number of images [.., height, width] in a chunk. It depends on device type and image size, never on the batch."""
    pixels, most = (CPU_PIXELS, 32) if device.type == "cpu" else (ACCELERATOR_PIXELS, 256)
    return max(1, min(most, pixels // (height * width)))


def in_chunks(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """``function`` of rows [B, ...], called with exactly ``size`` rows each time; the last chunk is padded with copies of its first row."""
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
