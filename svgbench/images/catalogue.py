"""What is known of users' files: the sha256 of each one's bytes, kept between commands. No torch.

A data set is known by the paths and the bytes of its files. Reading all bytes at every command would be too slow, so a *catalogue* keeps
for each file its size, times, inode and digest, and only files for which one of these differs are read again. A file that was changed
less than two seconds before it was read is read again next time, because a later change could have left the same times.

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
from svgbench.images.scan import Found, named, stamp_of
from svgbench.machine.files import failpoint, open_regular, write_atomic
from svgbench.machine.progress import open_bar, speaks, tell, tell_once

RACY_NS = 2_000_000_000
"""A file changed less than this before it was read is not trusted next time: file systems keep times in steps of up to two seconds."""
LARGE_BYTES = 1 << 30
"""Reading a larger file takes longer than ``RACY_NS``, so what counts for it is when its reading ended."""
QUIET_SECONDS = 1.0
"""Reading that takes longer shows a bar."""
FLUSH_SECONDS = 60.0
"""Time after which a long reading is written down, so that a killed one goes on from there."""
BLOCK = 1 << 20
UNREADABLE = "unreadable"
"""In place of the digest of a file that cannot be read; packing names it."""
RACY, SURE = "?", "="


@dataclass(frozen=True)
class Reading:
    """The digests of a data set's files, and how they differ from those of the last command."""

    digests: dict[str, str]
    """Path -> sha256 of its bytes, or ``UNREADABLE``."""
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    read: int
    """Files that were read; the others are as they were."""

    @property
    def identity(self) -> str:
        """Digest of all paths and bytes."""
        return identity_of(self.digests.items())

    def sentence(self, root: Path) -> str:
        """What changed; empty when nothing did."""
        if not (self.changed or self.added or self.removed):
            return ""
        parts = [f"{len(self.changed):,} of {len(self.digests):,} files changed since they were last read ({named(self.changed)})"]
        parts = parts if self.changed else [f"{len(self.digests):,} files, not the same as when they were last read"]
        parts += [f"{len(self.added):,} added ({named(self.added)})"] if self.added else []
        parts += [f"{len(self.removed):,} removed ({named(self.removed)})"] if self.removed else []
        return f"data: {root}: {', '.join(parts)}; what depends on them is computed again."


def identity_of(digests: Iterable[tuple[str, str]]) -> str:
    """Digest of (path, sha256) pairs, whatever their order."""
    lines = sorted(f"{path}\0{found}\n" for path, found in digests)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read(
    root: Path, files: Iterable[Found], purpose: str, *, whole: bool = False, given: Mapping[str, str] | None = None, say: bool = True
) -> Reading:
    """The digests of files below a root. Only what may have changed since the last call is read (``whole``: everything).

    ``purpose``: what the files are listed for; two listings of one folder have a catalogue each. ``given``: digests to take for files that
    no catalogue knows yet. ``say``: tells the user what changed.
    """
    place, stamps = _place(root, purpose), {file.path: file.stamp for file in files}
    with contextlib.ExitStack() as stack:
        complete, old = _load(place)
        table, due = _known(stamps, old, whole=whole, given=given or {})
        if _bytes(due, stamps) > LARGE_BYTES and _turn(place, stack):  # another process may have read it all meanwhile
            complete, old = _load(place)
            table, due = _known(stamps, old, whole=whole, given=given or {})
        reading = _finished(root, place, stamps, complete, old, table, due)
    if say and (sentence := reading.sentence(root)):
        tell(sentence)
    return reading


