"""The fields of a configuration by their dotted paths, and what names call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache

from pydantic import BaseModel

from svgbench.config.part import part_in
from svgbench.config.schema import RunConfig


def word_of(path: str) -> str:
    """What names call a field: its last word, and of the words before it as many as no other field shares (``sampling-shift``)."""
    words, counts = path.split("."), _endings()
    for start in reversed(range(len(words))):
        if counts[".".join(words[start:])] <= 1:
            break
    return "-".join(words[start:])


@cache
def _endings() -> Counter[str]:
    """How many of a configuration's fields end so."""
    every = [path.split(".") for path in fields_of(RunConfig)]
    return Counter(".".join(words[start:]) for words in every for start in range(len(words)))


def fields_of(kind: type[BaseModel], start: str = "") -> Iterator[str]:
    """Dotted paths of all fields of a piece of configuration, through the pieces it holds, optional ones too."""
    for name, field in kind.model_fields.items():
        inside = part_in(field.annotation)
        yield from fields_of(inside, f"{start}{name}.") if inside else [start + name]
