"""A cache of the SHA-256 digests of users' files, kept between commands. No torch.

A data set is identified by the paths and the bytes of its files. Reading all bytes at every command would be too slow, so a *catalogue*
stores the size, times, inode and digest of each file, and only files whose size, times or inode have changed are read again. A file that
was modified less than two seconds before it was read is read again next time, because a later change could have left the same times.

A catalogue is a text file in ``$SVGBENCH_CACHE``, ``$XDG_CACHE_HOME/svgbench`` or ``~/.cache/svgbench``. It can be removed at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from svgbench.errors import StorageError, SvgbenchError
from svgbench.images.scan import ListedFile, examples, stamp_of
from svgbench.machine.files import failpoint, open_regular, write_atomic
from svgbench.machine.progress import open_bar, tell, tell_once, writes_to_user

UNSETTLED_NS = 2_000_000_000
"""A file modified within this time before it was read is read again next time: file systems store times in steps of up to 2 s."""
LARGE_BYTES = 1 << 30
"""Reading a larger file takes longer than ``UNSETTLED_NS``, so the end of the read is compared, not its start."""
QUIET_SECONDS = 1.0
"""A read that takes longer shows a progress bar."""
FLUSH_SECONDS = 60.0
"""Interval at which a long read saves its digests, so that a killed command resumes from there."""
BLOCK = 1 << 20
UNREADABLE = "unreadable"
"""Replaces the digest of a file that cannot be read; packing reports such files."""
UNSETTLED, TRUSTED = "?", "="


@dataclass(frozen=True)
class FileDigests:
    """The digests of a data set's files, and how they differ from those of the last command."""

    digests: dict[str, str]
    """Path -> sha256 of its bytes, or ``UNREADABLE``."""
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    read: int
    """Number of files that were read; the others had not changed."""

    @property
    def identity(self) -> str:
        """SHA-256 of all paths and bytes."""
        return identity_of(self.digests.items())

    def sentence(self, root: Path) -> str:
        """A sentence about what changed; empty if nothing did."""
        if not (self.changed or self.added or self.removed):
            return ""
        parts = [f"{len(self.changed):,} of {len(self.digests):,} files changed since they were last read ({examples(self.changed)})"]
        parts = parts if self.changed else [f"{len(self.digests):,} files, not the same as when they were last read"]
        parts += [f"{len(self.added):,} added ({examples(self.added)})"] if self.added else []
        parts += [f"{len(self.removed):,} removed ({examples(self.removed)})"] if self.removed else []
        return f"data: {root}: {', '.join(parts)}; what depends on them is computed again."