def _known(stamps: Mapping[str, str], old: Mapping[str, str], *, whole: bool, given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The lines of files that need not be read, and the paths of those that must be."""
    table: dict[str, str] = {}
    due = []
    for path, stamp in stamps.items():
        before = old.get(path)
        if before is None and path in given and not whole:
            table[path] = f"{stamp} {SURE} {given[path]}"
        elif before is not None and not whole and stamp and before.startswith(f"{stamp} {SURE} "):
            table[path] = before
        else:
            due.append(path)
    return table, sorted(due)


def _bytes(paths: Iterable[str], stamps: Mapping[str, str]) -> int:
    return sum(int(stamps[path].partition(" ")[0] or 0) for path in paths)


def _turn(place: Path, stack: contextlib.ExitStack) -> bool:
    """Waits until no other process (another rank, another command) reads the same files; whether that could be arranged."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(place.with_suffix(".lock").open("a"))
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _finished(
    root: Path, place: Path, stamps: Mapping[str, str], complete: bool, old: dict[str, str], table: dict[str, str], due: list[str]
) -> Reading:
    """Reads what is due, and writes the catalogue down."""
    later: list[tuple[str, str]] = []
    last = time.monotonic()
    try:
        for path, line in _read_all(root, due, stamps, f"reading the files of {root}{'' if complete else ' for the first time'}"):
            before = old.get(path)
            if before is not None and complete and _digest_in(before) != _digest_in(line):
                later.append((path, line))  # written down at the end, so that it is still said when this is killed
            else:
                table[path] = line
            if time.monotonic() - last > FLUSH_SECONDS:
                _save(place, root, {**old, **table}, complete=complete)
                failpoint("catalogue.flushed")
                last = time.monotonic()
    except BaseException:
        _save(place, root, {**old, **table}, complete=complete)
        raise
    table.update(later)
    digests = {path: _digest_in(table[path]) for path in stamps}
    added = tuple(sorted(stamps.keys() - old.keys())) if complete else ()
    removed = tuple(sorted(old.keys() - stamps.keys())) if complete else ()
    if not complete or table != old:
        _save(place, root, table, complete=True)
    return Reading(digests, tuple(sorted(path for path, _ in later)), added, removed, len(due))


def record(root: Path, digests: Mapping[str, str], files: Iterable[Found], purpose: str) -> None:
    """Writes down digests of files that the caller has just read or written."""
    now = time.time_ns()
    table = {file.path: _line(file.stamp, digests[file.path], now, now) for file in files}
    _save(_place(root, purpose), root, table, complete=True)


def cache_folder() -> Path:
    """Where catalogues are kept."""
    own, shared = os.environ.get("SVGBENCH_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(os.path.abspath(os.path.expanduser(own)))
    return Path(os.path.expanduser(shared if shared and os.path.isabs(shared) else "~/.cache")) / "svgbench"


def _place(root: Path, purpose: str) -> Path:
    name = hashlib.sha256(f"{purpose}\0{os.path.realpath(root)}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache_folder() / "files" / f"{name}.txt"


# --- reading ---


def _read_all(root: Path, paths: list[str], stamps: Mapping[str, str], label: str) -> Iterator[tuple[str, str]]:
    """Path and line of each file as it is read, by several threads; a bar with the label is shown when that takes long."""
    stop, started = threading.Event(), time.monotonic()
    threads = min(4 * (os.cpu_count() or 1), 32, max(len(paths), 1))
    total, done = _bytes(paths, stamps), 0
    ahead: dict[Future[str], str] = {}
    waiting = iter(paths)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        stack.callback(stop.set)  # before the pool is waited for
        counter, bar = [0], None

        def count(size: int) -> None:
            counter[0] += size  # a lost update only makes the bar slower

        while True:
            for path in waiting:
                ahead[pool.submit(_read_one, root / path, stop, count)] = path
                if len(ahead) >= 8 * threads:
                    break
            if not ahead:
                return
            finished, _ = wait(ahead, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                yield ahead.pop(future), future.result()
            if bar is None and speaks() and time.monotonic() - started > QUIET_SECONDS:
                bar = stack.enter_context(open_bar(label, total >> 20, unit="MB"))
            if bar is not None and (counter[0] >> 20) > done:
                bar.advance((counter[0] >> 20) - done)
                done = counter[0] >> 20


def _read_one(path: Path, stop: threading.Event, count: Callable[[int], None]) -> str:
    """The line of one file: its stamp, whether it can be trusted next time, its digest."""
    started = time.time_ns()
    try:
        with open_regular(path) as file:
            stamp, found = stamp_of(os.fstat(file.fileno())), hashlib.sha256()
            while block := file.read(BLOCK):
                if stop.is_set():
                    return f"{stamp} {RACY} {UNREADABLE}"
                found.update(block)
                count(len(block))
            if stamp_of(os.fstat(file.fileno())) != stamp:
                return f"{stamp} {RACY} {found.hexdigest()}"
    except OSError:
        return f"0 0 0 0 {RACY} {UNREADABLE}"
    return _line(stamp, found.hexdigest(), started, time.time_ns())


def _line(stamp: str, found: str, started: int, ended: int) -> str:
    size, *times, _ = (int(part) for part in stamp.split())
    now = ended if size > LARGE_BYTES else started
    sure = all(abs(now - time_) > RACY_NS for time_ in times)  # archives may hold times of the future
    return f"{stamp} {SURE if sure else RACY} {found}"


def _digest_in(line: str) -> str:
    return line.rpartition(" ")[2]


# --- the file ---

HEADER = "svgbench catalogue 1"


def _load(place: Path) -> tuple[bool, dict[str, str]]:
    """Whether the catalogue is of a finished reading, and path -> line; nothing when it is absent or damaged."""
    if (kept := _unsaved().get(place)) is not None:
        return kept
    try:
        with open_regular(place) as file:
            content = file.read()
    except OSError:
        return False, {}
    body, _, end = content.rpartition(b"\n")
    if hashlib.sha256(body + b"\n").hexdigest().encode() != end:
        return False, {}
    lines = body.decode("utf-8", "surrogateescape").split("\n")
    kind = lines[0].removeprefix(HEADER).split(" ")[1:2] if lines[0].startswith(HEADER + " ") else []
    if kind not in (["complete"], ["begun"]):
        return False, {}
    table = {}
    for line in lines[1:]:
        known, _, path = line.partition("\t")
        table[_unescaped(path)] = known
    return kind == ["complete"], table


def _save(place: Path, root: Path, table: Mapping[str, str], *, complete: bool) -> None:
    """Writes a catalogue; where that is not possible it stays in memory, with one warning."""
    head = f"{HEADER} {'complete' if complete else 'begun'} {_escaped(os.path.realpath(root))}\n"
    body = (head + "".join(f"{known}\t{_escaped(path)}\n" for path, known in table.items())).encode("utf-8", "surrogateescape")
    try:
        if not place.is_absolute():
            raise StorageError("there is no home directory")
        write_atomic(place, body + hashlib.sha256(body).hexdigest().encode())
        _unsaved().pop(place, None)
    except (OSError, SvgbenchError) as error:
        _unsaved()[place] = complete, dict(table)
        why = (error.strerror if isinstance(error, OSError) else "") or str(error).split(";")[0]
        tell_once(
            f"warning: {cache_folder()} cannot be written ({why}), so the digests of data files are not kept and every command reads them "
            "again; set SVGBENCH_CACHE to a folder that can be written."
        )


@cache
def _unsaved() -> dict[Path, tuple[bool, dict[str, str]]]:
    """Catalogues that could not be written, for this process."""
    return {}


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace("\n", "\\n") if "\\" in path or "\n" in path else path


def _unescaped(text: str) -> str:
    return "\\".join(part.replace("\\n", "\n") for part in text.split("\\\\")) if "\\" in text else text
