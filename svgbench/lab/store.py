"""The store: one directory per finished artifact, addressed by its key.

``store/<stage>/<key>/`` is finished when it holds ``manifest.json``, which is written last. Work happens in ``<key>.partial/`` under an
exclusive lock (``<key>.lock``, released by the kernel when its owner dies), and this directory is renamed at commit. ``.partial`` is kept
for the next attempt, which resumes training from it. Leftovers of a killed process are removed at the next use (``sweep``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter

from svgbench.config.file_state import FileState, state_of
from svgbench.config.records import SEALED, Manifest, NewerRecord, Score, digest_in
from svgbench.errors import BrokenArtifact, Occupied, StorageError
from svgbench.machine.files import TEMPORARY, failpoint, fsync, guarded, remove_tree, sha256_of, storage_error, write_atomic

CHECKPOINTS = "checkpoints"
"""Checkpoints of a training, to resume from; not part of the artifact."""
TRACE = "error.txt"
"""The traceback of a failed attempt; not part of the artifact."""

USE = "use.lock"
"""Lock file: shared by processes that use the store, exclusive for ``gc``."""
DIGESTED_BYTES = 1 << 30
"""Files up to this size are checked by digest at every use, larger ones only by size."""
LOCK_POLL_SECONDS = 0.05
REMOVED_MOST = 100
"""Number of times in a row that a lock file may have been removed by its last owner."""
BUSY = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)
"""Error numbers for a lock that another process holds."""
_KEY = re.compile(r"[0-9a-f]{32}")
_SCORES = TypeAdapter(list[Score])


@dataclass(frozen=True)
class Found:
    """A finished artifact."""

    manifest: Manifest
    digest: str
    """Digest of ``manifest.json``."""
    leftovers: tuple[str, ...]
    """Names in its directory left by a killed process."""


@dataclass(frozen=True)
class Store:
    """The store below an output directory."""

    root: Path

    def place(self, stage: str, key: str) -> Path:
        """The directory of an artifact, finished or not, named by the first 32 hex digits of its key."""
        return self.root / stage / key[:32]

    def note(self, stage: str, key: str) -> Path:
        """The file with the progress of an artifact that is being computed."""
        place = self.place(stage, key)
        return place.with_name(place.name + ".progress")

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of a finished artifact, else None. Its digest and key are checked, and presence and size of its files."""
        artifact = self.look(stage, key)
        return None if artifact is None else artifact.manifest

    def look(self, stage: str, key: str, made_of: tuple[int, dict[str, Any], dict[str, str]] | None = None) -> Found | None:
        """A finished artifact with its manifest and leftovers, else None; checked as in ``manifest``. ``made_of``: version, slice and
        inputs from which a plan computed the key."""
        place = f"{self.root}/{stage}/{key[:32]}"
        path = f"{place}/manifest.json"
        again = f"remove the directory {place} and run again."
        with guarded(Path(path)):
            try:
                raw = Path(path).read_bytes()
            except FileNotFoundError:
                return None
            leftovers = _leftovers(place)
        try:
            manifest = Manifest.read(raw, made_of)
        except NewerRecord as error:
            raise BrokenArtifact(f"{path}: written by a newer svgbench (store {error}); update svgbench.") from None
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise BrokenArtifact(f"{path}: is not the manifest that was written ({reason}); {again}") from None
        if (manifest.stage, manifest.key) != (stage, key):
            raise BrokenArtifact(f"{path}: belongs to {manifest.stage} {manifest.key[:12]}, not to {stage} {key[:12]}; {again}")
        with guarded(self.root):
            for name, size in manifest.sizes.items():
                actual = _size(f"{place}/{name}")
                if actual < 0:
                    raise BrokenArtifact(f"{place}/{name}: is listed in the manifest but missing; {again}")
                if actual != size:
                    raise BrokenArtifact(f"{place}/{name}: has {actual} bytes, the manifest says {size}; {again}")
        return Found(manifest, digest_in(raw, known=manifest.format >= SEALED), leftovers)

    def digest(self, stage: str, key: str) -> str | None:
        """Digest of an artifact's ``manifest.json``, None if there is no artifact at all, empty if its directory lacks the
        manifest."""
        path = f"{self.root}/{stage}/{key[:32]}/manifest.json"
        try:
            return _digest_at(path, state_of(os.stat(path)))
        except FileNotFoundError:
            return "" if os.path.isdir(os.path.dirname(path)) else None
        except OSError as error:
            raise storage_error(error, Path(path)) from error

    def sweep(self, used: Iterable[Found]) -> None:
        """Removes leftovers of killed processes in finished artifacts (including checkpoints of 20 GB) and next to them: partly removed
        directories, unfinished copies, locks, progress files. Skips what another process works on and what cannot be removed."""
        doomed: dict[Path, list[Path]] = {}
        for stage, artifacts in _by_stage(used).items():
            for one in artifacts:
                place = self.place(stage, one.manifest.key)
                if one.leftovers:
                    doomed.setdefault(place, []).extend(place / name for name in one.leftovers)
            with contextlib.suppress(OSError):
                for name in os.listdir(self.root / stage):
                    key = _KEY.search(name)
                    if key is None or key[0] == name:
                        continue
                    place = self.root / stage / key[0]
                    if name.startswith(TEMPORARY) or (place / "manifest.json").is_file():
                        doomed.setdefault(place, []).append(self.root / stage / name)
        for place, leftovers in doomed.items():
            lock = place.with_name(place.name + ".lock")
            with contextlib.suppress(OSError, Occupied, StorageError), locked(lock, what=str(place)):
                if (place / "manifest.json").is_file() or all(path.name.startswith(TEMPORARY) for path in leftovers):
                    for path in leftovers:
                        failpoint("store.sweeping")
                        _remove(path)
                lock.unlink(missing_ok=True)

    def verify(self, stage: str, key: str) -> Found:
        """The artifact. Raises BrokenArtifact if it is not finished or the digest of a file differs from the manifest."""
        place = self.place(stage, key)
        artifact = self.look(stage, key)
        if artifact is None:
            raise BrokenArtifact(f"{place}: is not finished; run again.")
        for name, wanted in artifact.manifest.files.items():
            with guarded(place / name):
                whole = artifact.manifest.sizes[name] > DIGESTED_BYTES or sha256_of(place / name) == wanted
            if not whole:
                raise _changed(place, name)
        return artifact

    @contextlib.contextmanager
    def claim(self, stage: str, key: str) -> Iterator[Path]:
        """Context manager that locks the ``.partial`` directory of an artifact. Raises Occupied if another process holds the lock."""
        place = self.place(stage, key)
        partial, lock = (place.with_name(place.name + suffix) for suffix in (".partial", ".lock"))
        with guarded(place, vanished=True):
            place.parent.mkdir(parents=True, exist_ok=True)
        with guarded(place), locked(lock, what=f"{stage} {key[:12]}"):
            with guarded(place, vanished=True):
                partial.mkdir(exist_ok=True)
            failpoint("store.claimed")
            yield partial
            if (place / "manifest.json").is_file():  # no process will work on it again
                lock.unlink(missing_ok=True)

    @contextlib.contextmanager
    def in_use(self, *, alone: bool = False) -> Iterator[None]:
        """Context manager in which ``gc`` removes nothing from the store; ``alone``: for ``gc`` itself, which needs exclusive use. Raises
        Occupied if the other kind of process uses the store. A store that cannot be locked (a read-only one) is used without a lock."""
        with contextlib.ExitStack() as opened:
            with contextlib.suppress(OSError):
                self.root.mkdir(parents=True, exist_ok=True)
                file = opened.enter_context((self.root / USE).open("a"))
                try:
                    fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno in BUSY:
                        what = "a process is at work in" if alone else "'svgbench gc' is cleaning"
                        raise Occupied(f"{what} {self.root}; wait until it ends, then run the same command again.") from None
                    raise
            yield

    def commit(self, manifest: Manifest, partial: Path) -> None:
        """Finishes an artifact: writes the manifest last, then renames the directory, which makes it visible."""
        place = self.place(manifest.stage, manifest.key)
        with guarded(place, vanished=True):
            for path in [partial / TRACE, *partial.rglob(f"{TEMPORARY}*")]:
                _remove(path)
            failpoint("store.before_manifest")
            write_atomic(partial / "manifest.json", manifest.written())
            _readable([partial / name for name in manifest.files], partial / "manifest.json")
            failpoint("store.before_rename")
            if place.exists():
                remove_tree(place)
            partial.rename(place)
            failpoint("store.renamed")
            fsync(place.parent)
            remove_tree(place / CHECKPOINTS)  # last, so that being killed before this loses no training
            failpoint("store.committed")

    def scores(self, stage: str, key: str, manifest: Manifest | None = None) -> list[Score]:
        """The scores of a finished artifact; empty if it is not finished. Raises BrokenArtifact if they changed after the commit.
        ``manifest``: the artifact's manifest, if it is already read."""
        if manifest is None:
            manifest = self.manifest(stage, key)
        return [] if manifest is None else _SCORES.validate_json(self.content(manifest, "scores.json"))

    def content(self, manifest: Manifest, name: str) -> bytes:
        """The bytes of a file of a finished artifact. Raises BrokenArtifact if they changed after the commit."""
        place = self.place(manifest.stage, manifest.key)
        try:
            with guarded(place / name):
                raw = (place / name).read_bytes()
        except FileNotFoundError:
            raw = None
        if raw is None or hashlib.sha256(raw).hexdigest() != manifest.files[name]:
            raise _changed(place, name)
        return raw


