"""``figures``: draws finished runs; missing measurements for a figure are made once and kept in the store."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from svgbench.cli.console import table_of
from svgbench.cli.selection import Data, Limit, Named, Preset, Quick, Set, Shelf, directory
from svgbench.cli.view import DISPLAY
from svgbench.errors import BadInput, notify
from svgbench.lab.configs import DEFAULT_PRESET
from svgbench.lab.diagnosis import diagnosis_plan, lacking, without_velocity
from svgbench.lab.run_plan import complete
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench
from svgbench.tables.collect import collect, without_digests
from svgbench.tables.labels import labelled
from svgbench.tables.table import Table

PICTURED = 12
"""Largest number of tokenizers with pictures; a page has no room for more rows."""


def figures(
    names: Annotated[list[str] | None, typer.Argument(help="Runs or experiments. Default: all runs.", metavar="[NAME]...")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", callback=directory, help="The output directory of the runs.")] = Path("runs"),
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Draw this figure alone; repeat it for several. Default: all.", metavar="FIGURE")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="The folder for the figures. Default: OUT/figures.")] = None,
    preset: Preset = DEFAULT_PRESET,
    data: Data = None,
    sets: Set = None,
    limit: Limit = None,
    quick: Quick = False,
    shelf: Shelf = None,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="CPU threads. Default: PyTorch's choice.", min=1)] = None,
) -> None:
    """Draw finished runs: curves, reconstructions, samples, t-SNE, velocities, interpolation, edits, feature maps; as PNG, SVG and CSV."""
    if to is not None and to.exists() and not to.is_dir():
        raise BadInput(f"--to {to} is not a directory, and figures are several files; give a directory.")
    absent = [package for package, module in (("matplotlib",) * 2, ("scikit-learn", "sklearn")) if importlib.util.find_spec(module) is None]
    if absent:
        raise BadInput(f"figures need {' and '.join(absent)}; install them: pip install 'svgbench[figures]'.")
    from svgbench.tables.figures.draw import DRAWINGS, chosen, draw, needed
    from svgbench.tables.figures.sources import of_one_set, tokenizers

    wanted = chosen(only or None)
    if all(DRAWINGS[name].of == "nothing" for name in wanted):
        return _show(*draw([], [], to or out / "figures", wanted), to or out / "figures")
    store = Store(out / "store")
    named = Named(out, preset, sets, limit, shelf, data, quick)
    runs, asked_for = _chosen(names or [], named)
    records = labelled(collect(out, runs), _labels(names or [], named))
    candidates = tokenizers(records, store)
    if not candidates:
        raise BadInput(f"{out} holds no run; run something first, for example: svgbench run --encoder dinov3.")
    whole = []
    for one in candidates:
        without = without_velocity(one.first.name, one.config)
        reason = without or lacking(one.first.name, one.first.about["stages"], store)
        if reason and not without and (one.first.name in asked_for or len(candidates) == 1):
            raise BadInput(reason)
        if reason:
            notify(f"only curves are drawn of it: {reason}")
        else:
            whole.append(one)
    if len(whole) > PICTURED:
        notify(f"pictures show only the first {PICTURED} of {len(whole)} tokenizers; name runs to choose others.")
    of_one_set(whole)
    if unchecked := without_digests(records):
        notify(unchecked)
    pictured = _diagnosed(whole[:PICTURED], store, device, threads, needed(wanted))
    _show(*draw(candidates, pictured, to or out / "figures", wanted), to or out / "figures")


def _show(drawn: list[Any], reasons: list[str], to: Path) -> None:
    """Prints what was drawn and why the rest was not."""
    for reason in reasons:
        notify(f"not drawn: {reason}")
    rows = [[one.name, one.title, one.paper, f"{to / one.name}.png"] for one in drawn]
    notes = ["each with .svg, its numbers as .csv and its caption as .json", "the paper: arXiv 2510.15301"]
    table_of(Table("Figures", ["figure", "shows", "in the paper", "file"], rows, notes))


def _chosen(names: list[str], named: Named) -> tuple[list[str] | None, set[str]]:
    """The runs to which names refer (None: all), and the names among them that are runs themselves."""
    runs: list[str] = []
    for name in names:
        runs += named.runs(name)[0] if named.is_experiment(name) else named.of_name(name)
    return list(dict.fromkeys(runs)) or None, named.known() & set(names)


def _labels(names: list[str], named: Named) -> dict[str, str]:
    """Name of each run of the named experiments -> the values of its axes."""
    return {run: label for name in names if named.is_experiment(name) for run, label in named.labels(name).items()}


def _diagnosed(pictured: list[Any], store: Store, device: str, threads: int | None, wanted: set[str]) -> list[Any]:
    """Tokenizers with the wanted diagnoses; missing ones are computed first."""
    plan = diagnosis_plan({one.first.name: (one.config, one.first.about["stages"]) for one in pictured}, store, wanted)
    out = store.root.parent
    complete(plan, out, Bench(out=str(out), device=device, threads=threads), DISPLAY)
    keys = {run.name: {plan.nodes[key].stage: key for key in run.nodes} for run in plan.runs}
    return [replace(one, diagnoses=keys[one.first.name]) for one in pictured]
