"""The three shelves of data (encoders, ablations, reports): finds, lists and reads entries, in an installed wheel or a checkout."""

from __future__ import annotations

import stat
import time
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from svgbench.errors import BadConfig, BadInput, unknown

SETTLED = 2_000_000_000
"""A listing is cached only if its directory has not changed for this many nanoseconds: two changes in one clock tick have the same time."""
LONGEST = 1 << 19
"""Largest size of a YAML file in bytes. The largest file on the shelves has a hundredth of it; one twenty times as large takes a minute to
read."""
DEEPEST = 50
"""Largest nesting depth of lists and mappings."""


@cache
def folder(shelf: str) -> Path:
    """The directory of a shelf: inside the installed package (wheel), else beside it (checkout, editable install)."""
    here = Path(__file__).resolve().parent
    for place in (here / shelf, here.parents[1] / shelf):
        if place.is_dir():
            return place
    raise BadInput(f"the shelf '{shelf}' is missing beside {here}; reinstall svgbench.")


def entries(shelf: str, extra: Path | None = None) -> dict[str, Path]:
    """Name -> YAML file, for all entries of a shelf. ``extra``: a user's folder with more entries, which may not reuse a name."""
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
    """Name -> YAML file of a directory; empty if it does not exist. Cached until the directory's modification time changes."""
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
    """The mapping in one entry. Raises UnknownName, with the closest names, for an unknown one."""
    known = entries(shelf, extra)
    if name not in known:
        raise unknown(kind, name, known)
    return read_yaml(known[name])


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """``yaml.safe_load``, but refuses repeated keys and reports line and column of a value that it cannot read."""

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:  # an impossible date or number
            raise _off(f"a value cannot be read ({error})", node.start_mark) from None

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if isinstance(key, list | dict | set):
                raise _off("a key must be a word or a number, not a list or a mapping", key_node.start_mark)
            if key in seen:
                raise _off(f"the key '{key}' is repeated", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _off(problem: str, mark: yaml.Mark | None) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _check(text: str) -> None:
    """Raises YAMLError, before values are built, for text that is not YAML, is longer than ``LONGEST``, is nested deeper than ``DEEPEST``,
    or contains an alias: a few lines of aliases can expand to gigabytes, and no file here needs one."""
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"has {len(text):,} letters, and at most {LONGEST:,} are read")
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise _off("aliases are not allowed here", event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _off(f"lists and mappings are nested deeper than {DEEPEST}", event.start_mark)


def yaml_node(text: str) -> yaml.Node | None:
    """The single document in a text as YAML nodes; None if it is empty. Raises YAMLError."""
    _check(text)
    return yaml.compose(text, Loader=_Loader)


def yaml_value(text: str) -> Any:
    """The value of a YAML text: number, text, list or mapping. Raises YAMLError."""
    _check(text)
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def yaml_problem(error: yaml.YAMLError) -> tuple[str, str]:
    """``:LINE:COLUMN`` (empty if the error has no position), and the problem on one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or (error.args[0] if len(error.args) == 1 else None)
    return (f":{mark.line + 1}:{mark.column + 1}" if mark else ""), " ".join(str(problem or "is not YAML").split())


def yaml_text(path: Path) -> str:
    """The text of a YAML file. Raises BadInput when the file cannot be read, BadConfig when it is too large or not UTF-8."""
    state_of(path)
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}).") from None
    if len(content) > LONGEST:
        size = path.stat().st_size / 1e6
        raise BadConfig(f"{path}: has {size:,.1f} MB, and YAML files of at most {LONGEST / 1e6:.1f} MB are read; give another file.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path}: byte {error.start} is not UTF-8.") from None


def file_node(path: Path) -> yaml.Node | None:
    """The YAML nodes of a file, with their lines; None if it is empty or cannot be read (``read_yaml`` raises then)."""
    try:
        return yaml_node(yaml_text(path))
    except (BadInput, yaml.YAMLError):
        return None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read safely. Errors name the file, the line and the column."""
    return _copied(_parsed(path, *state_of(path)))


def state_of(path: Path) -> tuple[int, int]:
    """Modification time and size of a file; its cached content is valid while both are unchanged."""
    try:
        state = path.stat()
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:  # a name too long, a loop of links, a null byte
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if not stat.S_ISREG(state.st_mode):
        raise BadInput(f"{path} is not a regular file; give a YAML file.")
    return state.st_mtime_ns, state.st_size


def _copied(part: Any) -> Any:
    """``copy.deepcopy`` for mappings, lists and immutable values (YAML gives no others here), ten times as fast."""
    if isinstance(part, dict):
        return {name: _copied(value) for name, value in part.items()}
    return [_copied(value) for value in part] if isinstance(part, list) else part


@cache
def _parsed(path: Path, _changed: int, _size: int) -> dict[str, Any]:
    """``read_yaml`` without the copy, cached until the file changes: the cells of a grid share a few files."""
    try:
        content = yaml_value(yaml_text(path))
    except yaml.YAMLError as error:
        place, problem = yaml_problem(error)
        raise BadConfig(f"{path}{place}: {problem}.") from None
    if not isinstance(content, dict):
        raise BadConfig(f"{path}: holds {type(content).__name__}, not a mapping of fields.")
    return content
