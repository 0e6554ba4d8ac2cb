"""The content of an output directory: its runs and their states, and artifacts in its store that no run needs. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from svgbench.config.names import TAKEN
from svgbench.config.records import RUN_FORMAT, Manifest, unseal
from svgbench.config.schema import RunConfig
from svgbench.errors import BrokenArtifact, Occupied, StorageError, SvgbenchError
from svgbench.lab.forecast.estimate import outline
from svgbench.lab.handoff import read_plan
from svgbench.lab.plan import nodes_of
from svgbench.lab.store import BUSY, locked
from svgbench.machine.files import guarded, remove_tree
from svgbench.shelf import read_yaml
from svgbench.stages import graph

State = Literal["finished", "unfinished", "failed", "imported", "running", "damaged"]
DIGITS = 32
"""Hex digits of a key that name its artifact's directory."""
_KEY = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


@dataclass(frozen=True)
class RunState:
    """One run's directory."""

    name: str
    state: State
    encoder: str
    preset: str
    seed: int | None
    done: int
    """Finished stages and cells."""
    wanted: int | None
    """Stages and cells that its configuration requires; None if it cannot be read."""
    bytes: int
    """Total size of its directory and of the artifacts it uses, including shared ones."""
    changed: float
    """When its record was last written, in seconds since 1970."""
    reason: str = ""
    """Why it failed or is damaged."""


@dataclass(frozen=True)
class Unused:
    """All files of one key in the store that no run needs."""

    stage: str
    key: str
    finished: bool
    bytes: int
    changed: float
    paths: tuple[Path, ...]

    def content(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"paths": [str(path) for path in self.paths]}


def runs_in(out: Path) -> list[RunState]:
    """The runs of an output directory, sorted by name, including failed, interrupted, imported and damaged ones."""
    sizes: dict[Path, int] = {}
    return [_state(place, out / "store", sizes) for place in _places(out)]


def _places(out: Path) -> list[Path]:
    """The directories of runs: those with a record, or with files that a run writes before its record."""
    marks = ("run.json", "lock", "experiment.yaml")
    directories = [place for place in sorted(out.iterdir()) if place.is_dir() and place.name.lower() not in TAKEN]
    return [place for place in directories if any((place / mark).exists() for mark in marks)]


