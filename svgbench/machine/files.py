"""Atomic writes, digests, messages for storage errors, and points at which tests kill the process. No torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from svgbench.config.file_state import kind_of
from svgbench.config.file_state import sha256_of as sha256_of
from svgbench.errors import BadInput, StorageError

TEMPORARY = ".writing-"
"""Prefix of unfinished files; ``sweep`` removes them at the next start."""

MAX_BYTES = 2**31
"""Largest size of an image file."""

AGAIN = "check it, then run the same command again, finished work is kept."
REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again, finished work is kept.",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again, finished work is kept.",
    errno.EFBIG: "the file is larger than this process or file system may write; raise the limit and run the same command again.",
    errno.EROFS: "the file system is read-only; write to another directory.",
    errno.EACCES: "permission is denied; change its permissions, or give another directory.",
    errno.EPERM: "permission is denied; change its permissions, or give another directory.",
    errno.EIO: f"the disk answers with an input/output error; {AGAIN}",
    errno.ENOTDIR: "a part of that path is a file; give another path.",
    errno.EEXIST: "a part of that path is a file; give another path.",
    errno.EISDIR: "is a directory where a file should be; remove it, or give another path.",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n) and run the same command again.",
    errno.ENFILE: "this machine has too many open files; close other programs and run the same command again.",
    errno.ENOLCK: "the file system has no locks; mount it with locks, or give another --out.",
    errno.ENOSYS: "the file system cannot do that; give an --out on another one.",
    errno.EOPNOTSUPP: "the file system cannot do that; give an --out on another one.",
    errno.ENOENT: "was removed by another program during the work; run the same command again.",
}
"""errno -> reason and advice, for storage errors."""
PATHS = {
    errno.ENAMETOOLONG: "the name is longer than the file system allows; give a shorter one.",
    errno.ELOOP: "its symbolic links form a loop; correct them, or give another path.",
}
"""errno -> reason and advice, for paths that cannot be used on any disk (BadInput, not StorageError)."""
NOT_STORAGE = frozenset({
    errno.ENOENT, errno.EPIPE, errno.ECHILD, errno.ESRCH, errno.EINTR, errno.EAGAIN, errno.ECONNREFUSED, errno.ECONNRESET, errno.EADDRINUSE,
    errno.EADDRNOTAVAIL, errno.ENOEXEC, errno.EBADF,
})  # fmt: skip
"""Errors that do not come from the storage: missing or closed files, processes, sockets."""


@contextlib.contextmanager
def guarded(place: Path, *, vanished: bool = False) -> Iterator[None]:
    """Converts storage errors (also those in safetensors) to StorageError with advice, or to BadInput for unusable paths. ``vanished``:
    also converts "no such file", for a file that existed a moment ago."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.errno in NOT_STORAGE and not (vanished and error.errno == errno.ENOENT)):
            raise
        raise storage_error(error, place) from error
    except Exception as error:  # safetensors raises its own class with the number in the text
        match = re.search(r"os error (\d+)", str(error))
        if match is None or int(match[1]) in NOT_STORAGE:
            raise
        raise _explained(int(match[1]), place) from error


def storage_error(error: OSError, place: Path | None = None) -> StorageError | BadInput:
    """A StorageError with advice, or BadInput for an unusable path. The sentence names the error's file if it has one, else
    ``place``."""
    return _explained(error.errno or errno.EIO, error.filename or place or "the storage")


def _explained(number: int, where: object) -> StorageError | BadInput:
    if number in PATHS:
        return BadInput(f"{where}: {PATHS[number]}")
    reason = REASONS.get(number) or f"the storage answers '{os.strerror(number)}'; {AGAIN}"
    return StorageError(f"{where}: {reason}")


def regular(path: Path, *, instead: str = "give the path of a file") -> Path:
    """The path, if it is a regular file or does not exist. Raises BadInput for a directory, device, pipe or socket, or a link to one, since
    renaming a file to this path would replace it."""
    with guarded(path):
        try:
            kind = kind_of(os.stat(path))
        except FileNotFoundError:
            kind = "a regular file"
    if os.path.dirname(os.path.abspath(path)) == "/dev" or os.path.abspath(path).startswith(("/dev/fd/", "/proc/")):
        kind = "a device"
    if kind != "a regular file":
        raise BadInput(f"{path} is {kind}, not a file that can be written; {instead}.")
    return path


def failpoint(name: str) -> None:
    """For tests: kills this process when SVGBENCH_FAILPOINT is ``name``, or ``name:n`` at the n-th call. Otherwise does nothing."""
    setting = os.environ.get("SVGBENCH_FAILPOINT")
    if not setting:
        return
    target, _, passes = setting.partition(":")
    if target != name:
        return
    left = int(passes or 1) - 1
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.environ["SVGBENCH_FAILPOINT"] = f"{name}:{left}"


def fsync(path: Path) -> None:
    """Flushes a file, or the entries of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> BinaryIO:
    """Opens a user's file for reading. Raises OSError for a directory, pipe, device or socket: reading could block forever, and opening
    could have side effects."""
    descriptor = -1
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if descriptor < 0 or not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it may have been replaced in between
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        raise


def read_regular(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a user's file. Raises OSError when it is not a regular file or has more than ``limit`` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"has {size:,} bytes, more than {limit:,}", str(path))
        return file.read()


def is_inside(root: Path, path: Path) -> bool:
    """Whether a path, with symbolic links resolved, is inside a folder."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, a loop of links
        return False


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file so that at any moment the path has either the old bytes or all the new ones. A symbolic link is replaced; its target is
    not changed. Raises BadInput when the path is not a file."""
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that is written under a temporary name, and renamed when it is complete and on the disk: at any moment the path has either
    the old bytes or all the new ones."""
    with guarded(path, vanished=True):
        regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.name if len(os.fsencode(path.name)) <= 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{name}"
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            failpoint("file.before_rename")
            temporary.replace(path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename == str(temporary):
                error.filename = str(path)  # the name that the user knows
            raise
        failpoint("file.renamed")
        fsync(path.parent)


def remove_tree(path: Path) -> None:
    """Removes a directory, renaming it first, so that a partly removed one is never mistaken for a complete one."""
    doomed = path.parent / f"{TEMPORARY}{os.getpid()}-removed-{path.name}"
    with contextlib.suppress(FileNotFoundError):
        path.rename(doomed)
        failpoint("tree.renamed")
        shutil.rmtree(doomed)
        failpoint("tree.removed")


def sweep(directory: Path) -> int:
    """Removes unfinished files of killed processes from a directory; returns their number."""
    leftovers = list(directory.glob(f"{TEMPORARY}*")) if directory.is_dir() else []
    for entry in leftovers:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return len(leftovers)


def need_space(directory: Path, needed: int) -> None:
    """Raises StorageError before anything is written when a file system has less than ``needed`` bytes free."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise StorageError(
            f"{directory}: {needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free; "
            "free some space and run the same command again, finished work is kept."
        )