def files_of(partial: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Digests and sizes of all files of an artifact about to be committed, by relative path."""
    paths = sorted(path for path in partial.rglob("*") if path.is_file() and path.name not in ("manifest.json", TRACE))
    paths = [p for p in paths if not p.name.startswith(TEMPORARY) and p.relative_to(partial).parts[0] != CHECKPOINTS]
    names = [path.relative_to(partial).as_posix() for path in paths]
    digests = {n: sha256_of(p) for n, p in zip(names, paths, strict=True)}
    failpoint("store.digested")
    return digests, {n: p.stat().st_size for n, p in zip(names, paths, strict=True)}


@contextlib.contextmanager
def locked(path: Path, *, what: str, patience: float = 0.0) -> Iterator[None]:
    """Context manager with an exclusive lock on a file; the owner is written to the file. Raises Occupied if another process holds the
    lock for longer than ``patience`` seconds, StorageError if the file system has no locks."""
    end, removed = time.monotonic() + patience, 0
    while True:
        with path.open("a+") as file:
            if _take(file, path):
                if not _is(file, path):  # its last owner removed the file in the meantime
                    removed += 1
                    if removed > REMOVED_MOST:
                        raise StorageError(f"{path}: this lock file is replaced again and again; write to another file system.")
                    continue
                file.seek(0)
                file.truncate()
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                failpoint("lock.taken")
                yield
                return
            file.seek(0)
            owner = file.read().strip() or "another process"
        if time.monotonic() >= end:
            raise Occupied(f"{what} is being worked on by {owner}; wait for it, or stop it and run again.")
        time.sleep(LOCK_POLL_SECONDS)


def _take(file: TextIO, path: Path) -> bool:
    """Tries to lock the file; returns whether this process now holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            return False
        why = error.strerror or os.strerror(error.errno or errno.EIO)
        advice = "mount it with locks (Lustre: -o flock), or write to another file system"
        raise StorageError(f"{path}: the file system cannot lock files ({why}); {advice}.") from error
    return True


def _is(file: TextIO, path: Path) -> bool:
    """Whether a path still refers to an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@cache
def _digest_at(path: str, _state: FileState) -> str:
    """The digest of a manifest, cached as long as the file's state is unchanged."""
    return digest_in(Path(path).read_bytes())


def _leftovers(place: str) -> tuple[str, ...]:
    """Names in an artifact's directory that do not belong there."""
    return tuple(name for name in os.listdir(place) if name == CHECKPOINTS or name.startswith(TEMPORARY))


def _size(path: str) -> int:
    """Size of a regular file in bytes; -1 if there is none."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _readable(files: Iterable[Path], model: Path) -> None:
    """Gives files the permissions of ``model``, which follow the umask; safetensors writes files that only their owner can read."""
    wanted = stat.S_IMODE(model.stat().st_mode)
    for file in files:
        with contextlib.suppress(OSError):  # some file systems have no permissions
            if stat.S_IMODE(file.stat().st_mode) != wanted:
                file.chmod(wanted)


def _changed(place: Path, name: str) -> BrokenArtifact:
    return BrokenArtifact(f"{place / name}: its bytes are not those the manifest lists; remove the directory {place} and run again.")


def _by_stage(used: Iterable[Found]) -> dict[str, list[Found]]:
    stages: dict[str, list[Found]] = {}
    for artifact in used:
        stages.setdefault(artifact.manifest.stage, []).append(artifact)
    return stages


def _remove(path: Path) -> None:
    """Removes a file or a directory, as far as it exists and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
