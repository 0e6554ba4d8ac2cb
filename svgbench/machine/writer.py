"""Writes the checkpoints and snapshots of a training; on a GPU in a thread, while training goes on.

On a GPU the tensors are copied to pinned host memory, and a thread writes the copies; training waits for the copies alone. On a CPU every
write ends before training goes on: a thread would take the same cores and the memory of a copy, and a saved state is then on the disk.
Both ways write the same files by the same functions, in the order in which they were given.

After an error nothing more is written, so that no checkpoint is newer than a snapshot that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svgbench.machine import checkpoints
from svgbench.machine.checkpoints import Checkpoint
from svgbench.machine.signals import GUARD
from svgbench.machine.state import Parts

CHUNK_BYTES = 128 << 20
"""Host memory is reserved in pieces of this size. A power of two, because torch rounds pinned memory up to one."""


def in_background(device: torch.device) -> bool:
    """Whether a training on this device writes in a thread."""
    return device.type == "cuda"


class Writer:
    """Writes one file after another. At most one checkpoint and one snapshot wait or are being written; the next one waits for them."""

    def __init__(self, out: Path, device: torch.device) -> None:
        self._out = out
        self._pool = ThreadPoolExecutor(1, "svgbench-writer") if in_background(device) else None
        self._jobs: dict[str, Future[None]] = {}
        self._copies: dict[str, HostCopies] = {"checkpoint": HostCopies(), "snapshot": HostCopies()}
        self._failed = False

    def checkpoint(self, images_seen: int, parts: Parts, state: dict[str, Any]) -> None:
        """Writes a checkpoint (``checkpoints.save``). Raises what an earlier write has raised."""

        def write(parts: Parts) -> None:
            checkpoints.save(self._out / checkpoints.FOLDER, Checkpoint(images_seen, parts, state))

        self._submit("checkpoint", parts, write)

    def snapshot(self, files: list[str], tensors: Mapping[str, Tensor]) -> None:
        """Writes the same tensors [...] to each of these safetensors files. Raises what an earlier write has raised."""

        def write(parts: Parts) -> None:
            for file in files:
                checkpoints.write_tensors(self._out / file, parts["tensors"])

        self._submit("snapshot", {"tensors": dict(tensors)}, write)

    def check(self) -> None:
        """Raises the error of a write that has failed; does not wait."""
        for job in list(self._jobs.values()):
            if job.done():
                job.result()

    def wait(self) -> None:
        """Waits until everything is written. Raises the first error."""
        for job in self._jobs.values():
            job.result()

    def close(self) -> None:
        """Waits until everything is written, without raising its errors."""
        if self._pool is not None:
            with GUARD.hold():
                self._pool.shutdown()

    def _submit(self, kind: str, parts: Parts, write: Callable[[Parts], Any]) -> None:
        self.check()
        if self._pool is None:
            write(parts)
            return
        if kind in self._jobs:
            self._jobs.pop(kind).result()  # it reads the buffers that are filled now
        copies, ready = self._copies[kind].of(parts)
        self._jobs[kind] = self._pool.submit(self._run, ready, partial(write, copies))

    def _run(self, ready: Callable[[], None], write: Callable[[], Any]) -> None:
        """In the thread."""
        if self._failed:
            return
        try:
            ready()
            write()
        except BaseException:
            self._failed = True
            raise


class HostCopies:
    """Copies of tensors in host memory, pinned for tensors of a GPU; the next copies replace them."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._chunks: dict[bool, Tensor] = {}

    def of(self, parts: Parts) -> tuple[Parts, Callable[[], None]]:
        """The copies, and a function that waits until they are complete. What is done with the tensors afterwards does not change them."""
        copies = {part: {name: self._copied((part, name), tensor) for name, tensor in tensors.items()} for part, tensors in parts.items()}
        if not any(tensor.is_cuda for tensors in parts.values() for tensor in tensors.values()):
            return copies, lambda: None
        done = torch.cuda.Event()
        done.record()  # later work of this stream, such as the next update, begins after the copies
        return copies, done.synchronize

    def _copied(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            self._buffers[key] = buffer = self._reserved(tensor)
        return buffer.copy_(tensor.detach(), non_blocking=True)

    def _reserved(self, tensor: Tensor) -> Tensor:
        """A contiguous piece of host memory like the tensor."""
        size = tensor.numel() * tensor.element_size()
        start = -(-size // 64) * 64  # where the next piece begins
        chunk = self._chunks.get(tensor.is_cuda)
        if chunk is None or start > len(chunk):
            chunk = torch.empty(max(start, CHUNK_BYTES), dtype=torch.uint8, pin_memory=tensor.is_cuda)
        self._chunks[tensor.is_cuda] = chunk[start:]
        return chunk[:size].view(tensor.dtype).view(tensor.shape)
