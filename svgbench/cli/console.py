"""Standard output carries the result: a rich table on a terminal, markdown where it is piped; ``--to`` writes a file instead."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from rich.console import Console

from svgbench.errors import notify
from svgbench.machine.files import guarded, write_atomic
from svgbench.tables.latex import latex
from svgbench.tables.page import page
from svgbench.tables.table import Table
from svgbench.tables.terminal import draw


class Format(StrEnum):
    """How tables are written."""

    auto = "auto"
    markdown = "markdown"
    csv = "csv"
    json = "json"
    latex = "latex"
    html = "html"


SUFFIXES = {
    ".md": Format.markdown, ".csv": Format.csv, ".json": Format.json, ".tex": Format.latex, ".html": Format.html, ".htm": Format.html,
}  # fmt: skip
"""How a file of a name is written where no format is given."""


def format_of(to: Path | None, format: Format) -> Format:
    """The format that was given, else the one of the target's suffix."""
    return SUFFIXES.get(to.suffix.lower(), format) if to is not None and format is Format.auto else format


def tables_of(tables: Iterable[Table], format: Format) -> None:
    """Prints tables: for people (auto), or as text of a format; JSON is of records, not of tables."""
    tables = list(tables)
    if format is Format.auto and sys.stdout.isatty():
        for table in tables:
            draw(table, Console())
    else:
        sys.stdout.write(text_of(tables, format))


def table_of(table: Table) -> None:
    """Prints one table."""
    tables_of([table], Format.auto)


def text_of(tables: list[Table], format: Format) -> str:
    """Tables as text: markdown where nothing else is asked for."""
    if format is Format.csv:
        return "".join(table.csv(head=i == 0) for i, table in enumerate(tables))
    if format is Format.latex:
        return latex(tables)
    if format is Format.html:
        return page(tables, title=tables[0].title if tables else "svgbench")
    return "".join(table.markdown() + "\n" for table in tables)


def deliver(text: str, to: Path | None) -> None:
    """Writes a result to a file, whole or not at all, or to standard output."""
    if to is None:
        sys.stdout.write(text)
        return
    with guarded(to):
        write_atomic(to, text.encode())
    notify(f"written: {to}")
