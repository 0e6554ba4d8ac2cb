"""``plan``: the nodes that an experiment would run, and their cost. ``fields``: the fields of the configuration."""

from __future__ import annotations

import shutil
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svgbench.cli.completion import complete_experiments
from svgbench.cli.console import Format
from svgbench.cli.experiments import Data, Gpus, Limit, Out, Preset, Quick, Set, Shelf, planned, report_repeats
from svgbench.cli.output import Formatted, facts
from svgbench.cli.selection import trial
from svgbench.config.experiments import load_experiment
from svgbench.config.fields import FieldDoc, field_docs, fields_markdown
from svgbench.errors import BadData, BadWeights
from svgbench.lab.configs import DEFAULT_PRESET, configs_of, is_experiment
from svgbench.lab.finished import Finished
from svgbench.lab.plan import Plan, make_plan, resolve
from svgbench.lab.run_plan import gc_paused
from svgbench.lab.store import Store
from svgbench.tables.table import Table

NARROWEST = 40
"""Smallest width of text, for terminals that report fewer columns."""


def plan(
    experiment: Annotated[
        str,
        typer.Argument(help="An experiment, a YAML file, or an encoder (as in run --encoder).", autocompletion=complete_experiments),
    ],
    out: Out = Path("runs"),
    preset: Preset = DEFAULT_PRESET,
    data: Data = None,
    sets: Set = None,
    limit: Limit = None,
    quick: Quick = False,
    shelf: Shelf = None,
    gpus: Gpus = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="Show a row for every node; a plan of one run always does.")] = False,
    format: Formatted = Format.auto,
) -> None:
    """Show what would run, what exists, what runs share, and the time and disk it takes. Runs nothing, writes nothing. Without the images
    of a known data set, its published number of images is assumed."""
    from svgbench.lab.forecast.estimate import estimates
    from svgbench.lab.forecast.sizes import published
    from svgbench.lab.forecast.speed import GPUS, pace_of
    from svgbench.tables.plan_summary import content, summary_table
    from svgbench.tables.planned import LEFT_OUT, memory_notes, plan_table

    store, about = Store(out / "store"), load_experiment(experiment, shelf) if is_experiment(experiment, shelf) else None
    missing: list[str] = []
    words = trial(sets, limit, quick)
    try:
        plan_, *_ = planned(experiment, preset, words, shelf, data)
        costs = estimates(plan_, shelf)
    except (BadData, BadWeights) as error:
        plan_ = _assumed(experiment, preset, words, shelf, data)
        if isinstance(error, BadData) and not any(published(one.config.data.source) for one in plan_.runs):
            raise
        costs = estimates(plan_, shelf)
        missing = [f"this plan assumes what is not here: {error}"]
    finished = Finished(plan_, store)
    made = {key: manifest for key in plan_.nodes if not missing and (manifest := finished.manifest(key))}
    places = {GPUS.get(one.config.preset, 0) for one in plan_.runs}
    pace = pace_of(max(places) if gpus is None else gpus, store.root)
    title = f"Plan of {experiment}"
    notes = [*missing, *(f"{word}: {getattr(about, word)}" for word in ("asks", "compares", "costs") if about and getattr(about, word))]
    rows = plan_table(title if len(plan_.runs) == 1 else "Nodes", plan_, made, costs, pace)
    tables = [rows]
    if len(plan_.runs) > 1:
        short = summary_table(title, plan_, made, costs, pace)
        planned_ = [(plan_.nodes[key].stage, estimate) for key, estimate in costs.nodes.items() if key not in made]
        short.notes = [
            f"pace {pace.source}.",
            LEFT_OUT,
            *memory_notes(planned_, pace),
            *costs.notes,
            *notes,
            *([] if nodes else ["a row for every node: --nodes"]),
        ]
        tables = [short, rows] if nodes else [short]
    else:
        rows.notes += notes
    facts(tables, {"experiment": experiment, **content(plan_, made, costs, pace), "notes": notes}, format)


def _assumed(experiment: str, preset: str, sets: list[str], shelf: Path | None, data: str | None) -> Plan:
    """The plan of an experiment whose images or judges' weights are not here; its keys match no artifact."""
    with gc_paused():
        configs = configs_of(experiment, preset, sets, shelf, data=data, resolved=False)
        configs = {name: resolve(config, shelf, images=False) for name, config in configs.items()}
        return report_repeats(make_plan(configs, shelf, assumed=True))


def fields(
    path: Annotated[str, typer.Argument(help="A field or a part, such as sampling or diffusion.training; all when not given.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the whole reference page, as in docs/fields.md.")] = False,
    format: Formatted = Format.auto,
) -> None:
    """Print the fields of the configuration (--set FIELD=VALUE) with type, bounds, default and meaning."""
    if markdown:
        sys.stdout.write(fields_markdown())
        return
    docs = field_docs(path)
    if format is Format.auto:
        sys.stdout.write("".join(map(_field_text, docs)))
        return
    rows = [[doc.path, doc.type, doc.bounds or "-", doc.default, doc.meaning] for doc in docs]
    facts([Table("Fields", ["field", "type", "bounds", "default", "meaning"], rows)], [asdict(doc) for doc in docs], format)


def _field_text(doc: FieldDoc) -> str:
    """A field as text: its path, then its facts, indented and wrapped to the terminal's width."""
    width = max(NARROWEST, min(shutil.get_terminal_size().columns, 100))
    about = "; ".join([doc.type, *([doc.bounds] if doc.bounds else []), f"default {doc.default}"])
    lines = [line for text in (about, doc.meaning) for line in textwrap.wrap(text, width - 4, break_long_words=False)]
    return "\n    ".join([doc.path, *lines]) + "\n"
