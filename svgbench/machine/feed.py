"""Brings the data of each update to the device.

``task.load(batch)`` names what an update needs from the host. On a CPU it is loaded when the update asks for it. On a GPU a thread loads
the next updates: it writes all tensors of an update into one pinned buffer, and one copy in a stream of its own brings this buffer to the
device while earlier updates are computed. The batches are the same, so both ways give the same bits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from svgbench.machine.order import Batch

DEPTH = 3
"""Number of buffers: one for the current update, the others for the next ones."""
ALIGNMENT = 64
"""Each tensor starts at a multiple of this number of bytes in a buffer."""


class Rows(NamedTuple):
    """Rows of a table on the host. They are read straight into the buffer that travels to the device."""

    table: Tensor
    """[N, ...]"""
    indices: Tensor
    """[B] int64"""

    def read(self) -> Tensor:
        """A copy of the rows [B, ...]. ``index_select`` copies whole rows; indexing (``table[indices]``) is 20 times slower for images."""
        return self.table.index_select(0, self.indices)


class Loads(Protocol):
    """A training task, as far as its data is concerned."""

    def load(self, batch: Batch) -> Mapping[str, Any]:
        """See ``machine.training.Task.load``."""


class Feed(AbstractContextManager["Feed"]):
    """Returns the batches one by one, with everything that their updates need on the device; loads a batch when it is asked for."""

    def __init__(self, task: Loads, batches: Iterator[Batch], device: torch.device) -> None:
        self._task, self._batches, self._device = task, batches, device

    def next(self) -> Batch:
        """The next batch. Its tensors are valid until the next call."""
        return loaded(self._task, next(self._batches), self._device)

    def __exit__(self, *_: object) -> None:
        """Ends reading."""


def open_feed(task: Loads, batches: Iterator[Batch], device: torch.device) -> Feed:
    """The feed of a training on this device: a thread reads ahead for a GPU."""
    return ReadingAhead(task, batches, CudaLane(device)) if device.type == "cuda" else Feed(task, batches, device)


def loaded(task: Loads, batch: Batch, device: torch.device) -> Batch:
    """The batch of an update with what the task loads for it, on the device, without a thread."""
    carried, left = _split(batch, task.load(batch))
    tensors = {name: (entry.read() if isinstance(entry, Rows) else entry.contiguous()).to(device) for name, entry in carried.items()}
    return _joined(batch, tensors, left)


class CudaLane:
    """The way of a buffer to one GPU: a stream for copies beside the stream of the updates."""

    def __init__(self, device: torch.device) -> None:
        """Call it in the thread that computes the updates: its current stream is theirs."""
        self.device = device
        self._updates, self._copies = torch.cuda.current_stream(device), torch.cuda.Stream(device)

    def here(self) -> AbstractContextManager[Any]:
        """Context of the reading thread: the current device of a new thread is the first, not that of its rank."""
        return torch.cuda.device(self.device)

    def event(self) -> Any:
        """An event that has not been recorded; waiting for it returns at once."""
        return torch.cuda.Event()

    def buffers(self, size: int) -> tuple[Tensor, Tensor]:
        """A pinned buffer and one on the device, uint8 [size] each. The allocator gives the latter to the stream of copies; so it is told
        that the updates use it too, and reuses a dropped buffer only after they have ended."""
        with torch.cuda.stream(self._copies):
            on_device = torch.empty(size, dtype=torch.uint8, device=self.device)
        on_device.record_stream(self._updates)
        return torch.empty(size, dtype=torch.uint8, pin_memory=True), on_device

    def copy(self, source: Tensor, target: Tensor, *, after: Any, done: Any) -> None:
        """Copies to the device once ``after`` has happened, without waiting for it; ``done`` happens then."""
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(after)
            target.copy_(source, non_blocking=True)
            done.record(self._copies)

    def begin(self, copied: Any) -> None:
        """All later work of the updates waits, on the device, for this event."""
        self._updates.wait_event(copied)

    def end(self, used: Any) -> None:
        """The event happens when all work issued so far by the updates has ended."""
        used.record(self._updates)


@dataclass
class _Slot:
    """A buffer on the host and its copy on the device. Reader and updates pass it to each other, so that only one of them has it."""

    host: Tensor
    device: Tensor
    copied: Any
    """Happens when the copy to the device has ended: the host's buffer may be overwritten."""
    used: Any
    """Happens when the update has ended: the device's buffer may be overwritten."""


