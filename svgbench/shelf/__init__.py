"""The three shelves of data (encoders, ablations, reports): find, list and read an entry, in a wheel or beside a checkout."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from svgbench.errors import BadConfig, BadInput, unknown

SETTLED = 2_000_000_000
"""Nanoseconds after a directory's last change until its listing is kept: two changes within a tick of its clock have one time."""


@cache
def folder(shelf: str) -> Path:
    """The directory of a shelf: inside the installed package (wheel), else beside it (checkout, editable install)."""
    here = Path(__file__).resolve().parent
    for place in (here / shelf, here.parents[1] / shelf):
        if place.is_dir():
            return place
    raise BadInput(f"the shelf '{shelf}' is missing beside {here}; reinstall svgbench.")


def entries(shelf: str, extra: Path | None = None) -> dict[str, Path]:
    """Every YAML entry of a shelf by name; ``extra`` is a user's folder that may add names and never replaces one."""
    found = dict(_listed(folder(shelf)))
    if extra is not None:
        if not extra.is_dir():
            raise BadInput(f"--shelf {extra} is not a directory.")
        for path in sorted([*_listed(extra).values(), *_listed(extra / shelf).values()]):
            if path.stem in found:
                raise BadConfig(f"{path}: the name '{path.stem}' is taken by {found[path.stem]}; choose another file name.")
            found[path.stem] = path
    return found


def _listed(place: Path) -> dict[str, Path]:
    """The YAML files of a directory by name, none where there is no directory: listed once while its time of change stays."""
    try:
        changed = place.stat().st_mtime_ns
    except OSError:
        return {}
    if time.time_ns() - changed < SETTLED:
        return _listing(place, None)
    return _kept_listing(place, changed)


def _listing(place: Path, _changed: int | None) -> dict[str, Path]:
    return {path.stem: path for path in sorted(place.glob("*.yaml"))}


_kept_listing = cache(_listing)


def read(shelf: str, name: str, kind: str, extra: Path | None = None) -> dict[str, Any]:
    """The mapping in one entry; an unknown name offers its neighbours."""
    known = entries(shelf, extra)
    if name not in known:
        raise unknown(kind, name, known)
    return read_yaml(known[name])


class _UniqueKeys(yaml.SafeLoader):
    """``yaml.safe_load`` that refuses a key written twice and any alias (nothing here needs one, and an alias bomb does)."""

    def compose_node(self, parent, index):  # type: ignore[override]
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed here", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):  # type: ignore[override]
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read safely; errors name the file, the line and the column."""
    return _copied(_parsed(path, *state_of(path)))


def state_of(path: Path) -> tuple[int, int]:
    """A file's time of change and its size: what was read of it holds while they stay."""
    try:
        state = path.stat()
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist.") from None
    return state.st_mtime_ns, state.st_size


def _copied(part: Any) -> Any:
    """``copy.deepcopy`` of mappings, lists and what cannot change: all that YAML gives here, and ten times as fast."""
    if isinstance(part, dict):
        return {name: _copied(value) for name, value in part.items()}
    return [_copied(value) for value in part] if isinstance(part, list) else part


@cache
def _parsed(path: Path, _changed: int, _size: int) -> dict[str, Any]:
    """The same, once for every state of the file: the cells of a grid stand on the same few files."""
    try:
        with path.open(encoding="utf-8") as file:
            content = _UniqueKeys(file).get_single_data()
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path}: byte {error.start} is not UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise BadConfig(f"{path}{place}: {getattr(error, 'problem', None) or 'is not YAML'}.") from None
    if not isinstance(content, dict):
        raise BadConfig(f"{path}: holds {type(content).__name__}, not a mapping of fields.")
    return content
