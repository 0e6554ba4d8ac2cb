"""Errors of the user's input, files or machine: each has a one-sentence message and an exit status, and shows no traceback.

Messages go to standard error, which may be closed, with control characters escaped.
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
    """Base class of all errors that svgbench raises on purpose; raised itself when a stage fails."""

    exit_status = 1


class BadInput(SvgbenchError):
    """A command line, configuration or user file that cannot be used."""

    exit_status = 2
    field = ""
    """Dotted path of the configuration field that is wrong; empty if it is none."""

    def about(self, field: str) -> Self:
        """Sets the field and returns the error."""
        self.field = field
        return self


class UnknownName(BadInput):
    """A name that is not in a list of known names."""


class BadConfig(BadInput):
    """A configuration field that is unknown, of the wrong type or out of its bounds."""


class BadData(BadInput):
    """An image folder or store that cannot be used."""


class BadWeights(BadInput):
    """A weights file that is missing, or has another shape or digest."""


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
    """The disk is full, read-only or has an input/output error."""

    exit_status = 5


class NumericalError(SvgbenchError):
    """NaN or infinity in more updates than may be skipped."""

    exit_status = 6


class Occupied(SvgbenchError):
    """Another process works on this run or node."""

    exit_status = 7


def closest(name: str, known: Iterable[str]) -> str:
    """A sentence with the closest known names, then some of the others: ``Did you mean 'x'? Known: a, b.``; `` There is none.`` if none is
    known."""
    names = sorted(known)
    if not names:
        return " There is none."
    import difflib  # imported late, so that signal handlers are set first

    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    offer = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listed = ", ".join(names[:24]) + (", ..." if len(names) > 24 else ".")
    return f"{offer} Known: {listed}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for an unknown ``name`` of a ``kind`` (such as "encoder"), with the closest known names."""
    return UnknownName(f"no {kind} named '{name}'.{closest(name, known)}")


ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that move the cursor, start escape sequences, change the direction of text, end a line, or cannot be encoded."""
JOINERS = "\u200c\u200d"
"""Format characters that are part of words and emoji."""


def printable(text: object) -> str:
    """The text on one line: control and format characters, line ends and lone surrogates are escaped (``\\n``, ``\\x1b``, ``\\u202e``)."""
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in ESCAPED and letter not in JOINERS else letter
        for letter in str(text)
    )


def debugging() -> bool:
    """Whether tracebacks are shown: ``--debug``, or SVGBENCH_DEBUG in the environment."""
    return os.environ.get("SVGBENCH_DEBUG", "").lower() in ("1", "true", "t", "yes", "y", "on")


def notify(sentence: object) -> None:
    """Writes one line to standard error; a closed or full standard error is ignored."""
    write(printable(sentence) + "\n")


def write(text: str) -> None:
    """Writes text to standard error unchanged; a closed or full standard error is ignored."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: there is no standard error
        sys.stderr.write(text)
        sys.stderr.flush()


@cache
def notify_once(sentence: str) -> None:
    """Writes a line to standard error, such as a default that was chosen, but each line only once per process."""
    notify(sentence)
