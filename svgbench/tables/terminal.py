"""A table on a terminal: columns that do not fit side by side are printed in groups, and only words longer than a line are broken."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from svgbench.tables.table import Table, place_of

FRAME = 3
"""Characters that a column's border and padding take."""
TEXT, WORD = 28, 36
"""Smallest width in characters of a column of text, and the largest to which a long word raises this minimum."""
LEAST = 8
"""Width in characters of the narrowest column."""
STYLES = {0: "", 1: "bold", 2: "underline"}
AFTER = re.compile(r"(?<=[-._/,:=@])")
"""Positions at which a word longer than a line may be broken."""


class SizedColumn(NamedTuple):
    """A column of a table and its width."""

    place: int
    width: int


def column_groups(table: Table, width: int) -> list[list[SizedColumn]]:
    """The table's columns in groups of at most ``width`` characters; each group begins with the table's ``keys`` leading columns."""
    least, whole = zip(*(_widths(table, i) for i in range(len(table.columns))), strict=True)
    keys = [SizedColumn(i, min(least[i], max(LEAST, width // 2 // table.keys - FRAME))) for i in range(min(table.keys, len(table.columns)))]
    room = width - 1 - sum(key.width + FRAME for key in keys)
    groups: list[list[SizedColumn]] = [[]]
    for i in range(len(keys), len(table.columns)):
        column = SizedColumn(i, min(least[i], max(LEAST, room - FRAME)))
        if groups[-1] and sum(c.width + FRAME for c in [*groups[-1], column]) > room:
            groups.append([])
        groups[-1].append(column)
    return [_widened([*keys, *group], whole, width) for group in groups]


def _widened(columns: list[SizedColumn], whole: tuple[int, ...], width: int) -> list[SizedColumn]:
    """The columns, widened by the unused characters up to their longest texts."""
    left = width - 1 - sum(column.width + FRAME for column in columns)
    wide = []
    for column in columns:
        more = max(0, min(left, whole[column.place] - column.width))
        left -= more
        wide.append(SizedColumn(column.place, column.width + more))
    return wide


def _widths(table: Table, column: int) -> tuple[int, int]:
    """The width in characters that a column needs, and that of its longest text. Titles wrap between words, numbers do not."""
    texts = [row[column] for row in table.rows]
    title = max(map(len, table.columns[column].split()), default=0)
    whole = max([title, *map(len, texts)])
    if table.is_numeric(column):
        return whole, whole
    words = max((len(word) for text in texts for word in text.split()), default=0)
    return max(title, min(whole, max(TEXT, min(words, WORD)))), max(whole, len(table.columns[column]))


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, broken between words. Words longer than a line are broken after punctuation, or between letters without it."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
            continue
        pieces = [word] if len(word) <= width else [part for piece in AFTER.split(word) for part in _cut(piece, width)]
        lines[-1] += " " if lines[-1] else ""
        for piece in pieces:
            if len(lines[-1]) + len(piece) > width and lines[-1]:
                lines[-1] = lines[-1].rstrip()
                lines.append("")
            lines[-1] += piece
    return lines


def _cut(piece: str, width: int) -> list[str]:
    return [piece[start : start + width] for start in range(0, len(piece), width)]


def draw(table: Table, console: Console) -> None:
    """Prints a table, its groups of columns one below the other, then its notes."""
    table = table.plain()
    for number, columns in enumerate(column_groups(table, console.width)):
        if number == 0:
            console.print(Text("\n".join(wrapped(table.title, console.width)), style="bold"))
        drawn = RichTable(header_style="bold")
        for column, width in columns:
            side: Literal["right", "left"] = "right" if table.is_numeric(column) else "left"
            drawn.add_column(Text("\n".join(wrapped(table.columns[column], width))), justify=side, width=width, no_wrap=True)
        for row in table.rows:
            drawn.add_row(*(Text("\n".join(wrapped(row[i], width)), style=STYLES[place_of(row[i])]) for i, width in columns))
        console.print(drawn)
    for note in table.notes:
        console.print(Text("\n".join(wrapped(note, console.width))), style="dim")
    console.print()
