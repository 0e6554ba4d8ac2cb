"""A table of text: columns, rows, notes; written as Markdown or CSV. Other modules write LaTeX, HTML and terminal output."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from svgbench.errors import printable

NUMBER = re.compile(r"[-+*≤≥≈>< ]*\d[\d,.]*( ?[%×A-Za-z±([/].*)?$")
INSTEAD = re.compile(r"$|(-|failed|not reached|not measured|undetermined|other protocol|baseline: not reached|no seed)( |$)")
"""Texts that may replace a number."""
MARK = re.compile(r"\[(?:[a-z]{1,2}|\d+)\]")
"""The mark of a footnote."""
AROUND = re.compile(r"\((-?[\d.]+(?:e[+-]?\d+)?), (-?[\d.]+(?:e[+-]?\d+)?)\)")
"""An interval after its number."""
FACTS = ("metric", "low", "high", "count", "protocol", "source")
LINES = ("table", "row", "run", "column", "metric", "text", "value", *FACTS[1:], "note")
"""The columns of the CSV, with one number per line; ``metric`` has the same name in JSON."""


class Cell(str):
    """The text of a cell, with data that renderings may use."""

    place: int
    """Rank: 1 for the best of its column and its ties, 2 for the best of the others and its ties, 0 for the rest."""
    value: float | None
    """The unrounded number, for sorting."""
    hint: str
    """Tooltip with details of the number, such as its protocol and count."""
    facts: dict[str, Any]
    """The ``FACTS`` that are known; CSV has a column for each."""

    def __new__(cls, text: str, *, place: int = 0, value: float | None = None, hint: str = "", **facts: Any) -> Cell:
        cell = super().__new__(cls, text)
        cell.place, cell.value, cell.hint, cell.facts = place, value, hint, facts
        return cell

    def marked(self, mark: str) -> Cell:
        """The same cell with a footnote's mark after its text."""
        return Cell(f"{self} {mark}", place=self.place, value=self.value, hint=self.hint, **self.facts)


def place_of(text: str) -> int:
    """The rank of a cell in its column, 0 for plain text."""
    return text.place if isinstance(text, Cell) else 0


@dataclass
class Table:
    """Strings in rows under named columns, with notes below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    """Plain strings or cells."""
    notes: list[str] = field(default_factory=list)
    kind: Literal["measured", "differences", "contrasts", "published", "ratios", "cost"] = "measured"
    """The source of its numbers: scores measured here, their differences, declared contrasts, published numbers, ratios computed from
    measured curves, or costs."""
    keys: int = 1
    """The leading columns that name a row; a rendering in several groups of columns repeats them."""

    def plain(self) -> Table:
        """The same table with every text on one line and without control characters, which names of files and classes may contain."""
        rows = [[_clean(text) for text in row] for row in self.rows]
        return replace(self, title=_clean(self.title), columns=[*map(_clean, self.columns)], rows=rows, notes=[*map(_clean, self.notes)])

    def is_numeric(self, column: int) -> bool:
        """Whether a column's cells are numbers (or dashes, or texts in a number's place), which are aligned to the right."""
        texts = [row[column] for row in self.rows]
        numbers = [text for text in texts if NUMBER.match(text)]
        return bool(texts) and all(text in numbers or INSTEAD.match(text) for text in texts) and (bool(numbers) or "" not in texts)

    def markdown(self) -> str:
        """A GitHub table, padded to be readable in a terminal; the best of a column in bold, the second best in italics."""
        table, marks = self.plain(), {0: "", 1: "**", 2: "*"}
        cells = [table.columns, *([f"{marks[place_of(c)]}{c}{marks[place_of(c)]}" for c in row] for row in table.rows)]
        cells = [[_in_a_row(c) for c in row] for row in cells]
        widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(self.columns))]
        line = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
        rule = "|" + "|".join("-" * (w + 1) + (":" if self.is_numeric(i) else "-") for i, w in enumerate(widths)) + "|"
        text = [f"### {_plain(table.title)}", "", line[0], rule, *line[1:]]
        if table.notes:
            text += ["", *(f"- {_plain(note)}" for note in table.notes)]
        return "\n".join(text) + "\n"

    def csv(self, *, head: bool = True) -> str:
        """One line for each cell after the first of its row, with its facts, then one for each note of the table as a whole."""
        table, stream = self.plain(), io.StringIO()
        writer = csv.DictWriter(stream, LINES, lineterminator="\n", restval="")
        if head:
            writer.writeheader()
        notes = {match[0]: note.removeprefix(match[0]).strip() for note in table.notes if (match := MARK.match(note))}
        for number, row in enumerate(table.rows, 1):
            for column in range(1, len(row)):
                head_fields = {"table": table.title, "row": number, "run": MARK.sub("", row[0]).strip()}
                writer.writerow(head_fields | table._line(row[column], column, notes))
        writer.writerows({"table": table.title, "note": note} for note in table.notes if not MARK.match(note))
        return stream.getvalue()

    def _line(self, text: str, column: int, notes: dict[str, str]) -> dict[str, Any]:
        """The CSV fields of a cell; footnote marks in its text and its column's title are replaced by their notes."""
        title, plain = self.columns[column], MARK.sub("", text).strip()
        facts = text.facts if isinstance(text, Cell) else {}
        value = text.value if isinstance(text, Cell) else leading(plain) if self.is_numeric(column) else None
        around = AROUND.search(plain)
        interval = {"low": around[1], "high": around[2]} if around and value is not None else {}
        marks = [*MARK.findall(text), *([] if "protocol" in facts else MARK.findall(title))]
        note = "; ".join(notes.get(mark, mark) for mark in marks)
        return {"column": MARK.sub("", title).strip(), "text": plain, "value": value, **interval, **facts, "note": note}


def _clean(text: str) -> str:
    """Text of a table on one line and without control characters; a cell stays a cell."""
    if isinstance(text, Cell):
        facts = {name: _clean(fact) if isinstance(fact, str) else fact for name, fact in text.facts.items()}
        return Cell(_clean(str(text)), place=text.place, value=text.value, hint=_clean(text.hint), **facts)
    return text if text.isprintable() else printable(" ".join(text.splitlines()))


def _in_a_row(text: str) -> str:
    """A cell's text in a row of Markdown: on one line, with ``|`` and the start of tags escaped."""
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Markdown text on one line, with the start of tags escaped."""
    return re.sub(r"<(?=[\w/!?])", r"\\<", " ".join(text.splitlines()))


def what_and_how(title: str) -> tuple[str, str]:
    """A column's title up to its first comma, and the rest; commas inside brackets, as in ``SSIM [-1, 1]``, do not count."""
    what, *how = re.split(r", (?![^\[]*\])", title, maxsplit=1)
    return what, "".join(how)


def leading(text: str) -> float | None:
    """The number that a text starts with."""
    match = re.match(r"[≤≥≈>< ]*(-?[\d,]+(?:\.\d+)?)", text)
    return float(match[1].replace(",", "")) if match else None
