"""The fields of a configuration by their dotted paths, and what names call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import get_args

from svgbench.config.part import Part
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


def fields_of(kind: type[Part], start: str = "") -> Iterator[str]:
    """Dotted paths of all fields of a piece of configuration, through the pieces it holds, optional ones too."""
    for name, field in kind.model_fields.items():
        options = [field.annotation, *get_args(field.annotation)]
        parts = [option for option in options if isinstance(option, type) and issubclass(option, Part)]
        yield from fields_of(parts[0], f"{start}{name}.") if parts else [start + name]
