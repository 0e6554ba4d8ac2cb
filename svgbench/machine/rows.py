"""Appends rows to ``.npy`` files, with a journal from which a killed process resumes. No torch."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from svgbench.errors import BrokenArtifact
from svgbench.machine.files import write_atomic


class RowFile(contextlib.AbstractContextManager["RowFile"]):
    """A ``.npy`` file written row by row; the number of rows is written into the header at the end (numpy pads the header for this). Not
    memory-mapped, because writing to a mapped page on a full disk kills the process."""

    def __init__(self, path: Path, shape: tuple[int, ...], kind: type, *, count: int = 0) -> None:
        """Continues after the first ``count`` rows of the file and discards the rest; creates a new file when 0."""
        self._path, self._shape, self._kind = path, shape, np.dtype(kind)
        self.count = count
        self._file: BinaryIO = path.open("r+b" if count else "wb")
        self._header()
        self._start = self._file.tell()
        if count:
            self._file.truncate(self._start + count * self._row_bytes)
            self._file.seek(0, os.SEEK_END)

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self._shape, dtype=np.int64)) * self._kind.itemsize

    def append(self, rows: np.ndarray) -> None:
        """Appends rows [n, *shape]."""
        if rows.shape[1:] != self._shape or rows.dtype != self._kind:
            raise ValueError(f"{self._path.name} takes {self._kind} rows {self._shape}, not {rows.dtype} {rows.shape[1:]}")
        self._file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def sync(self) -> None:
        """Flushes the appended rows to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                self._header()
                if self._file.tell() != self._start:
                    raise ValueError(f"{self._path.name}: numpy wrote a header of another length")
                self.sync()
        finally:
            self._file.close()

    def _header(self) -> None:
        content = {"descr": np.lib.format.dtype_to_descr(self._kind), "fortran_order": False, "shape": (self.count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, content)


class Journal:
    """The progress of packing: a first line with the request, then a line for each finished piece of a split. A line is written after its
    rows; an incomplete line is ignored."""

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        """Continues the journal in the file if it has the same request. ``other`` is True if the file has a different request; the file is
        then left unchanged."""
        self._path, self._request = path, request
        lines = complete_lines(path)
        self.other = bool(lines) and lines[0] != request
        self.begun = bool(lines) and not self.other
        self._set(lines[1:] if self.begun else [])
        if not self.other:
            write_atomic(path, "".join(map(as_line, [request, *lines[1:]])).encode())

    def begin_again(self) -> None:
        """Discards all pieces."""
        self.begun = False
        self._set([])
        write_atomic(self._path, as_line(self._request).encode())

    def add(self, split: str, *, seen: int, rows: int, skipped: list[dict[str, str]]) -> None:
        """Records a piece whose rows are written."""
        line = {"split": split, "seen": seen, "rows": rows, "skipped": skipped}
        append_line(self._path, line)
        self._count(line)

    def _set(self, lines: list[dict[str, Any]]) -> None:
        self.rows: Counter[str] = Counter()
        """Split -> number of written rows."""
        self.seen: Counter[str] = Counter()
        """Split -> number of processed images, unreadable ones included."""
        self.skipped: list[dict[str, str]] = []
        """Images that could not be read, in order."""
        for line in lines:
            self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        self.rows[line["split"]] += line["rows"]
        self.seen[line["split"]] += line["seen"]
        self.skipped += line["skipped"]


def npy_bytes(shape: tuple[int, ...], kind: type) -> int:
    """The size of a ``.npy`` file of this shape and type."""
    header = io.BytesIO()
    content = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, content)
    return header.tell() + int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize


def as_line(content: dict[str, Any]) -> str:
    """A line of a journal."""
    return json.dumps(content) + "\n"


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Appends a line to a journal and flushes it to disk."""
    with path.open("a") as file:
        file.write(as_line(content))
        file.flush()
        os.fsync(file.fileno())


def complete_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal before the first that is incomplete or not a JSON object."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines(keepends=True):
        try:
            content = json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n") or not isinstance(content, dict):
            break
        lines.append(content)
    return lines


def mapped_array(path: Path, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """A read-only memory-mapped array. Raises BrokenArtifact when it does not have this shape and dtype."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BrokenArtifact(f"{path}: is not a complete array ({error}); remove the directory and run again.") from None
    if array.shape != shape or array.dtype != kind:
        raise BrokenArtifact(
            f"{path}: holds {array.dtype} {array.shape}, not {np.dtype(kind)} {shape}; remove the directory and run again."
        )
    return array