class ReadingAhead(Feed):
    """A feed whose thread loads the next updates. An error of the thread is raised by the ``next`` that would return its batch."""

    def __init__(self, task: Loads, batches: Iterator[Batch], lane: CudaLane, depth: int = DEPTH) -> None:
        super().__init__(task, batches, lane.device)
        self._lane = lane
        self._free: SimpleQueue[_Slot | None] = SimpleQueue()
        self._ready: SimpleQueue[tuple[_Slot, Batch] | BaseException] = SimpleQueue()
        self._current: _Slot | None = None
        self._stopped = False
        for _ in range(depth):
            self._free.put(_Slot(*lane.buffers(0), lane.event(), lane.event()))
        self._thread = threading.Thread(target=self._read, name="feed", daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """The next batch. Its tensors are valid until the next call, which gives their buffer back to the reader."""
        if self._current is not None:
            self._lane.end(self._current.used)
            self._free.put(self._current)
            self._current = None
        arrived = self._ready.get()
        if isinstance(arrived, BaseException):
            self._ready.put(arrived)  # for every later call
            raise arrived
        self._current, batch = arrived
        self._lane.begin(self._current.copied)
        return batch

    def __exit__(self, *_: object) -> None:
        """Ends the thread; waits for the batch that it is loading."""
        self._stopped = True
        self._free.put(None)
        self._thread.join()

    def _read(self) -> None:
        try:
            with self._lane.here():
                for batch in self._batches:
                    carried, left = _split(batch, self._task.load(batch))
                    slot = self._free.get()
                    if slot is None or self._stopped:
                        return
                    self._ready.put((slot, self._sent(slot, batch, carried, left)))
            self._ready.put(StopIteration())
        except BaseException as error:
            self._ready.put(error)

    def _sent(self, slot: _Slot, batch: Batch, carried: Mapping[str, Tensor | Rows], left: Mapping[str, Any]) -> Batch:
        """Fills the slot's buffer and sends it to the device; returns the batch as it will arrive."""
        places, size = _places(carried)
        slot.copied.synchronize()
        if len(slot.host) < size:
            slot.host, slot.device = self._lane.buffers(size)
        for name, entry in carried.items():
            view = places[name].of(slot.host)
            if isinstance(entry, Rows):
                torch.index_select(entry.table, 0, entry.indices, out=view)
            else:
                view.copy_(entry)
        self._lane.copy(slot.host[:size], slot.device[:size], after=slot.used, done=slot.copied)
        return _joined(batch, {name: place.of(slot.device) for name, place in places.items()}, left)


class _Place(NamedTuple):
    """The place of a tensor in a buffer."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def of(self, buffer: Tensor) -> Tensor:
        """The tensor at this place of a buffer uint8 [size]."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return buffer[self.start : self.start + size].view(self.dtype).view(self.shape)


def _places(carried: Mapping[str, Tensor | Rows]) -> tuple[dict[str, _Place], int]:
    """The place of each tensor in a buffer, and the size of the buffer in bytes."""
    places, size = {}, 0
    for name, entry in carried.items():
        table = entry.table if isinstance(entry, Rows) else entry
        shape = (len(entry.indices), *table.shape[1:]) if isinstance(entry, Rows) else tuple(table.shape)
        places[name] = _Place(size, shape, table.dtype)
        size += math.prod(shape) * table.dtype.itemsize
        size += -size % ALIGNMENT
    return places, size


def _split(batch: Batch, data: Mapping[str, Any]) -> tuple[dict[str, Tensor | Rows], dict[str, Any]]:
    """What travels to the device (the batch's own tensors first), and what stays on the host."""
    assert not {"indices", "positions"} & data.keys()  # these are the batch's own
    everything = {"indices": batch.indices, "positions": batch.positions, **data}
    carried = {name: entry for name, entry in everything.items() if isinstance(entry, Tensor | Rows)}
    return carried, {name: entry for name, entry in everything.items() if name not in carried}


def _joined(batch: Batch, tensors: Mapping[str, Tensor], left: Mapping[str, Any]) -> Batch:
    own = {name: tensors[name] for name in ("indices", "positions")}
    return replace(batch, **own, data={**left, **{name: tensor for name, tensor in tensors.items() if name not in own}})
