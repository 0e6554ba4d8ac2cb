"""Validates configurations. Errors name an unknown field with the closest known one, and a wrong value with its field and bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from svgbench.config.part import Part, part_in
from svgbench.errors import BadConfig, closest
from svgbench.shelf import DEEPEST, yaml_problem, yaml_value

P = TypeVar("P", bound=Part)

KINDS = ("list", "dict", "tuple", "literal", "constrained-int", "constrained-float")
WORDS = {
    "list_type": "a list", "tuple_type": "a list", "dict_type": "a mapping", "model_type": "a mapping",
    "int_parsing": "a valid integer", "float_type": "a valid number", "float_parsing": "a valid number",
}  # fmt: skip
"""Pydantic's error type -> what the value must be."""
EACH = "*"
"""Stands for every entry of a list, which may be empty, in place of an index: ``continued.*.diffusion.images``."""


def validate(kind: type[P], content: Mapping[str, Any], *, where: str = "") -> P:
    """``content`` as a ``kind``. Raises BadConfig, whose sentence starts with ``where`` (a file, ``--set``)."""
    try:
        return kind.model_validate(dict(content))
    except ValidationError as error:
        field = ".".join(_place(first_problem(error)))
        raise BadConfig((f"{where}: " if where else "") + _sentence(kind, error)).about(field) from None


def first_problem(error: ValidationError) -> ErrorDetails:
    """The problem to report: an unknown field before a missing one, because a typing error causes both; for a field that may have several
    types, the most deeply nested problem."""
    problems = error.errors()
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    field = _place(first)
    inside = [problem for problem in problems if _place(problem)[: len(field)] == field]
    return max(inside, key=lambda problem: len(_place(problem)))


def _place(problem: ErrorDetails) -> list[str]:
    """The path of the field, without the parts that pydantic adds for a field's possible types, such as ``list[any]``."""
    return [str(part) for part in problem["loc"] if not (isinstance(part, str) and _is_kind(part))]


def _is_kind(part: str) -> bool:
    return part.partition("[")[0] in KINDS and (part.endswith("]") or part.startswith("constrained-"))


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    """The first problem in one sentence."""
    problem = first_problem(error)
    path = _place(problem)
    name = ".".join(part if part.isprintable() else repr(part) for part in path)
    behind = len({tuple(_place(other)) for other in error.errors() if _place(other) != path[: len(_place(other))]})
    more = f" ({behind} more problem{'s' if behind > 1 else ''}.)" if behind else ""
    if problem["type"] == "extra_forbidden":
        owner = _part_at(kind, path[:-1])
        known = [field.alias or own for own, field in owner.model_fields.items()] if owner else []
        return f"{name} is not a field.{closest(path[-1], known)}{more}"
    if problem["type"] == "missing":
        return f"{name} is missing.{more}"
    if problem["type"] == "value_error":
        need = _need(problem).rstrip(".")
        end = "..." if need.endswith(", ") else "."  # a list that is cut short keeps its ellipsis
        return f"{name or kind.__name__}: {need}{end}{more}"
    shown = "" if isinstance(problem["input"], dict) else f", got {'nothing' if problem['input'] is None else repr(problem['input'])}"
    need = " or ".join(dict.fromkeys(_need(other) for other in error.errors() if _place(other) == path))
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        choices = [word.strip("'") for word in _need(problem).replace(" or ", ", ").split(", ")]
        return f"{name} must be {need}{shown}.{closest(problem['input'], choices)}{more}"
    return f"{name} must be {need}{shown}.{more}"


def _need(problem: ErrorDetails) -> str:
    """What a value must be, in YAML's terms."""
    if problem["type"] in ("too_short", "too_long"):
        least = problem["type"] == "too_short"
        count = problem["ctx"]["min_length" if least else "max_length"]
        return f"a list of at {'least' if least else 'most'} {count} {'entry' if count == 1 else 'entries'}"
    return WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")


def _part_at(kind: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """The model class that owns the fields at a path, through optional parts."""
    for name in path:
        if name.isdigit():  # an entry of a list
            continue
        field = kind.model_fields.get(name)
        if field is None:
            return None
        inside = part_in(field.annotation)
        if inside is None:
            return None
        kind = inside
    return kind


def of_each(value: Any) -> bool:
    """Whether a value holds settings of every entry of a list, and nothing else."""
    return isinstance(value, Mapping) and set(value) == {EACH} and isinstance(value[EACH], Mapping)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` updated by ``over``: mappings are merged recursively, lists and scalars are replaced. Settings under ``EACH`` are merged
    into every mapping of a list."""
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        if of_each(value) and isinstance(old, list):
            merged[name] = [merge(entry, value[EACH]) if isinstance(entry, Mapping) else entry for entry in old]
        elif isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = merge(merged[name], value)
        else:
            merged[name] = value
    return merged


def override(words: Sequence[str], *, where: str = "--set") -> dict[str, Any]:
    """``a.b=c`` options as a nested mapping; values are read as YAML (``[1, 2]``, ``true``, ``0.1``, ``text``)."""
    result: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name.strip():
            raise BadConfig(f"{where} {word}: write it as field.field=value.")
        result = merge(result, nested(name.strip(), _value(text, where=f"{where} {name}")))
    return result


def nested(path: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` for the path ``a.b``; raises BadConfig for a path with more parts than any field has."""
    if path.count(".") >= DEEPEST:
        raise BadConfig(f"{path[:40]}...: a field of {path.count('.') + 1} parts; no field has that many.")
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def _value(text: str, *, where: str) -> Any:
    try:
        value = yaml_value(text)
    except yaml.YAMLError as error:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise BadConfig(f"{where}: '{shown}' is not a YAML value ({yaml_problem(error)[1]}).") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value
