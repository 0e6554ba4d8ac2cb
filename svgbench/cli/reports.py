"""``report``: the tables of what lies in an output directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from svgbench.cli.cells import configs_of, is_experiment
from svgbench.cli.console import Format, tables_of
from svgbench.errors import BadInput
from svgbench.tables.collect import collect
from svgbench.tables.report import report as report_of


def report(
    name: Annotated[str | None, typer.Argument(help="A run or an experiment; all runs when not given.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where runs are kept.")] = Path("runs"),
    format: Annotated[Format, typer.Option("--format", help="auto is a table on a terminal, markdown in a pipe.")] = Format.auto,
    preset: Annotated[str, typer.Option("--preset", help="The preset an experiment was run with.")] = "tiny",
) -> None:
    """Print the tables of finished runs: every number with its protocol, count and interval."""
    names = None
    if name is not None:
        found = {p.parent.name for p in out.glob("*/run.json")}
        if name in found:
            names = [name]
        elif is_experiment(name):
            names = [n for n in configs_of(name, preset, None, None) if n in found]
            if not names:
                raise BadInput(f"{out} holds no run of the experiment '{name}'; run: svgbench ablate {name}.")
        else:
            names = [name]  # collect() answers with the closest names
    show(out, names, format)


def show(out: Path, names: list[str] | None, format: Format = Format.auto) -> None:
    """Prints the tables of runs and the paths of their pictures."""
    records = collect(out, names)
    if format is Format.json:
        sys.stdout.write(json.dumps([row for record in records for row in record.scores], indent=1) + "\n")
        return
    tables = report_of(records)
    if not tables:
        raise BadInput(f"{out} holds no finished score yet; run something first, for example: svgbench run --encoder dinov3.")
    tables_of(tables, format)
    if format is Format.auto:
        for record in records[:12]:
            if (record.place / "overview.png").exists():
                sys.stdout.write(f"picture: {record.place / 'overview.png'}\n")
