"""What kind of file a path names, whether it may have changed, and the sha256 of its bytes. No torch."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from functools import cache
from pathlib import Path

from svgbench.errors import BadWeights
from svgbench.shelf import SETTLED

FileState = tuple[int, ...]
KINDS = {
    stat.S_IFREG: "a regular file", stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
}  # fmt: skip


def kind_of(status: os.stat_result) -> str:
    """The kind of a file as text: ``a directory``, ``a named pipe``, ..."""
    return KINDS.get(stat.S_IFMT(status.st_mode), "a special file")


def state_of(status: os.stat_result) -> FileState:
    """Numbers, at least one of which changes whenever a file is written or replaced: device, inode, size, mtime and ctime in ns."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_regular(path: Path) -> os.stat_result:
    """The file's ``stat``. Raises BadWeights unless it is a regular file (opening a named pipe would block, and a device has no end), and
    OSError if it does not exist."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadWeights(f"{path} is {kind_of(status)}, not a regular file; give the path of a file.")
    return status


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file that a configuration names, computed once per process while the file's state stays the same. A file that changed in
    the last two seconds is read each time, because another change could keep the same times. Raises BadWeights unless it is a regular
    file."""
    status = check_regular(path)
    age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    return sha256_of(path) if 0 <= age <= SETTLED else _kept_digest(path, state_of(status))


@cache
def _kept_digest(path: Path, _state: FileState) -> str:
    return sha256_of(path)
