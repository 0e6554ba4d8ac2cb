"""A table as text: columns, rows, notes; as markdown or CSV. LaTeX, HTML and the terminal's rendering are others'."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from typing import Literal

NUMBER = re.compile(r"[-*≤≥≈>< ]*\d[\d,.]*( ?[%×A-Za-z±([/].*)?$")
INSTEAD = re.compile(r"$|(-|failed|not reached|undetermined|other protocol|baseline: not reached|no seed)( |$)")
"""What may stand in a number's place."""


class Cell(str):
    """The text of a cell with what a rendering may add to it."""

    place: int
    """1 for the best of its column, 2 for the second best, 0 for all others."""
    value: float | None
    """What the text rounds: the number to sort by."""
    hint: str
    """What a reader may want to know of this one number: its protocol, its count."""

    def __new__(cls, text: str, *, place: int = 0, value: float | None = None, hint: str = "") -> Cell:
        cell = super().__new__(cls, text)
        cell.place, cell.value, cell.hint = place, value, hint
        return cell


def place_of(text: str) -> int:
    """The place of a cell in its column, 0 for plain text."""
    return text.place if isinstance(text, Cell) else 0


@dataclass
class Table:
    """Strings in rows under named columns, with notes below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    """Plain strings or cells."""
    notes: list[str] = field(default_factory=list)
    kind: Literal["measured", "published", "ratios", "cost"] = "measured"
    """Where its numbers come from: scores measured here, what others printed, what was computed from measured curves, what runs cost."""

    def is_numeric(self, column: int) -> bool:
        """Whether a column's cells are numbers (or dashes, or what stands in a number's place), which stand to the right."""
        texts = [row[column] for row in self.rows]
        numbers = [text for text in texts if NUMBER.match(text)]
        return bool(texts) and all(text in numbers or INSTEAD.match(text) for text in texts) and (bool(numbers) or "" not in texts)

    def markdown(self) -> str:
        """A GitHub table, padded so that it reads in a terminal too; the best of a column in bold, the second best in italics."""
        marks = {0: "", 1: "**", 2: "*"}
        cells = [self.columns, *([f"{marks[place_of(c)]}{c}{marks[place_of(c)]}" for c in row] for row in self.rows)]
        cells = [[c.replace("|", "\\|") for c in row] for row in cells]
        widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(self.columns))]
        line = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
        rule = "|" + "|".join("-" * (w + 1) + (":" if self.is_numeric(i) else "-") for i, w in enumerate(widths)) + "|"
        text = [f"### {self.title}", "", line[0], rule, *line[1:]]
        if self.notes:
            text += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(text) + "\n"

    def csv(self) -> str:
        """The rows as CSV, without notes."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["table", *self.columns])
        writer.writerows([self.title, *row] for row in self.rows)
        return stream.getvalue()
