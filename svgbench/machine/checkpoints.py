"""Checkpoints: directories of safetensors files with digests, written atomically; the two newest are kept, the newest valid one is
restored.

``OUT/checkpoints/<images seen>/`` contains ``<part>.safetensors`` for each part and ``state.json`` (JSON state, and the sha256 of every
file). It is written under a temporary name, flushed, and renamed, so that a kill at any moment cannot leave an incomplete checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from svgbench.machine.files import TEMPORARY, failpoint, fsync, guarded, need_space, regular, remove_tree, sha256_of, sweep

MAX_KEPT = 2
"""Number of checkpoints to keep: the newest, and the one before it in case the newest gets damaged."""
FOLDER = "checkpoints"
"""Folder of the checkpoints in the output directory of a training."""
FORMAT = 1
"""Layout of a checkpoint directory."""

STEP_SECONDS = 10.0
"""Minimum time between two saved states of a computation other than training (``Steps``)."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: part -> name -> tensor, and JSON state."""

    images_seen: int
    parts: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(directory: Path, checkpoint: Checkpoint) -> Path:
    """Writes ``directory/<images seen>`` atomically and removes all but the newest two. A StorageError leaves the older ones unchanged."""
    place = directory / f"{checkpoint.images_seen:012d}"
    with guarded(directory):
        directory.mkdir(parents=True, exist_ok=True)
        sweep(directory)
        need_space(directory, sum(t.numel() * t.element_size() for part in checkpoint.parts.values() for t in part.values()) + 4096)
        temporary = directory / f"{TEMPORARY}{place.name}"
        failpoint("checkpoint.begin")
        temporary.mkdir()
        try:
            _write(temporary, checkpoint)
        except BaseException:
            sweep(directory)
            raise
        failpoint("checkpoint.before_rename")
        if place.exists():  # it is damaged, or the same position is saved again
            remove_tree(place)
        temporary.rename(place)
        failpoint("checkpoint.renamed")
        fsync(directory)
        for old in list_checkpoints(directory)[MAX_KEPT:]:
            failpoint("checkpoint.purge")
            remove_tree(old)
    return place


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoint directories, newest first, valid or not."""
    if not directory.is_dir():
        return []
    return sorted((p for p in directory.iterdir() if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name), reverse=True)


def newest_valid(directory: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files all have their digests; ``warn`` is called with a sentence for each damaged one."""
    for place in list_checkpoints(directory):
        try:
            check(place)
        except DamagedCheckpoint as damage:
            warn(f"warning: {damage}; the one before it is used.")
        else:
            return place
    return None


class DamagedCheckpoint(Exception):
    """A checkpoint differs from what was written."""


def check(place: Path) -> dict[str, Any]:
    """Verifies all files of a checkpoint and returns its state. Raises DamagedCheckpoint."""
    try:
        state = json.loads((place / "state.json").read_bytes())
        body = {name: value for name, value in state.items() if name != "digest"}
        intact = state["digest"] == _digest(body) and state["format"] == FORMAT
        files = dict(state["files"]) if intact else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"checkpoint {place / 'state.json'} cannot be read ({type(error).__name__})") from None
    if not intact:
        raise DamagedCheckpoint(f"checkpoint {place / 'state.json'} does not have the digest it states")
    for name, expected in files.items():
        try:
            matches = sha256_of(place / name) == expected
        except OSError as error:
            raise DamagedCheckpoint(f"checkpoint {place / name} cannot be read ({type(error).__name__})") from None
        if not matches:
            raise DamagedCheckpoint(f"checkpoint {place / name} does not have the digest its state.json lists")
    return state


def load(place: Path) -> Checkpoint:
    """The content of a checkpoint, with tensors on the CPU; call ``check`` first. Raises DamagedCheckpoint."""
    state = json.loads((place / "state.json").read_bytes())
    try:
        parts = {Path(name).stem: load_file(place / name) for name in state["files"]}
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpoint(f"checkpoint {place} cannot be read ({error})") from None
    return Checkpoint(int(place.name), parts, state["state"])


class Steps:
    """Periodically saves the state of a long computation in one process, so that the next attempt resumes from it. Named parts of the
    computation are saved separately."""

    def __init__(self, folder: Path | None, warn: Callable[[str], None] = lambda sentence: None) -> None:
        """``folder``: directory of the saved states; None saves nothing. ``warn`` is called for each damaged state."""
        self._folder, self._warn, self._saved_at = folder, warn, time.monotonic()

    def part(self, name: str) -> Steps:
        """The ``Steps`` of a named part."""
        return Steps(self._folder / name if self._folder else None, self._warn)

    def last(self) -> Checkpoint | None:
        """The newest state, its tensors on the CPU; None if there is none."""
        place = newest_valid(self._folder, self._warn) if self._folder else None
        return load(place) if place else None

    def save(self, step: int, make: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]], *, due: bool = False) -> None:
        """Saves the state after a step, the tensors and plain values that ``make`` returns, if ``due`` or if the last save was at least
        ``STEP_SECONDS`` ago."""
        if self._folder is not None and (due or time.monotonic() - self._saved_at >= STEP_SECONDS):
            tensors, state = make()
            save(self._folder, Checkpoint(step, {"tensors": tensors}, state))
            self._saved_at = time.monotonic()
            failpoint("steps.saved")

    def once(
        self, name: str, compute: Callable[[Steps], tuple[dict[str, Tensor], dict[str, Any]]]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The result of a part: loaded if an earlier attempt saved it, else ``compute(steps)``, where ``steps`` saves the part's
        intermediate states."""
        result = self.part(name)
        saved = result.last()
        if saved is not None:
            return saved.parts["tensors"], saved.state
        computed = compute(result.part("steps"))
        result.save(0, lambda: computed, due=True)
        return computed


def clear(out: Path) -> None:
    """Removes ``OUT/checkpoints``, for a stage that has written its result."""
    with guarded(out):
        remove_tree(out / FOLDER)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors [...] to a safetensors file so that at any moment the path has either the old file or the whole new one."""
    with guarded(path):
        regular(path).parent.mkdir(parents=True, exist_ok=True)
        folder = path.parent / f"{TEMPORARY}{path.name}"  # safetensors writes beside its target first, which a kill would leave there
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            save_file(_plain(tensors), folder / path.name)
            fsync(folder / path.name)
            failpoint("file.before_rename")
            (folder / path.name).replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        failpoint("file.renamed")
        fsync(path.parent)


def _write(temporary: Path, checkpoint: Checkpoint) -> None:
    """Writes and flushes all files of a checkpoint, ``state.json`` last."""
    names = []
    for part, tensors in checkpoint.parts.items():
        name = f"{part}.safetensors"
        with guarded(temporary / name):
            save_file(_plain(tensors), temporary / name)
            fsync(temporary / name)
        names.append(name)
        failpoint("checkpoint.part")
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = dict(zip(names, pool.map(sha256_of, [temporary / name for name in names]), strict=True))
    body = {"format": FORMAT, "images_seen": checkpoint.images_seen, "files": digests, "state": checkpoint.state}
    body["digest"] = _digest(body)
    target = temporary / "state.json"
    target.write_text(json.dumps(body, indent=1) + "\n")
    fsync(target)
    failpoint("checkpoint.state")
    fsync(temporary)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory (safetensors refuses tied weights)."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu").contiguous()
        if tensor.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        plain[name] = tensor
    return plain