def identity_of(digests: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of (path, digest) pairs; their order does not matter."""
    lines = sorted(f"{path}\0{digest}\n" for path, digest in digests)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read(
    root: Path,
    files: Iterable[ListedFile],
    purpose: str,
    *,
    reread: bool = False,
    assumed: Mapping[str, str] | None = None,
    report: bool = True,
) -> FileDigests:
    """The digests of files below a root. Only files that may have changed since the last call are read; with ``reread``, all are.

    ``purpose`` names the catalogue, so that two listings of one folder have separate ones. ``assumed``: path -> digest of files that are
    new to the catalogue and need not be read. ``report``: writes what changed to standard error.
    """
    path, stamps = _catalogue_path(root, purpose), {file.path: file.stamp for file in files}
    with contextlib.ExitStack() as stack:
        complete, old = _load(path)
        table, due = _unchanged(stamps, old, reread=reread, assumed=assumed or {})
        if _bytes(due, stamps) > LARGE_BYTES and _lock(path, stack):  # another process may have read it all meanwhile
            complete, old = _load(path)
            table, due = _unchanged(stamps, old, reread=reread, assumed=assumed or {})
        reading = _read_due(root, path, stamps, complete, old, table, due)
    if report and (sentence := reading.sentence(root)):
        tell(sentence)
    return reading


def _unchanged(
    stamps: Mapping[str, str], old: Mapping[str, str], *, reread: bool, assumed: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Entries of the files that need not be read, and paths of those that must be."""
    table: dict[str, str] = {}
    due = []
    for path, stamp in stamps.items():
        entry = old.get(path)
        if entry is None and path in assumed and not reread:
            table[path] = f"{stamp} {TRUSTED} {assumed[path]}"
        elif entry is not None and not reread and stamp and entry.startswith(f"{stamp} {TRUSTED} "):
            table[path] = entry
        else:
            due.append(path)
    return table, sorted(due)


def _bytes(paths: Iterable[str], stamps: Mapping[str, str]) -> int:
    return sum(int(stamps[path].partition(" ")[0] or 0) for path in paths)


def _lock(path: Path, stack: contextlib.ExitStack) -> bool:
    """Waits until no other process (another rank, another command) reads the same files; False if the file system has no locks."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(path.with_suffix(".lock").open("a"))
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _read_due(
    root: Path, catalogue: Path, stamps: Mapping[str, str], complete: bool, old: dict[str, str], table: dict[str, str], due: list[str]
) -> FileDigests:
    """Reads the files that are due and saves the catalogue."""
    later: list[tuple[str, str]] = []
    flushed_at = time.monotonic()
    try:
        for path, line in _read_all(root, due, stamps, f"reading the files of {root}{'' if complete else ' for the first time'}"):
            entry = old.get(path)
            if entry is not None and complete and _digest_in(entry) != _digest_in(line):
                later.append((path, line))  # saved at the end: after a kill, the next command still reports this change
            else:
                table[path] = line
            if time.monotonic() - flushed_at > FLUSH_SECONDS:
                _save(catalogue, root, {**old, **table}, complete=complete)
                failpoint("catalogue.flushed")
                flushed_at = time.monotonic()
    except BaseException:
        _save(catalogue, root, {**old, **table}, complete=complete)
        raise
    table.update(later)
    digests = {path: _digest_in(table[path]) for path in stamps}
    added = tuple(sorted(stamps.keys() - old.keys())) if complete else ()
    removed = tuple(sorted(old.keys() - stamps.keys())) if complete else ()
    if not complete or table != old:
        _save(catalogue, root, table, complete=True)
    return FileDigests(digests, tuple(sorted(path for path, _ in later)), added, removed, len(due))


def record(root: Path, digests: Mapping[str, str], files: Iterable[ListedFile], purpose: str) -> None:
    """Saves the digests of files that the caller has just read or written."""
    now = time.time_ns()
    table = {file.path: _line(file.stamp, digests[file.path], now, now) for file in files}
    _save(_catalogue_path(root, purpose), root, table, complete=True)


def cache_folder() -> Path:
    """The folder of the catalogues."""
    configured, shared = os.environ.get("SVGBENCH_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if configured:
        return Path(os.path.abspath(os.path.expanduser(configured)))
    return Path(os.path.expanduser(shared if shared and os.path.isabs(shared) else "~/.cache")) / "svgbench"


def _catalogue_path(root: Path, purpose: str) -> Path:
    name = hashlib.sha256(f"{purpose}\0{os.path.realpath(root)}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache_folder() / "files" / f"{name}.txt"


# --- reading ---


def _read_all(root: Path, paths: list[str], stamps: Mapping[str, str], label: str) -> Iterator[tuple[str, str]]:
    """Reads files with several threads and yields the path and entry of each; a long read shows a progress bar with the label."""
    stop, started = threading.Event(), time.monotonic()
    threads = min(4 * (os.cpu_count() or 1), 32, max(len(paths), 1))
    total, done = _bytes(paths, stamps), 0
    futures: dict[Future[str], str] = {}
    remaining = iter(paths)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        stack.callback(stop.set)  # runs before the pool is joined
        counter, bar = [0], None

        def count(size: int) -> None:
            counter[0] += size  # a lost update only makes the bar slower

        while True:
            for path in remaining:
                futures[pool.submit(_read_one, root / path, stop, count)] = path
                if len(futures) >= 8 * threads:
                    break
            if not futures:
                return
            finished, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                yield futures.pop(future), future.result()
            if bar is None and writes_to_user() and time.monotonic() - started > QUIET_SECONDS:
                bar = stack.enter_context(open_bar(label, total >> 20, unit="MB"))
            if bar is not None and (counter[0] >> 20) > done:
                bar.advance((counter[0] >> 20) - done)
                done = counter[0] >> 20


def _read_one(path: Path, stop: threading.Event, count: Callable[[int], None]) -> str:
    """The entry of one file: its stamp, whether it can be trusted next time, its digest."""
    started = time.time_ns()
    try:
        with open_regular(path) as file:
            stamp, hasher = stamp_of(os.fstat(file.fileno())), hashlib.sha256()
            while block := file.read(BLOCK):
                if stop.is_set():
                    return f"{stamp} {UNSETTLED} {UNREADABLE}"
                hasher.update(block)
                count(len(block))
            if stamp_of(os.fstat(file.fileno())) != stamp:
                return f"{stamp} {UNSETTLED} {hasher.hexdigest()}"
    except OSError:
        return f"0 0 0 0 {UNSETTLED} {UNREADABLE}"
    return _line(stamp, hasher.hexdigest(), started, time.time_ns())


def _line(stamp: str, digest: str, started: int, ended: int) -> str:
    size, *times, _ = (int(part) for part in stamp.split())
    now = ended if size > LARGE_BYTES else started
    trusted = all(abs(now - time_) > UNSETTLED_NS for time_ in times)  # archives may contain times in the future
    return f"{stamp} {TRUSTED if trusted else UNSETTLED} {digest}"


def _digest_in(line: str) -> str:
    return line.rpartition(" ")[2]


# --- the file ---

HEADER = "svgbench catalogue 1"


def _load(path: Path) -> tuple[bool, dict[str, str]]:
    """Whether the catalogue is complete, and path -> entry; (False, {}) when it is absent or damaged."""
    if (unsaved := _unsaved().get(path)) is not None:
        return unsaved
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError:
        return False, {}
    body, _, end = content.rpartition(b"\n")
    if hashlib.sha256(body + b"\n").hexdigest().encode() != end:
        return False, {}
    lines = body.decode("utf-8", "surrogateescape").split("\n")
    status = lines[0].removeprefix(HEADER).split(" ")[1:2] if lines[0].startswith(HEADER + " ") else []
    if status not in (["complete"], ["begun"]):
        return False, {}
    table = {}
    for line in lines[1:]:
        entry, _, name = line.partition("\t")
        table[_unescaped(name)] = entry
    return status == ["complete"], table


def _save(path: Path, root: Path, table: Mapping[str, str], *, complete: bool) -> None:
    """Writes a catalogue; if that fails, keeps it in memory and warns once."""
    head = f"{HEADER} {'complete' if complete else 'begun'} {_escaped(os.path.realpath(root))}\n"
    body = (head + "".join(f"{entry}\t{_escaped(path)}\n" for path, entry in table.items())).encode("utf-8", "surrogateescape")
    try:
        if not path.is_absolute():
            raise StorageError("there is no home directory")
        write_atomic(path, body + hashlib.sha256(body).hexdigest().encode())
        _unsaved().pop(path, None)
    except (OSError, SvgbenchError) as error:
        _unsaved()[path] = complete, dict(table)
        why = (error.strerror if isinstance(error, OSError) else "") or str(error).split(";")[0]
        tell_once(
            f"warning: {cache_folder()} cannot be written ({why}), so the digests of data files are not kept and every command reads them "
            "again; set SVGBENCH_CACHE to a folder that can be written."
        )


@cache
def _unsaved() -> dict[Path, tuple[bool, dict[str, str]]]:
    """Catalogues that could not be written, kept in memory for this process."""
    return {}


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace("\n", "\\n") if "\\" in path or "\n" in path else path


def _unescaped(text: str) -> str:
    return "\\".join(part.replace("\\n", "\n") for part in text.split("\\\\")) if "\\" in text else text
