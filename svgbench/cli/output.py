"""The option ``--format`` of commands that print one table of facts."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from svgbench.cli.console import Format, tables_of
from svgbench.tables.table import Table

Formatted = Annotated[
    Format,
    typer.Option(
        "--format", metavar="FORMAT", help="auto (a table on a terminal, markdown in a pipe), markdown, csv, json, latex or html."
    ),
]


def facts(tables: list[Table], content: Any, format: Format) -> None:
    """Prints tables in a format, or their ``content`` as JSON."""
    if format is Format.json:
        sys.stdout.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    else:
        tables_of(tables, format)


def records(table: Table) -> list[dict[str, str]]:
    """The rows of a table as JSON objects."""
    return [dict(zip(table.columns, map(str, row), strict=True)) for row in table.rows]
