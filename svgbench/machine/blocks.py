"""Arrays on disk whose rows all ranks compute block by block, with a journal of finished blocks: a killed or stopped computation resumes
with the remaining blocks.

Blocks are ranges of items of a constant size, and the rows of a block depend only on its items. Any process of a later attempt, with any
number of ranks, can compute a block with the same bytes. Rows are flushed to disk before the journal line with their digest is written; an
incomplete line is ignored, and rows whose digest does not match are computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from svgbench.errors import Interrupted, NumericalError, StorageError, SvgbenchError
from svgbench.machine import arrays
from svgbench.machine.files import failpoint, guarded, sweep, write_atomic
from svgbench.machine.rows import append_line, as_line, complete_lines, npy_bytes
from svgbench.machine.runtime import Runtime
from svgbench.machine.signals import Stop

FORMAT = 1

Rows = Sequence[np.ndarray] | Callable[[], Sequence[np.ndarray]]
"""The rows of a block for each array, or a function that waits for them."""


class _Cancelled(BaseException):
    """Raised by a signal to abandon the current block."""


class _CancellingStop(Stop):
    """A stop that does not wait for the current unit of work: while ``cancels`` is set, the first signal raises _Cancelled in the main
    thread."""

    cancels = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        super()._note(number, frame)
        if self.cancels:
            self.cancels = False
            raise _Cancelled


@dataclass(frozen=True)
class Array:
    """A ``.npy`` file with a row for each item, or for each block."""

    path: Path
    kind: type
    row: tuple[int, ...]
    """Shape of one row."""
    by_block: bool = False


class Blocks:
    """Work on ``range(count)`` in blocks of ``size``. The constructor and ``run`` synchronise all ranks."""

    def __init__(
        self, journal: Path, files: Sequence[Array], *, count: int, size: int, runtime: Runtime, label: str, unit: str = "images"
    ) -> None:
        """Opens the arrays with the finished blocks of an earlier attempt, if its journals (``NAME.RANK.jsonl``) exist, or creates them.
        Raises StorageError."""
        self._journal, self._files, self._count, self._size = journal, tuple(files), count, size
        self._runtime, self._label, self._unit = runtime, label, unit
        self._rank, self._world = runtime.rank, runtime.world
        layout = [[file.path.name, np.dtype(file.kind).str, list(file.row), file.by_block] for file in self._files]
        self._request = {"format": FORMAT, "count": count, "size": size, "files": layout}
        self._blocks = math.ceil(count / size)
        done, error = torch.zeros(max(self._blocks, 1), dtype=torch.int64), None
        try:
            with guarded(journal):
                for block in self._finished() if self._rank == 0 else []:
                    done[block] = 1
        except Exception as caught:
            error = caught
        self._agree(error)
        if self._world > 1:
            runtime.broadcast_(done)
        self._remaining = [block for block in range(self._blocks) if not done[block]]
        if self._rank and self._remaining:
            write_atomic(self._path(self._rank), as_line(self._request).encode())

    def run(self, work: Callable[..., Rows], read: Callable[[range], Any] | None = None, *, behind: bool = False) -> None:
        """Computes the remaining blocks: ``work(items)`` returns the rows of the block for each array, or a function that waits for them.
        With ``read``, the call is ``work(items, read(items))``, and a thread reads each block while the one before it is computed.
        ``behind``: a thread waits for each block's rows and saves them while the next one is computed, for rows that come from a GPU; a
        kill then loses up to two blocks of a rank instead of one.

        Raises Interrupted after a signal (the current block is abandoned, finished ones are kept). When one rank fails, all ranks raise.
        """
        if not self._remaining:
            return
        mine, rounds = self._remaining[self._rank :: self._world], math.ceil(len(self._remaining) / self._world)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._runtime.together(self._label))
            stack.enter_context(stop := _CancellingStop())
            before = self._count - self._number(self._remaining)
            bar = stack.enter_context(self._runtime.progress(self._label, self._count, unit=self._unit, done=before))
            opened = [stack.enter_context(_writable(file.path)) for file in self._files]
            prefetch = stack.enter_context(_Prefetch(read, [self._items(block) for block in mine]))
            saving = stack.enter_context(_Saving(lambda block, rows: self._save(block, rows, opened), behind=behind))
            for number in range(rounds):
                next_block = mine[number : number + 1]
                rows, error = self._computed(next_block[0], work, prefetch, stop) if next_block else (None, None)
                error = saving.end() or error  # of the block before this one
                if rows is not None and error is None:
                    saving.begin(next_block[0], rows)
                if not behind or stop.received or number == rounds - 1:
                    error = saving.end() or error
                if error is None and stop.received:
                    error = self._interrupted(stop.name, bar.done + (0 if rows is None else self._number(next_block)))
                self._agree(error, bar.done)
                bar.advance(self._number(self._remaining[number * self._world : (number + 1) * self._world]))
            self._agree(self._interrupted(stop.name, bar.done) if stop.received else None, bar.done)
        if stop.received and self._world == 1:
            raise self._interrupted(stop.name, self._count)

    def _computed(
        self, block: int, work: Callable[..., Rows], prefetch: _Prefetch, stop: _CancellingStop
    ) -> tuple[Rows | None, Exception | None]:
        """Computes one block; returns its rows, None if a signal abandoned it, and the error."""
        rows: Rows | None = None
        error: Exception | None = None
        try:
            try:
                stop.cancels = True
                if not stop.received:
                    with guarded(self._journal):
                        rows = work(self._items(block), *prefetch.next())
            except Exception as caught:
                error = caught
            finally:
                stop.cancels = False
        except _Cancelled:
            rows = None
        return rows, error

    def _save(self, block: int, rows: Rows, opened: list[tuple[int, int]]) -> None:
        """Writes the rows first, then their line in the journal."""
        digest = hashlib.sha256()
        with guarded(self._journal):
            for file, (descriptor, start), part in zip(self._files, opened, rows() if callable(rows) else rows, strict=True):
                content = _bytes(file, part, 1 if file.by_block else len(self._items(block)))
                _write(descriptor, content, start + self._first(file, block) * _row_bytes(file))
                digest.update(content)
            for descriptor, _ in opened:
                os.fsync(descriptor)
            failpoint("blocks.rows")
            append_line(self._path(self._rank), {"block": block, "sha256": digest.hexdigest()})
            failpoint("blocks.journal")

    def _agree(self, error: Exception | None, done: int = 0) -> None:
        """Raises this rank's error, or one with the same exit status if another rank failed."""
        status = 0 if error is None else getattr(error, "exit_status", SvgbenchError.exit_status)
        if self._world > 1:
            status = int(self._runtime.all_reduce_(torch.tensor([status]), "max").item())
        if error is not None:
            raise error
        if status == Interrupted.exit_status:
            raise self._interrupted("another rank", done)
        if status:
            kinds = {kind.exit_status: kind for kind in (StorageError, NumericalError)}
            raise kinds.get(status, SvgbenchError)(f"{self._label}: failed in another process; see its message.")

    def _interrupted(self, what: str, done: int) -> Interrupted:
        return Interrupted(
            f"{self._label}: stopped by {what} after {done:,} of {self._count:,} {self._unit}, which are saved; "
            "run the same command again to resume."
        )

    def _number(self, blocks: Sequence[int]) -> int:
        """Number of items in these blocks."""
        return sum(len(self._items(block)) for block in blocks)

    def _items(self, block: int) -> range:
        return range(block * self._size, min((block + 1) * self._size, self._count))

    def _first(self, file: Array, block: int) -> int:
        return block if file.by_block else block * self._size

    def _path(self, rank: int) -> Path:
        return self._journal.with_name(f"{self._journal.name}.{rank}.jsonl")

    # --- the results of an earlier attempt; only on the main rank ---

    def _finished(self) -> list[int]:
        """The blocks that are complete on disk; creates missing arrays."""
        folder = self._journal.parent
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        listed: dict[int, str] = {}
        journals = sorted(folder.glob(f"{self._journal.name}.*.jsonl"))
        for lines in map(complete_lines, journals):
            if lines and lines[0] == self._request:
                listed |= {line["block"]: line.get("sha256") for line in lines[1:] if line.get("block") in range(self._blocks)}
        if not all(self._fits(file) for file in self._files):
            listed = {}
        if not listed:
            for journal in journals:
                journal.unlink()
            for file in self._files:
                file.path.unlink(missing_ok=True)
                arrays.create(file.path, file.kind, self._shape(file))
        intact = {block: digest for block, digest in listed.items() if digest == self._digest(block)}
        if len(intact) < len(listed):
            self._runtime.notify(
                f"warning: {self._label}: {len(listed) - len(intact)} of {len(listed)} saved blocks are damaged; they are computed again."
            )
        lines = [self._request, *({"block": block, "sha256": digest} for block, digest in sorted(intact.items()))]
        write_atomic(self._path(0), "".join(map(as_line, lines)).encode())
        for journal in journals:
            if journal != self._path(0):
                journal.unlink(missing_ok=True)
        return sorted(intact)

    def _shape(self, file: Array) -> tuple[int, ...]:
        return (self._blocks if file.by_block else self._count, *file.row)

    def _fits(self, file: Array) -> bool:
        """Whether the file has the layout of ``arrays.create``."""
        try:
            array = np.load(file.path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        shape = self._shape(file)
        return array.shape == shape and array.dtype == file.kind and file.path.stat().st_size == npy_bytes(shape, file.kind)

    def _digest(self, block: int) -> str:
        digest = hashlib.sha256()
        for file in self._files:
            first = self._first(file, block)
            rows = np.load(file.path, mmap_mode="r")[first : first + (1 if file.by_block else len(self._items(block)))]
            digest.update(np.ascontiguousarray(rows).data)
        return digest.hexdigest()


class _Prefetch(contextlib.AbstractContextManager["_Prefetch"]):
    """Reads the data of the blocks in order, one block ahead of the computation; does nothing without ``read``."""

    def __init__(self, read: Callable[[range], Any] | None, blocks: Sequence[range]) -> None:
        self._read, self._blocks = read, iter(blocks)
        self._pool = None if read is None else ThreadPoolExecutor(1)
        self._ready: list[Future[Any]] = []
        self._submit()

    def _submit(self) -> None:
        items = next(self._blocks, None)
        if self._pool is not None and self._read is not None and items is not None:
            self._ready.append(self._pool.submit(self._read, items))

    def next(self) -> list[Any]:
        """The data of the next block as a list of one item; an empty list without ``read``."""
        if self._pool is None:
            return []
        rows = self._ready.pop().result()
        self._submit()
        return [rows]

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class _Saving(contextlib.AbstractContextManager["_Saving"]):
    """Saves one block at a time: ``begin`` at once, or ``behind`` in a thread, whose block is complete after ``end``."""

    def __init__(self, save: Callable[[int, Rows], None], *, behind: bool) -> None:
        self._save = save
        self._pool = ThreadPoolExecutor(1) if behind else None
        self._running: Future[None] | None = None
        self._error: Exception | None = None

    def begin(self, block: int, rows: Rows) -> None:
        """Saves a block, or begins to. The one before it must have ended."""
        if self._pool is not None:
            self._running = self._pool.submit(self._save, block, rows)
            return
        try:
            self._save(block, rows)
        except Exception as caught:
            self._error = caught

    def end(self) -> Exception | None:
        """Waits until the block is saved; returns the error that prevented it."""
        running, error, self._running, self._error = self._running, self._error, None, None
        try:
            if running is not None:
                running.result()
        except Exception as caught:
            error = caught
        return error

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[tuple[int, int]]:
    """A file descriptor for writing, and the offset in bytes at which the rows begin."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor, np.load(path, mmap_mode="r").offset
    finally:
        os.close(descriptor)


def _row_bytes(file: Array) -> int:
    return math.prod(file.row) * np.dtype(file.kind).itemsize


def _bytes(file: Array, rows: np.ndarray, count: int) -> memoryview:
    if rows.shape != (count, *file.row) or rows.dtype != file.kind:
        raise ValueError(f"{file.path.name} takes {np.dtype(file.kind)} {(count, *file.row)}, not {rows.dtype} {rows.shape}")
    return np.ascontiguousarray(rows).data.cast("B")


def _write(descriptor: int, content: memoryview, place: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, place)
        content, place = content[written:], place + written
