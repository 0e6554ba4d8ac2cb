"""Lettered footnotes of a table: one letter for each text, in the order in which they are first needed."""

from __future__ import annotations

import string

LETTERS = string.ascii_lowercase.replace("x", "")
"""Without x, because ``- [x]`` is a ticked box in GitHub's Markdown."""


class Footnotes:
    """The footnotes of one table."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        """The mark of a footnote, such as ``[a]``."""
        if text not in self._texts:
            self._texts.append(text)
        return f"[{_letters(self._texts.index(text))}]"

    def notes(self) -> list[str]:
        """The footnotes, each after its mark."""
        return [f"[{_letters(i)}] {text}" for i, text in enumerate(self._texts)]


def _letters(number: int) -> str:
    """a to z, then aa, ab, ..."""
    high, low = divmod(number, len(LETTERS))
    return (_letters(high - 1) if high else "") + LETTERS[low]
