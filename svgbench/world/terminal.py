"""Text for the user: foreign words made printable, lines on standard error that no closed pipe turns into a failure. No torch."""

from __future__ import annotations

import contextlib
import sys
import unicodedata

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


def say(sentence: object) -> None:
    """One line to the user on standard error; where that is closed, full or gone, the work goes on without it."""
    write(printable(sentence) + "\n")


def write(text: str) -> None:
    """Text to standard error as it is, where that takes it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: there is no standard error
        sys.stderr.write(text)
        sys.stderr.flush()
