"""The feed: the same batches with and without its thread, buffers that are never overwritten while in use, and a thread that always ends."""

from __future__ import annotations

import contextlib
import queue
import threading
import time

import pytest
import torch
import toys

from svgbench.errors import BadData
from svgbench.machine import training
from svgbench.machine.feed import ALIGNMENT, CudaLane, Feed, ReadingAhead, Rows, loaded, open_feed
from svgbench.machine.order import Batch, Order

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (37, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(37) % 7


class Task:
    """Loads tensors of several types and sizes, and a list that stays on the host."""

    def __init__(self, broken_at=None):
        self.broken_at, self.threads = broken_at, set()

    def load(self, batch):
        self.threads.add(threading.current_thread())
        if batch.images_seen == self.broken_at:
            raise BadData(f"no image at {batch.images_seen}")
        weights = torch.arange(len(batch), dtype=torch.float64)[:, None] / 3
        names = [f"image {index}" for index in batch.indices.tolist()]
        return {"images": Rows(IMAGES, batch.indices), "labels": Rows(LABELS, batch.indices), "weights": weights, "names": names}


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

    device = CPU

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


def batches(total=200, size=8, **share):
    return Order(37, seed=2).batches(0, total, size, **share)


def content(batch):
    return [batch.images_seen, batch.size, batch.indices.tolist(), batch.positions.tolist(), batch.data["names"],
            *(batch.data[name].tolist() for name in ("images", "labels", "weights"))]  # fmt: skip


WANTED = [content(loaded(Task(), batch, CPU)) for batch in batches()]


def seen_by_updates(device, task=None, every=batches):
    """What the updates of a simulated device find in their batches: each looks a while after it was issued."""
    found = []
    with ReadingAhead(task or Task(), every(), device) as feed:
        for _ in every():
            batch = feed.next()
            device.updates.add(lambda batch=batch: found.append(content(batch)))
        ended = threading.Event()
        device.updates.add(ended.set)
        assert ended.wait(20)
    return found


def test_a_batch_is_loaded_as_the_tables_rows():
    (first, *_), share = batches(), next(iter(batches(rank=1, world=3)))
    made = loaded(Task(), first, CPU)
    assert torch.equal(made.data["images"], IMAGES[first.indices]) and torch.equal(made.data["labels"], LABELS[first.indices])
    assert made.positions is first.positions and made.data["names"][0] == f"image {first.indices[0]}"
    assert torch.equal(loaded(Task(), share, CPU).data["labels"], LABELS[first.indices[1::3]])
    assert [part.data["labels"].tolist() for part in made.micro_batches(3)] == [x.tolist() for x in LABELS[first.indices].split(3)]
    assert [part.data["names"] for part in made.micro_batches(5)] == [made.data["names"][:5], made.data["names"][5:]]


@pytest.mark.parametrize("slow", [{}, {"copies": 0.004}, {"updates": 0.004}, {"copies": 0.002, "updates": 0.002}], ids=str)
def test_the_thread_brings_the_same_batches_in_order_however_slow_the_device(slow):
    task = Task()
    assert seen_by_updates(SlowDevice(**slow), task) == WANTED
    assert threading.main_thread() not in task.threads and not any(thread.is_alive() for thread in task.threads)


@pytest.mark.parametrize(
    ("slow", "heeds"),
    [
        ({"updates": 0.01}, ("copied", "synchronize")),  # the device's buffer is overwritten before its update has run
        ({"copies": 0.01}, ("after", "synchronize")),  # the update runs before its data has come
        ({"copies": 0.01}, ("after", "copied")),  # the host's buffer is overwritten before it has been copied
    ],
)
def test_each_of_the_three_waits_is_needed(slow, heeds):
    assert seen_by_updates(SlowDevice(**slow, heeds=heeds)) != WANTED


def test_an_update_costs_one_copy_and_buffers_are_made_once():
    device = SlowDevice()
    seen_by_updates(device)
    bytes_of = [8 * 8, 8 * 8, 8 * 75, 8 * 8, 8 * 8]  # indices, positions, images, labels, weights
    assert device.copied == [sum(-(-size // ALIGNMENT) * ALIGNMENT for size in bytes_of)] * 25
    assert len([size for size in device.buffer_sizes if size]) == 3


def test_buffers_grow_with_the_batches_and_a_rank_may_have_no_image():
    sizes = [3, 0, 9, 1, 30, 2]

    def growing():
        return (Batch(torch.arange(n), torch.arange(n) + 50, 30, 30 * place) for place, n in enumerate(sizes))

    assert seen_by_updates(SlowDevice(updates=0.003), every=growing) == [content(loaded(Task(), batch, CPU)) for batch in growing()]


def test_no_two_batches_in_flight_share_memory():
    device = SlowDevice()
    with ReadingAhead(Task(), batches(), device) as feed:
        places = [feed.next().data["images"].data_ptr() for _ in range(9)]
    assert len(set(places[:3])) == 3 and places[3:] == places[:3] * 2


def test_the_reader_stays_at_most_the_buffers_ahead():
    task, device = Task(), SlowDevice()
    task.load, asked = (lambda batch, load=task.load: asked.append(batch.images_seen) or load(batch)), []
    with ReadingAhead(task, batches(), device) as feed:
        feed.next()
        time.sleep(0.1)
        assert len(asked) == 4  # three hold a buffer, one waits for it
        feed.next()
        time.sleep(0.1)
        assert len(asked) == 5


def test_an_error_of_the_reader_is_raised_by_the_update_that_needs_its_batch_and_by_every_later_one():
    with ReadingAhead(Task(broken_at=24), batches(), SlowDevice()) as feed:
        assert [feed.next().images_seen for _ in range(3)] == [0, 8, 16]
        for _ in range(2):
            with pytest.raises(BadData, match="no image at 24"):
                feed.next()


def test_leaving_ends_the_thread_wherever_it_is():
    slow = threading.Event()

    class Waits(Task):
        def load(self, batch):
            if batch.images_seen:
                slow.wait(0.3)
            return super().load(batch)

    for task, taken in ((Task(), 0), (Task(), 2), (Waits(), 1), (Task(broken_at=0), 0)):
        feed = ReadingAhead(task, batches(), SlowDevice())
        with pytest.raises(KeyboardInterrupt), feed:
            for _ in range(taken):
                feed.next()
            raise KeyboardInterrupt
        assert not feed._thread.is_alive()
    assert "feed" not in [thread.name for thread in threading.enumerate()]


def test_a_cpu_needs_no_thread():
    assert type(open_feed(Task(), batches(), CPU)) is Feed and open_feed(Task(), batches(), CPU).next().images_seen == 0


class Prompt(SlowDevice):
    """A device whose work is done at once, because the toy's updates look at their data at once."""

    def copy(self, source, target, *, after, done):
        target.copy_(source)


def test_a_training_that_reads_ahead_has_the_bits_of_one_that_does_not(tmp_path, monkeypatch):
    plain = toys.digest(*toys.run(tmp_path / "plain", library=True))
    monkeypatch.setattr(training, "open_feed", lambda task, shares, device: ReadingAhead(task, shares, Prompt()))
    assert toys.digest(*toys.run(tmp_path / "ahead", library=True)) == plain


def test_stopped_after_every_few_updates_a_training_that_reads_ahead_resumes_exactly(tmp_path, monkeypatch):
    plain = toys.digest(*toys.run(tmp_path / "plain"))
    monkeypatch.setattr(training, "open_feed", lambda task, shares, device: ReadingAhead(task, shares, Prompt()))

    def stops(start):
        if start in (36, 132, 240) and start not in stopped:
            stopped.append(start)
            raise KeyboardInterrupt

    stopped = []
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            toys.run(tmp_path / "ahead", on_update=stops)
        assert "feed" not in [thread.name for thread in threading.enumerate()]
    assert toys.digest(*toys.run(tmp_path / "ahead", on_update=stops)) == plain


def test_an_unreadable_image_ends_a_training_that_reads_ahead_with_its_own_error(tmp_path, monkeypatch):
    class Broken(toys.Toy):
        def load(self, batch):
            if batch.images_seen >= 48:
                raise BadData("the image is damaged")
            return super().load(batch)

    monkeypatch.setattr(training, "open_feed", lambda task, shares, device: ReadingAhead(task, shares, Prompt()))
    monkeypatch.setattr(toys, "Toy", Broken)
    with pytest.raises(BadData, match="the image is damaged"):
        toys.run(tmp_path)
    assert "feed" not in [thread.name for thread in threading.enumerate()]


def test_the_lane_to_a_gpu_asks_torch_for_what_the_simulated_one_does(monkeypatch):
    """The calls of torch.cuda that order copies and updates, in their order."""
    calls = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_event(self, event):
            calls.append(f"{self.name} waits for {event.name}")

    class Event:
        name = ""

        def record(self, stream):
            calls.append(f"{self.name} recorded in {stream.name}")

    @contextlib.contextmanager
    def inside(stream):
        calls.append(f"in {stream.name}")
        yield
        calls.append(f"out of {stream.name}")

    class Buffer:
        def record_stream(self, stream):
            calls.append(f"device buffer used by {stream.name}")

        def copy_(self, source, non_blocking):
            assert non_blocking
            calls.append("copy")

    def empty(size, *, dtype, device=None, pin_memory=False):
        calls.append("device buffer" if device else "pinned buffer" if pin_memory else "pageable buffer")
        return Buffer()

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("updates"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", empty)
    lane = CudaLane(torch.device("cuda", 1))
    used, copied = lane.event(), lane.event()
    used.name, copied.name = "used", "copied"
    host, device = lane.buffers(64)
    assert calls == ["in copies", "device buffer", "out of copies", "device buffer used by updates", "pinned buffer"]
    calls.clear()
    lane.copy(host, device, after=used, done=copied)
    lane.begin(copied)
    lane.end(used)
    assert calls == [
        "in copies", "copies waits for used", "copy", "copied recorded in copies", "out of copies",
        "updates waits for copied", "used recorded in updates",
    ]  # fmt: skip
