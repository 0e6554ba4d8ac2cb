"""``experiments``: list the experiment files, show one, show the hyperparameters of its cells."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from svgbench.cli.console import Format
from svgbench.cli.output import Formatted, facts
from svgbench.config.experiments import cells, experiment_file, load_experiment, preset_of
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput, SvgbenchError, notify
from svgbench.lab.configs import DEFAULT_PRESET, cells_of, is_experiment
from svgbench.shelf import entries
from svgbench.tables.hyperparameters import hyperparameters
from svgbench.tables.labels import cell_labels
from svgbench.tables.table import Table

app = typer.Typer(invoke_without_command=True, help="Experiments: list them, or show one.")
Shelf = Annotated[Path | None, typer.Option("--shelf", metavar="DIR", help="A folder of your own encoder cards and experiments.")]


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_experiments()


@app.command("list")
def list_experiments(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of experiment files (*.yaml); the experiments of svgbench when not given.")
    ] = None,
    shelf: Shelf = None,
    format: Formatted = Format.auto,
) -> None:
    """List the experiments with their question, the table or figure of the paper that they reproduce, number of cells and base."""
    if folder is not None and not folder.is_dir():
        raise BadInput(f"{folder} is not a directory; give a folder of experiment files, or show one: svgbench experiments show FILE.")
    files = sorted(folder.glob("*.yaml")) if folder else sorted(entries("ablations", shelf).values())
    content = []
    for path in files:
        try:
            content.append(_about(str(path), shelf) | {"name": str(path) if folder else path.stem})
        except SvgbenchError as error:
            if folder is None:
                raise
            notify(f"left out: {error}")  # a folder may hold other YAML files
    rows = [[one["name"], str(one["cells"]), one["base"] or one["preset"] or "-", one["paper"] or "-", one["asks"]] for one in content]
    notes = ["run one: svgbench ablate NAME; what it costs: svgbench plan NAME; its file: svgbench experiments show NAME"]
    title = f"Experiments in {folder}" if folder else "Experiments"
    facts([Table(title, ["name", "cells", "base", "paper", "question"], rows, notes)], content, format)


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="An experiment's name, or a YAML file.")], shelf: Shelf = None) -> None:
    """Print one experiment file, after its path and the names of its cells."""
    path = experiment_file(name, shelf)
    names = [cell for cell in cells(load_experiment(name, shelf), shelf) if cell]
    head = [f"# {path}"] + ([f"# {len(names)} cells: {', '.join(names[:60])}{', ...' if len(names) > 60 else ''}"] if names else [])
    sys.stdout.write("\n".join([*head, path.read_text(encoding="utf-8").rstrip(), ""]))


@app.command("settings")
def settings(
    name: Annotated[str, typer.Argument(help="An experiment's name, a YAML file, or an encoder.")] = "recipes",
    preset: Annotated[str, typer.Option("--preset", metavar="PRESET", help="tiny, mini, small or paper.")] = DEFAULT_PRESET,
    data: Annotated[str | None, typer.Option("--data", metavar="PATH", help="The images.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Set a configuration field; repeatable.", metavar="FIELD=VALUE")] = None,
    shelf: Shelf = None,
    format: Formatted = Format.auto,
) -> None:
    """Print the hyperparameters of an experiment's cells side by side, in the groups of the paper's table 5; cells that differ only in the
    seed share a column."""
    labels = cell_labels(load_experiment(name, shelf)) if is_experiment(name, shelf) else {}
    configs: dict[str, RunConfig] = {}
    for cell, config in cells_of(name, preset, sets, shelf, data=data, resolved=False).values():
        configs.setdefault(labels.get(cell) or name, config)
    chosen = next(iter(configs.values())).preset
    table, content = hyperparameters(f"Hyperparameters of {name} at {chosen}", configs, shelf)
    facts([table], content, format)


def _about(name: str, shelf: Path | None) -> dict[str, Any]:
    loaded = load_experiment(name, shelf)
    return {
        "name": loaded.name, "asks": loaded.asks, "paper": loaded.paper, "compares": loaded.compares, "costs": loaded.costs,
        "base": loaded.base, "preset": preset_of(loaded, shelf), "cells": len(cells(loaded, shelf)), "axes": list(loaded.axes),
        "file": str(loaded.file),
    }  # fmt: skip
