"""From words to a configuration: unknown fields are refused with the closest name, wrong values with field, bound and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from svgbench.config.part import Part
from svgbench.errors import BadConfig, closest

P = TypeVar("P", bound=Part)


def validate(kind: type[P], content: Mapping[str, Any], *, where: str = "") -> P:
    """``content`` as a ``kind``; ``where`` (a file, ``--set``) opens the error's sentence."""
    try:
        return kind.model_validate(dict(content))
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BadConfig((f"{where}: " if where else "") + _sentence(kind, error)).about(field) from None


def first_problem(error: ValidationError) -> ErrorDetails:
    """The problem to be told first: an unknown field before the one that is missing because of it."""
    problems = error.errors()
    return next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    """The first problem in one sentence."""
    problem = first_problem(error)
    path = [str(part) for part in problem["loc"]]
    name = ".".join(part if part.isprintable() else repr(part) for part in path)
    more = f" ({error.error_count() - 1} more problems behind it.)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        owner = _part_at(kind, path[:-1])
        return f"{name} is not a field.{closest(path[-1], owner.model_fields if owner else [])}{more}"
    if problem["type"] == "missing":
        return f"{name} is missing.{more}"
    need = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    shown = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
    if problem["type"] == "value_error":
        return f"{name or kind.__name__}: {need}.{more}"
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        choices = [word.strip("'") for word in need.replace(" or ", ", ").split(", ")]
        return f"{name} must be {need}{shown}.{closest(problem['input'], choices)}{more}"
    return f"{name} must be {need}{shown}.{more}"


def _part_at(kind: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """The model class that owns the fields at a path, through optional parts."""
    for name in path:
        if name.isdigit():  # an entry of a list
            continue
        field = kind.model_fields.get(name)
        if field is None:
            return None
        options = [field.annotation, *get_args(field.annotation)]
        found = [o for o in options if isinstance(o, type) and get_origin(o) is None and issubclass(o, BaseModel)]
        if not found:
            return None
        kind = found[0]
    return kind


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` on top, mapping by mapping; lists and scalars are replaced whole."""
    merged = dict(base)
    for name, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = merge(merged[name], value)
        else:
            merged[name] = value
    return merged


def override(words: Sequence[str], *, where: str = "--set") -> dict[str, Any]:
    """``a.b=c`` words as a nested mapping; values are read as YAML (``[1, 2]``, ``true``, ``0.1``, ``text``)."""
    result: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name.strip():
            raise BadConfig(f"{where} {word}: write it as field.field=value.")
        result = merge(result, nested(name.strip(), _value(text, where=f"{where} {name}")))
    return result


def nested(path: str, value: Any) -> dict[str, Any]:
    """``a.b`` and a value as ``{"a": {"b": value}}``."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def _value(text: str, *, where: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadConfig(f"{where}: '{text}' is not a YAML value.") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value
