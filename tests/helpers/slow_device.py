"""A device without a GPU, for ``machine.feed``: its copies and updates happen some time after they are asked for."""

from __future__ import annotations

import contextlib
import queue
import threading
import time

import torch


class Queue:
    """A stream of a simulated device: its work is done in order, some time after it was asked for."""

    def __init__(self, delay):
        self._work, self._delay = queue.SimpleQueue(), delay
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, work):
        self._work.put(work)

    def _run(self):
        while (work := self._work.get()) is not None:
            time.sleep(self._delay)
            work()


class Moment:
    """An event: what has been recorded last happens when its stream comes to it; one never recorded has happened."""

    def __init__(self):
        self.now = threading.Event()
        self.now.set()

    def record(self, stream):
        self.now = happened = threading.Event()
        stream.add(happened.set)

    def holds(self, stream):
        waited = self.now
        stream.add(lambda: waited.wait(5))

    def synchronize(self):
        assert self.now.wait(5)


class SlowDevice:
    """A lane to a simulated device, whose copies and updates happen later than they are asked for."""

    device = torch.device("cpu")

    def __init__(self, *, copies=0.0, updates=0.0, heeds=("after", "copied", "synchronize")):
        self.copies, self.updates, self._heeds, self.buffer_sizes, self.copied = Queue(copies), Queue(updates), heeds, [], []

    def here(self):
        return contextlib.nullcontext()

    def event(self):
        event = Moment()
        if "synchronize" not in self._heeds:
            event.synchronize = lambda: None
        return event

    def buffers(self, size):
        self.buffer_sizes.append(size)
        return torch.empty(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)

    def copy(self, source, target, *, after, done):
        if "after" in self._heeds:
            after.holds(self.copies)
        self.copied.append(len(source))
        self.copies.add(lambda: target.copy_(source))
        done.record(self.copies)

    def begin(self, copied):
        if "copied" in self._heeds:
            copied.holds(self.updates)

    def end(self, used):
        used.record(self.updates)


class PromptDevice(SlowDevice):
    """A device whose copies are done at once, for updates on the CPU, which look at their data at once."""

    def copy(self, source, target, *, after, done):
        target.copy_(source)