def _state(place: Path, store: Path, sizes: dict[Path, int]) -> RunState:
    config, imported = _config(place), (place / "experiment.yaml").exists()
    card = config.encoder.card if config else "-"
    preset, seed = (config.preset, config.seed) if config else ("-", None)
    running, changed = _is_locked(place / "lock"), _changed(place / "run.json", place)
    run_bytes = _bytes([place])
    try:
        about = unseal((place / "run.json").read_bytes(), RUN_FORMAT)
        stages, failures, kind = about["stages"], about["failures"], about["kind"]
        artifacts = {store / stage["stage"] / stage["key"][:DIGITS] for stage in (*stages, *about.get("behind", ()))}
        for artifact in artifacts - sizes.keys():
            sizes[artifact] = _bytes([artifact])
    except FileNotFoundError:
        return RunState(place.name, "running" if running else "unfinished", card, preset, seed, 0, None, run_bytes, changed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return RunState(place.name, "damaged", card, preset, seed, 0, None, run_bytes, changed, f"run.json cannot be read ({error})")
    wanted = len(outline(config, kind)) if config else None
    scored = any(graph.by_name(stage["stage"]).scores for stage in stages)
    if running:
        state: State = "running"
    elif failures:
        state = "failed"
    elif imported and not scored:
        state = "imported"
    else:
        state = "unfinished" if wanted is not None and len(stages) < wanted else "finished"
    reason = next(iter(failures.values()), "")
    total = run_bytes + sum(sizes[artifact] for artifact in artifacts)
    return RunState(place.name, state, about["encoder"], preset, seed, len(stages), wanted, total, changed, reason)


def _config(place: Path) -> RunConfig | None:
    """A run's configuration; None if it cannot be read or is of another version."""
    with contextlib.suppress(OSError, SvgbenchError, ValidationError):
        return RunConfig.model_validate(read_yaml(place / "config.yaml"))
    return None


def needed(out: Path, extra: Path | None = None) -> tuple[set[str], list[str]]:
    """Keys (their first 32 digits) that runs and waiting plans need: those in their records, those that their configurations require, and
    artifacts that a configuration names as a file. Also one sentence for each run whose configuration can no longer be planned; for these
    runs only the finished artifacts are known. Raises BrokenArtifact for an unreadable record, because what its run needs is unknown."""
    keys: set[str] = set()
    unplanned = []
    for place in _places(out):
        config = _config(place)
        try:
            about = unseal((place / "run.json").read_bytes(), RUN_FORMAT)
            keys |= {stage["key"][:DIGITS] for stage in (*about["stages"], *about.get("behind", ()))}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            advice = f"run its command again, or remove the directory {place}"
            raise BrokenArtifact(f"{place / 'run.json'}: cannot be read ({error}), so what the run needs is unknown; {advice}.") from None
        if config is None:
            unplanned.append(f"run '{place.name}' has no readable config.yaml")
            continue
        keys |= _named_by(config, out / "store")
        try:
            keys |= {node.key[:DIGITS] for node in nodes_of(config, extra)}
        except SvgbenchError as error:
            unplanned.append(f"run '{place.name}' cannot be planned here: {error}")
    for plan in sorted((out / "plans").glob("*/plan.json")):
        keys |= {key[:DIGITS] for key in read_plan(plan)}
    return keys, unplanned


def _named_by(config: RunConfig, store: Path) -> set[str]:
    """Artifacts of this store that a configuration names as files, such as ``scores.reference``."""
    root, keys = store.resolve(), set()
    waiting: list[Any] = [config.model_dump(mode="json")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str) and "/" in value and root in (path := Path(value).resolve()).parents:
            keys |= {part for part in path.relative_to(root).parts if _KEY.fullmatch(part)}
    return keys


def unused(out: Path, keys: set[str], *, unfinished: bool) -> list[Unused]:
    """Entries of the store whose key is not needed, largest first; ``unfinished``: also those of unfinished work."""
    entries = []
    for stage in sorted(path for path in (out / "store").glob("*") if path.is_dir()):
        groups: dict[str, list[Path]] = {}
        for path in sorted(stage.iterdir()):
            found = _KEY.search(path.name)
            if found is not None and found[0] not in keys:
                groups.setdefault(found[0], []).append(path)
        for key, paths in groups.items():
            manifest = stage / key / "manifest.json"
            begun = (stage / f"{key}.partial").is_dir() and not manifest.is_file()
            if _is_locked(stage / f"{key}.lock") or (begun and not unfinished) or (manifest.is_file() and _diagnoses(manifest, keys)):
                continue
            changed = max(_changed(path) for path in paths)
            entries.append(Unused(stage.name, key, manifest.is_file(), _bytes(paths), changed, tuple(paths)))
    return sorted(entries, key=lambda one: -one.bytes)


def _diagnoses(path: Path, keys: set[str]) -> bool:
    """Whether an artifact is a diagnosis, computed for ``figures``, whose inputs are all needed."""
    if path.parent.parent.name not in {stage.name for stage in graph.DIAGNOSES}:
        return False
    try:
        return {key[:DIGITS] for key in Manifest.read(path.read_bytes()).inputs.values()} <= keys
    except (OSError, ValueError):
        return False


def remove(entries: Iterable[Unused]) -> tuple[int, list[str]]:
    """Removes unused entries. Returns the number of bytes freed, and a sentence for each entry that was kept because a process uses it or
    it could not be removed."""
    freed, kept = 0, []
    for one in entries:
        place = one.paths[0].parent / one.key
        lock = place.with_name(f"{one.key}.lock")
        try:
            with guarded(place), locked(lock, what=f"{one.stage} {one.key[:12]}"):
                before = _bytes(one.paths)
                for path in one.paths:
                    if path == lock:
                        continue
                    if path.is_dir() and not path.is_symlink():
                        remove_tree(path)
                    else:
                        path.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
            freed += before
        except (Occupied, StorageError) as error:
            kept.append(str(error))
    return freed, kept


def _is_locked(path: Path) -> bool:
    """Whether a live process holds a lock file."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in BUSY
    return False


def _changed(*paths: Path) -> float:
    """Modification time of the first path that exists, in seconds since 1970; 0 if none exists."""
    for path in paths:
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _bytes(paths: Iterable[Path]) -> int:
    """Total bytes of files and of all files in directories; files that vanish meanwhile are not counted."""
    total = 0
    for path in paths:
        inside = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
        for file in inside:
            with contextlib.suppress(OSError):
                total += os.lstat(file).st_size
    return total
