"""What can go wrong through the user's words, files or machine: each error is one sentence and one exit status, never a traceback.

A sentence is said with its foreign words made printable, to a standard error that may be closed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Self


class SvgbenchError(Exception):
    """A stage failed; the base of everything svgbench raises on purpose."""

    exit_status = 1


class BadInput(SvgbenchError):
    """The user's words or files are off."""

    exit_status = 2
    field = ""
    """Dotted path of the configuration's field it is about, where it is about one."""

    def about(self, field: str) -> Self:
        """The same error, with its field."""
        self.field = field
        return self


class UnknownName(BadInput):
    """A name that is not in a list of known names."""


class BadConfig(BadInput):
    """A configuration field that is unknown, of the wrong type or out of its bounds."""


class BadData(BadInput):
    """An image folder or store that cannot be used."""


class BadWeights(BadInput):
    """A weight file that is absent, of another shape or of another digest."""


class BrokenArtifact(SvgbenchError):
    """A finished artifact whose files are missing, truncated or changed."""

    exit_status = 2


class CellsFailed(SvgbenchError):
    """Some cells of a grid failed; the rest are done."""

    exit_status = 3


class Interrupted(SvgbenchError):
    """Stopped by a signal; the same command resumes."""

    exit_status = 4


class StorageError(SvgbenchError):
    """The disk is full, read-only or answers with an input/output error."""

    exit_status = 5


class NumericalError(SvgbenchError):
    """NaN or infinity past the skip budget."""

    exit_status = 6


class Occupied(SvgbenchError):
    """Another process owns this run."""

    exit_status = 7


def closest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest of the known names, then some of them: ``Did you mean 'x'? Known: a, b.``"""
    names = sorted(known)
    import difflib  # not before signals are heard

    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    offer = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listed = ", ".join(names[:24]) + (", ..." if len(names) > 24 else ".")
    return f"{offer} Known: {listed}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name nobody registered."""
    return UnknownName(f"no {kind} named '{name}'.{closest(name, known)}")


ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that move the cursor, start escape sequences, turn the direction of writing, end a line, or cannot be encoded."""
JOINERS = "\u200c\u200d"
"""Format characters that words and emoji are spelled with."""


def printable(text: object) -> str:
    """The text on one line: control and format characters, line ends and lone surrogates as ``\\n``, ``\\x1b``, ``\\u202e``."""
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in ESCAPED and letter not in JOINERS else letter
        for letter in str(text)
    )


def debugging() -> bool:
    """Whether tracebacks are asked for: ``--debug``, or SVGBENCH_DEBUG in the environment."""
    return os.environ.get("SVGBENCH_DEBUG", "").lower() in ("1", "true", "t", "yes", "y", "on")


def say(sentence: object) -> None:
    """One line to the user on standard error; where that is closed, full or gone, the work goes on without it."""
    write(printable(sentence) + "\n")


def write(text: str) -> None:
    """Text to standard error as it is, where that takes it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: there is no standard error
        sys.stderr.write(text)
        sys.stderr.flush()


@cache
def say_once(sentence: str) -> None:
    """A line on standard error, the first time in this process: what was chosen where nothing was asked for."""
    say(sentence)
