"""``report``: prints tables of the runs in an output directory."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from svgbench.cli.console import Format, deliver, format_of, tables_of, text_of
from svgbench.cli.output import records as rows_of
from svgbench.cli.selection import Data, Limit, Named, Preset, Quick, Set, Shelf, directory
from svgbench.config.experiments import Experiment, experiment_at, preset_of
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput, notify, printable, unknown
from svgbench.lab.configs import DEFAULT_PRESET
from svgbench.lab.contrasts import declared
from svgbench.lab.costs import read_costs
from svgbench.lab.diagnosis import diagnosed
from svgbench.lab.store import Store
from svgbench.machine.files import regular
from svgbench.metrics.latent_figures import FIGURES
from svgbench.tables import predictors, reviewers
from svgbench.tables.collect import RunRecord, collect, group_name, without_digests
from svgbench.tables.contrasts import contrast_table
from svgbench.tables.costs import LAYOUT, cost_tables
from svgbench.tables.judge_notes import note_judges, noted_scores
from svgbench.tables.labels import labelled
from svgbench.tables.layouts import Layout, contested, layouts_of, load_layout
from svgbench.tables.one_function import note_one_function
from svgbench.tables.page import report_page
from svgbench.tables.paper_tables import paper_tables
from svgbench.tables.pretrainings import note_pretrainings, note_shared_autoencoders
from svgbench.tables.published import published
from svgbench.tables.report import closing
from svgbench.tables.report import report as report_of
from svgbench.tables.table import Table


def report(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A run, an experiment, reviewers (the paper's public reviews), or predictors (what predicts gFID). Default: all."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", callback=directory, help="The output directory of the runs.")] = Path("runs"),
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="auto (the suffix of --to, else a table on a terminal and markdown in a pipe), markdown, csv, json, latex or html.",
        ),
    ] = Format.auto,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout", metavar="NAME", help="A table layout: a name (reports/table-NAME.yaml) or a file. Default: the experiment's."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="ROW", help="Add a table of every other row's difference from this row, paired by seed."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="Write this file instead of standard output; its suffix (.md, .csv, .json, .tex, .html) chooses the format.",
        ),
    ] = None,
    preset: Preset = DEFAULT_PRESET,
    data: Data = None,
    sets: Set = None,
    limit: Limit = None,
    quick: Quick = False,
    shelf: Shelf = None,
) -> None:
    """Print tables of finished runs. Every number has its protocol, sample count and interval; an experiment is shown in the layout of its
    paper."""
    names, grid, experiment, cells, labels = None, None, None, None, None
    format = format_of(to, format)
    if name is not None:
        named = Named(out, preset, sets, limit, shelf, data, quick)
        if name in (reviewers.NAME, predictors.NAME) and not (name in named.known() or named.is_experiment(name)):
            if layout or against:
                raise BadInput(f"'{name}' has tables of its own; leave out --layout and --against.")
            if name == predictors.NAME:
                tables = _predictors(out)
                content = [{"table": table.title, **row} for table in tables for row in rows_of(table)]
            else:
                tables = _reviewers(named)
                content = rows_of(tables[0])
            _deliver_all(tables, content, format, to)
            return
        if named.is_experiment(name):
            (names, wanted), grid, experiment = named.runs(name), name, experiment_at(name, preset, shelf)
            cells, labels = named.cells(name), named.labels(name)
            if len(names) < wanted:
                notify(f"{len(names)} of the {wanted} runs of '{name}' are in {out}; to run the rest: {named.command(name)}")
        else:
            names = named.of_name(name)
    layouts = [load_layout(layout)] if layout else None
    if layouts and layouts[0].of_costs:
        if name is not None:
            raise BadInput(f"the layout '{layouts[0].name}' shows the results of 'svgbench cost', not of runs; leave out '{name}'.")
        _deliver_all(cost_tables(out, layouts[0], against=against), [*read_costs(out).values()], format, to)
        return
    show(
        out, names, format, grid=grid, experiment=experiment, layouts=layouts, against=against, to=to, cells=cells, labels=labels
    )  # fmt: skip


def show(
    out: Path,
    names: list[str] | None,
    format: Format = Format.auto,
    *,
    grid: str | None = None,
    experiment: Experiment | None = None,
    layouts: list[Layout] | None = None,
    against: str | None = None,
    to: Path | None = None,
    cells: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    recorded: Mapping[str, RunConfig] | None = None,
) -> None:
    """Prints the tables of runs and the paths of their pictures, in the given layouts or in those of the experiment, if it has any.
    ``experiment``: the file, for its question and its contrasts. ``cells``: name of a run -> its cell. ``labels``: name of a run -> the
    values of its axes, which name the rows except in CSV and JSON. ``against``: name, label or cell of the row with which others are
    compared. ``recorded``: configurations of runs whose records the same command has just written or checked."""
    if to is not None:
        regular(to, instead="give the path of a file, or leave out --to")
    records = collect(out, names, recorded=recorded)
    if unchecked := without_digests(records):
        notify(unchecked)
    if format not in (Format.csv, Format.json):
        records = labelled(records, labels or {})
    against = against and _row(against, records, cells or {}, labels or {})
    if format is Format.json:
        deliver(json.dumps([row for record in records for row in noted_scores(record)], indent=1) + "\n", to)
        return
    contrasts = compared(experiment, records, cells or {}, out) if experiment is not None else []
    tables = tables_for(records, layouts_of(grid) if layouts is None and grid else layouts or [], against, contrasts)
    if not tables:
        raise BadInput(f"{out} holds no finished score yet; run something first, for example: svgbench run --encoder dinov3.")
    if format is Format.html:
        title = f"svgbench: {(grid or '').removesuffix('.yaml').rpartition('/')[2] or ', '.join((names or [])[:3]) or out.name}"
        deliver(report_page(tables, records, out, title=title, asks=experiment.asks if experiment else ""), to)
    elif to is not None:
        deliver(text_of(tables, format), to)
    else:
        tables_of(tables, format)
    if format is Format.auto and to is None:
        for record in records[:12]:
            if (record.place / "overview.png").exists():
                sys.stdout.write(f"picture: {printable(record.place / 'overview.png')}\n")


def _reviewers(named: Named) -> list[Table]:
    """The questions of the paper's reviews, and the tables that answer them."""
    return reviewers.reviewers_tables(partial(_done, named), partial(_costs_done, named.out))


