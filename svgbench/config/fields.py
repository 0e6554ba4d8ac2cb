"""The fields of a configuration by their dotted paths: short names for runs, and a reference with type, bounds, default and meaning."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from svgbench.config.part import part_in
from svgbench.config.schema import RunConfig
from svgbench.errors import unknown

TYPES = {int: "integer", float: "number", str: "text", bool: "true or false"}
COMPARISONS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
"""Attributes of pydantic's bounds -> the sign of the comparison."""

LATER = ("sampling.tuning.", "continued.", "latents.align", "diffusion.meanflow.", "diffusion.mar.")
"""Parts that were added later. They do not take over the short name of an older field, so that runs keep their names."""

INTRODUCTION = """Set a field with `--set PATH=VALUE` or in an experiment's YAML file. Defaults are those of the schema; presets and
experiments change them. `svgbench fields PATH` prints the same. This page is generated: `svgbench fields --markdown`."""


@dataclass(frozen=True)
class FieldDoc:
    """The reference of one field."""

    path: str
    """Dotted, as in ``--set PATH=VALUE``."""
    type: str
    """For example ``integer``, ``number or empty``, ``list of integer``."""
    bounds: str
    """For example ``>= 1``, ``one of euler, heun``; empty if any value of the type is accepted."""
    default: str
    """As in YAML: ``null`` for empty, ``required`` if there is none. Presets and experiments change it."""
    meaning: str
    """One or two sentences, with the unit."""


def field_docs(prefix: str = "") -> list[FieldDoc]:
    """The reference of every field at or below a dotted path of ``RunConfig``; of all fields if the path is empty.

    Raises UnknownName for a path that no field has.
    """
    every = list(_docs(RunConfig, RunConfig().model_dump(mode="json"), ""))
    chosen = [doc for doc in every if not prefix or doc.path == prefix or doc.path.startswith(f"{prefix}.")]
    if not chosen:
        parts = {doc.path.rsplit(".", depth)[0] for doc in every for depth in range(doc.path.count(".") + 1)}
        raise unknown("field", prefix, parts)
    return chosen


def fields_markdown() -> str:
    """The reference of all fields as a Markdown page: a heading and a list for every part of the configuration."""
    lines = ["# Configuration fields", "", *_wrapped(INTRODUCTION, ""), ""]
    docs = field_docs()
    for part, meaning in _parts(RunConfig, ""):
        lines += [f"## `{part}`" if part else "## Top level", "", *_wrapped(meaning, ""), ""]
        for doc in docs:
            if doc.path.rpartition(".")[0] == part:
                bounds = f", {doc.bounds}" if doc.bounds else ""
                lines += [f"- `{doc.path}`", *_wrapped(f"*{doc.type}{bounds}; default `{doc.default}`.* {doc.meaning}", "  ")]
        lines.append("")
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _wrapped(text: str, indent: str) -> list[str]:
    text = text.replace("``", "`")
    return textwrap.wrap(text, 98, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _parts(kind: type[BaseModel], start: str) -> Iterator[tuple[str, str]]:
    """Dotted path and meaning of every part of the configuration, starting with the full configuration."""
    yield start, " ".join((kind.__doc__ or "").split())
    for name, field in kind.model_fields.items():
        inside = part_in(field.annotation)
        if inside:
            yield from _parts(inside, f"{start}.{name}" if start else name)


def _docs(kind: type[BaseModel], defaults: dict[str, Any], start: str) -> Iterator[FieldDoc]:
    """The reference of a part's fields; ``defaults``: the part's values if nothing is set."""
    for name, field in kind.model_fields.items():
        inside = part_in(field.annotation)
        if inside:
            yield from _docs(inside, defaults.get(name) or _own_defaults(inside), f"{start}{name}.")
            continue
        # empty fields that were added later are not dumped
        value = defaults[name] if name in defaults else None if field.is_required() else field.default
        type_, bounds = _type_of(field.annotation, field.metadata)
        default = "required" if field.is_required() and value is None else json.dumps(value)
        yield FieldDoc(start + name, type_, bounds, default, " ".join((field.description or "").split()))


def _own_defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """The defaults of an optional part, without its required fields."""
    return kind.model_construct().model_dump(mode="json", warnings=False)


def _type_of(annotation: Any, metadata: list[Any]) -> tuple[str, str]:
    """Type and bounds of an annotation, as text."""
    bounds = _bounds(metadata)
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        for one in more:
            bounds += _bounds(one.metadata if isinstance(one, FieldInfo) else [one])
    inside = [part for part in get_args(annotation) if part is not Ellipsis]
    if get_origin(annotation) in (Union, UnionType):
        types = [_type_of(part, []) for part in inside if part is not type(None)]
        words = [word for word, _ in types] + (["empty"] if type(None) in inside else [])
        return " or ".join(words), "; ".join([text for _, text in types if text] + bounds)
    if get_origin(annotation) is Literal:
        if len(inside) == 1:
            return f"`{inside[0]}`", ""
        return "text", "; ".join([f"one of {', '.join(map(str, inside))}", *bounds])
    if get_origin(annotation) is tuple:
        entry, entry_bounds = _type_of(inside[0], [])
        count = "" if Ellipsis in get_args(annotation) else f"{len(inside)} "
        return f"list of {count}{entry}" + ("s" if count else ""), "; ".join(([f"each {entry_bounds}"] if entry_bounds else []) + bounds)
    if get_origin(annotation) is dict:
        return "mapping", "; ".join(bounds)
    return TYPES.get(annotation, str(annotation)), " and ".join(bounds)


def _bounds(metadata: list[Any]) -> list[str]:
    """Bounds of a value as text, from pydantic's metadata."""
    bounds = []
    for one in metadata:
        bounds += [f"{sign} {getattr(one, name):g}" for name, sign in COMPARISONS.items() if hasattr(one, name)]
        if getattr(one, "min_length", None):
            bounds.append("not empty" if one.min_length == 1 else f"at least {one.min_length} entries")
        if getattr(one, "pattern", None):
            bounds.append(f"like {one.pattern}")
    return bounds


def short_name(path: str) -> str:
    """The short name of a field in names of runs: the shortest suffix of its path that no other field shares (``sampling-shift``)."""
    words, counts = path.split("."), _endings(path.startswith(LATER))
    for start in reversed(range(len(words))):
        if counts[".".join(words[start:])] <= 1:
            break
    return "-".join(words[start:])


@cache
def _endings(later: bool) -> Counter[str]:
    """Every suffix of a field's path -> the number of fields with this suffix; of all fields, or only of those that are not ``LATER``."""
    every = [path.split(".") for path in fields_of(RunConfig) if later or not path.startswith(LATER)]
    return Counter(".".join(words[start:]) for words in every for start in range(len(words)))


def fields_of(kind: type[BaseModel], start: str = "") -> Iterator[str]:
    """Dotted paths of all fields of a part of the configuration, including nested parts."""
    for name, field in kind.model_fields.items():
        inside = part_in(field.annotation)
        yield from fields_of(inside, f"{start}{name}.") if inside else [start + name]
