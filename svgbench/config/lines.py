"""Finds the line of a setting in an experiment's YAML file, for error messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from svgbench.config.fields import short_name
from svgbench.errors import BadInput
from svgbench.shelf import file_node, yaml_node, yaml_text


def line_of(path: Path, field: str, cell: str = "", *, part: str, preset: str = "", loose: bool = False) -> int | None:
    """The line (from 1) in a file's ``part`` (axes; or set, with ``at`` of the preset) that sets a dotted field, a field below it, or a
    value that contains it; ``loose``: or other fields of the same mapping. For an axis: the entry of the cell."""
    root = file_node(path)
    if not isinstance(root, yaml.MappingNode):
        return None
    best: tuple[int, int] | None = None
    for place, line, whole in _settings(root, cell.split(".") if cell else [], part, preset):
        fits = place == field or place.startswith(field + ".") or (field.startswith(place + ".") and (loose or whole))
        shared = min(len(place), len(field)) - (place != field)
        if fits and (best is None or shared > best[0]):
            best = (shared, line)
    return best[1] if best else None


def line_at(path: Path, place: str) -> int | None:
    """The line (from 1) of the deepest existing key or list entry on a dotted path through a file; keys may contain dots."""
    node, line = file_node(path), None
    while isinstance(node, (yaml.MappingNode, yaml.SequenceNode)):
        if isinstance(node, yaml.SequenceNode):
            number, _, place = place.partition(".")
            if not number.isdigit() or int(number) >= len(node.value):
                break
            node = node.value[int(number)]
            line = _line(node)
            continue
        on_it = [(key, value) for key, value in node.value if f"{place}.".startswith(f"{key.value}.")]
        if not on_it:
            break
        key, node = max(on_it, key=lambda pair: len(pair[0].value))
        line, place = _line(key), place[len(key.value) + 1 :]
    return line


def is_blank(path: Path) -> bool:
    """Whether a file can be read and contains nothing but comments."""
    try:
        return yaml_node(yaml_text(path)) is None
    except (BadInput, yaml.YAMLError):
        return False


def _settings(root: yaml.MappingNode, cell: list[str], part: str, preset: str) -> Iterator[tuple[str, int, bool]]:
    """Yields (dotted field, line, whether the value is complete, not a mapping) for every setting of a part of the file that applies to the
    cell."""
    if part == "set":
        yield from _at(root, preset)
    for key, value in root.value:
        if key.value == part == "set":
            yield from _below(value, "")
        if key.value == part == "axes" and isinstance(value, yaml.MappingNode):
            for axis, entries in value.value:
                if isinstance(entries, yaml.SequenceNode):
                    word = short_name(axis.value)
                    named = [e for e in entries.value if f"{word}-{getattr(e, 'value', '')}" in ".".join(cell) or e.value in cell]
                    yield axis.value, _line((named or [axis])[0]), True
                elif isinstance(entries, yaml.MappingNode):
                    for name, settings in entries.value:
                        if not cell or name.value in ".".join(cell):
                            yield from _at(settings, preset)
                            yield from _below(settings, "")


def _at(node: yaml.Node, preset: str) -> Iterator[tuple[str, int, bool]]:
    """The settings of a mapping's ``at`` for a preset."""
    for key, presets in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "at" and isinstance(presets, yaml.MappingNode):
            for name, settings in presets.value:
                if name.value == preset:
                    yield from _below(settings, "")


def _below(node: yaml.Node, start: str) -> Iterator[tuple[str, int, bool]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{start}{key.value}", _line(key), not isinstance(value, yaml.MappingNode)
            yield from _below(value, f"{start}{key.value}.")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
