"""The store: one directory per finished stage, addressed by its content's key.

``store/<stage>/<key>/`` is finished when it holds ``manifest.json``, which is written last. Work happens in ``<key>.partial/`` under an
exclusive lock (``<key>.lock``, released by the kernel when its owner dies) and is renamed at commit. What is in ``.partial`` stays for
the next attempt, so training resumes inside it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from svgbench.config.records import STORE_FORMAT, Manifest
from svgbench.errors import BrokenArtifact, Occupied
from svgbench.world.files import TEMPORARY, fsync, guarded, remove_tree, sha256_of, write_atomic

CHECKPOINTS = "checkpoints"
"""Where a training keeps what it needs to go on; not part of the artifact."""

DIGESTED_BYTES = 1 << 30
"""Files up to this size are checked by digest at every use, larger ones by size."""


@dataclass(frozen=True)
class Store:
    """The store below an output directory."""

    root: Path

    def place(self, stage: str, key: str) -> Path:
        """The directory of an artifact, finished or not; 32 hex digits of the key are its name."""
        return self.root / stage / key[:32]

    def note(self, stage: str, key: str) -> Path:
        """The file that says how far the making of an artifact is."""
        place = self.place(stage, key)
        return place.with_name(place.name + ".progress")

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of a finished artifact, else None. Presence and sizes of its files are checked."""
        place = self.place(stage, key)
        path = place / "manifest.json"
        try:
            with guarded(path):
                content = from_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BrokenArtifact(f"{path}: cannot be read ({error}); remove the directory and run again.") from None
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise BrokenArtifact(f"{path}: is not a manifest; remove the directory and run again.")
        if content["format"] > STORE_FORMAT:
            raise BrokenArtifact(
                f"{path}: written by a newer svgbench (store format {content['format']}, this one reads {STORE_FORMAT}); update svgbench."
            )
        try:
            manifest = Manifest.model_validate(content)
        except ValidationError:
            raise BrokenArtifact(f"{path}: is not a manifest; remove the directory and run again.") from None
        if manifest.key != key:
            raise BrokenArtifact(f"{path}: belongs to key {manifest.key[:12]}, not {key[:12]}; remove the directory and run again.")
        for name, size in manifest.sizes.items():
            file = place / name
            if not file.is_file():
                raise BrokenArtifact(f"{place}: manifest lists {name}, which is missing; remove the directory and run again.")
            if file.stat().st_size != size:
                raise BrokenArtifact(
                    f"{file}: has {file.stat().st_size} bytes, the manifest says {size}; remove the directory {place} and run again."
                )
        return manifest

    def sweep(self, stage: str, key: str) -> None:
        """Removes the checkpoints that a process killed between its commit and this left in a finished artifact."""
        remove_tree(self.place(stage, key) / CHECKPOINTS)

    def verify(self, stage: str, key: str) -> None:
        """Raises BrokenArtifact when a file's digest is not the manifest's."""
        manifest = self.manifest(stage, key)
        if manifest is None:
            raise BrokenArtifact(f"{self.place(stage, key)}: is not finished; run again.")
        place = self.place(stage, key)
        for name, wanted in manifest.files.items():
            if manifest.sizes[name] <= DIGESTED_BYTES and sha256_of(place / name) != wanted:
                raise BrokenArtifact(
                    f"{place / name}: its bytes are not those the manifest lists; remove the directory {place} and run again."
                )

    @contextlib.contextmanager
    def claim(self, stage: str, key: str) -> Iterator[Path]:
        """The ``.partial`` directory of an artifact, owned by this process while inside; Occupied when another process has it."""
        place = self.place(stage, key)
        partial = place.with_name(place.name + ".partial")
        with guarded(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with locked(place.with_name(place.name + ".lock"), what=f"{stage} {key[:12]}"):
                partial.mkdir(exist_ok=True)
                yield partial

    def commit(self, manifest: Manifest, partial: Path) -> None:
        """Finishes an artifact: manifest last, then the rename that makes it visible."""
        place = self.place(manifest.stage, manifest.key)
        with guarded(place):
            write_atomic(partial / "manifest.json", (manifest.model_dump_json(indent=1) + "\n").encode())
            if place.exists():
                remove_tree(place)
            partial.rename(place)
            fsync(place.parent)
            remove_tree(place / CHECKPOINTS)  # last, so that a kill at any moment before costs no training

    def scores(self, stage: str, key: str, manifest: Manifest | None = None) -> list[dict[str, Any]]:
        """The scores of a finished artifact; with its manifest, only if they are those that were committed."""
        path = self.place(stage, key) / "scores.json"
        content = path.read_bytes()
        if manifest is not None and hashlib.sha256(content).hexdigest() != manifest.files["scores.json"]:
            raise BrokenArtifact(f"{path}: its bytes are not those the manifest lists; remove the directory {path.parent} and run again.")
        return json.loads(content)


def files_of(partial: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Digest and size of every file of an artifact about to be committed, by relative path."""
    paths = sorted(path for path in partial.rglob("*") if path.is_file() and path.name not in ("manifest.json", "error.txt"))
    paths = [p for p in paths if not p.name.startswith(TEMPORARY) and p.relative_to(partial).parts[0] != CHECKPOINTS]
    names = [path.relative_to(partial).as_posix() for path in paths]
    return {n: sha256_of(p) for n, p in zip(names, paths, strict=True)}, {n: p.stat().st_size for n, p in zip(names, paths, strict=True)}


@contextlib.contextmanager
def locked(path: Path, *, what: str) -> Iterator[None]:
    """An exclusive lock on a file that names its owner; Occupied when another process holds it."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
                raise
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise Occupied(f"{what} is being worked on by {owner}; wait for it, or stop it and run again.") from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
