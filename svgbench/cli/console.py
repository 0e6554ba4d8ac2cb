"""Writes results to standard output, as rich tables on a terminal and as Markdown in a pipe, or with ``--to`` to a file."""

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
"""Suffix of a file name -> the format that it implies."""


def format_of(to: Path | None, format: Format) -> Format:
    """The given format; for auto, that of the target's suffix."""
    return SUFFIXES.get(to.suffix.lower(), format) if to is not None and format is Format.auto else format


def tables_of(tables: Iterable[Table], format: Format) -> None:
    """Prints tables: drawn on a terminal (auto), else as text of a format other than JSON, which holds records instead of tables."""
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
    """Tables as CSV, LaTeX or HTML; as Markdown for any other format."""
    if format is Format.csv:
        return "".join(table.csv(head=i == 0) for i, table in enumerate(tables))
    if format is Format.latex:
        return latex(tables)
    if format is Format.html:
        return page(tables, title=tables[0].title if tables else "svgbench")
    return "".join(table.markdown() + "\n" for table in tables)


def deliver(text: str, to: Path | None) -> None:
    """Writes a result to standard output, or atomically to a file."""
    if to is None:
        sys.stdout.write(text)
        return
    with guarded(to):
        write_atomic(to, text.encode())
    notify(f"written: {to}")
