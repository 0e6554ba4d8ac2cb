"""Standard output carries the result: a rich table on a terminal, markdown where it is piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from svgbench.tables.table import Table


class Format(StrEnum):
    """How tables are written."""

    auto = "auto"
    markdown = "markdown"
    csv = "csv"
    json = "json"


def tables_of(tables: Iterable[Table], format: Format) -> None:
    """Prints tables: for people (auto), as markdown or as CSV; JSON is of records, not of tables."""
    for table in tables:
        if format is Format.csv:
            sys.stdout.write(table.csv())
        elif format is Format.markdown:
            sys.stdout.write(table.markdown() + "\n")
        else:
            table_of(table)


def table_of(table: Table) -> None:
    """Prints one table."""
    if not sys.stdout.isatty():
        sys.stdout.write(table.markdown() + "\n")
        return
    console = Console()
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold", header_style="bold")
    for i, column in enumerate(table.columns):
        drawn.add_column(escape(column), justify="right" if table.is_numeric(i) else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(f"[bold]{escape(c[2:-2])}[/bold]" if c.startswith("**") else escape(c) for c in row))
    console.print(drawn)
    for note in table.notes:
        console.print(escape(note), style="dim", highlight=False)
    console.print()