def _predictors(out: Path) -> list[Table]:
    """The rank correlations of all runs. Raises BadInput if too few tokenizers have a gFID."""
    records = collect(out)
    tables = predictors.predictor_tables(records, _cards(records, out))
    if not tables:
        raise BadInput(
            f"{out} holds no gFIDs of {predictors.FEWEST} tokenizers under one protocol, which a rank correlation needs; "
            "run an experiment such as encoders."
        )
    return tables


def _cards(records: list[RunRecord], out: Path) -> dict[str, dict[str, float]]:
    """Title of each figure of the runs' diffusability cards -> row -> its mean over seeds."""
    runs = {}
    for record in records:
        with contextlib.suppress(ValidationError):  # a configuration of another version has no card
            runs[record.name] = RunConfig.model_validate(record.config()), record.about["stages"]
    values: dict[str, dict[str, list[float]]] = {}
    rows = {record.name: record.row for record in records}
    for name, figures in diagnosed(runs, Store(out / "store")).items():
        for one in FIGURES:
            if one.name in figures:
                values.setdefault(one.title, {}).setdefault(rows[name], []).append(figures[one.name])
    return {title: {row: mean(several) for row, several in by_row.items()} for title, by_row in values.items()}


def _done(named: Named, experiment: str) -> reviewers.Done:
    """The finished runs of an experiment, and their tables in its layouts."""
    loaded = experiment_at(experiment, named.preset, named.shelf)
    fixed = preset_of(loaded, named.shelf)
    here = replace(named, preset=DEFAULT_PRESET) if fixed else named  # its base is a preset
    cells, known = here.cells(experiment), named.known()
    names = [name for name in cells if name in known]
    if not names:
        return reviewers.Done(reviewers.NOT_RUN, [])
    found = labelled(collect(here.out, names), here.labels(experiment))
    tables = tables_for(found, layouts_of(experiment), contrasts=compared(loaded, found, cells, here.out))
    return reviewers.Done(f"{len(names)} of {len(cells)} runs", tables)


def _costs_done(out: Path) -> reviewers.Done:
    """The measured costs, if there are any."""
    count = len(read_costs(out))
    tables = cost_tables(out, load_layout(LAYOUT)) if count else []
    return reviewers.Done(f"{count} measured" if count else reviewers.NOT_RUN, tables)


def _deliver_all(tables: list[Table], content: Any, format: Format, to: Path | None) -> None:
    """Prints or writes tables, or their ``content`` as JSON."""
    if to is not None:
        regular(to, instead="give the path of a file, or leave out --to")
    if format is Format.json:
        deliver(json.dumps(content, indent=1, ensure_ascii=False) + "\n", to)
    elif to is not None:
        deliver(text_of(tables, format), to)
    else:
        tables_of(tables, format)


def _row(name: str, records: list[RunRecord], cells: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """The row with this name, label or cell, or the only row of this family. Raises UnknownName, with the closest names, if none exists."""
    rows = {record.row: record.about["family"] for record in records}
    known = {family: row for row, family in rows.items() if list(rows.values()).count(family) == 1}
    for names in (cells, labels, {record.name: record.name for record in records}):
        known |= {group_name(names[record.name]): record.row for record in records if names.get(record.name)}
    known |= {row: row for row in rows}
    if name not in known:
        raise unknown("row", name, known)
    return known[name]


def compared(experiment: Experiment, records: list[RunRecord], cells: Mapping[str, str], out: Path) -> list[Table]:
    """The table of an experiment's contrasts, if it declares any."""
    if not experiment.contrasts:
        return []
    return [contrast_table(experiment.contrasts, records, cells, declared(out, experiment))]


def tables_for(records: list[RunRecord], layouts: list[Layout], against: str | None = None, contrasts: Sequence[Table] = ()) -> list[Table]:
    """The tables of these runs in these layouts, or the general tables if there are no layouts; with differences from a row, and the tables
    of ``contrasts`` before those of costs and failures."""
    if layouts:
        rows, facts = published(), contested()
        tables = [table for layout in layouts for table in paper_tables(layout, records, rows, facts, against=against)]
        tables += [*contrasts, *closing(records)]
    else:
        tables = report_of(records, against=against, contrasts=contrasts)
    note_judges(tables, records)
    note_pretrainings(tables, records)
    note_shared_autoencoders(tables, records)
    note_one_function(tables, records)
    return tables
