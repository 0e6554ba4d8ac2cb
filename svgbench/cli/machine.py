"""``doctor``: what this machine has, what is missing and how to get it, and the cost of a preset's run. No torch."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from svgbench.cli.console import Format
from svgbench.cli.experiments import Gpus, Set, Shelf
from svgbench.cli.output import Formatted, facts, records
from svgbench.cli.selection import directory
from svgbench.config import cards
from svgbench.config.build import build
from svgbench.config.experiments import DEFAULT_PRESET
from svgbench.config.parse import merge, nested, override
from svgbench.config.sampling import TUNED
from svgbench.lab.forecast.estimate import assumptions, estimate, outline
from svgbench.lab.forecast.requirements import EXTRAS, Need, gpus, judge_of, left_out, needs_of, package, weights_of
from svgbench.lab.forecast.sizes import Sizes, counts_of, sizes_of
from svgbench.lab.forecast.speed import GPUS, pace_of
from svgbench.shelf import folder, read_yaml
from svgbench.tables.planned import size, stage_table
from svgbench.tables.table import Table


def doctor(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", callback=directory, help="The output directory that runs would use.")] = Path(
        "runs"
    ),
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="PRESET", help="Show what a run of tiny, mini, small or paper needs and costs.")
    ] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", metavar="NAME", help="The encoder of that run.")] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="PATH", help="The images of that run.")] = None,
    sets: Set = None,
    shelf: Shelf = None,
    gpus: Gpus = None,
    format: Formatted = Format.auto,
) -> None:
    """Show what this machine has (CPU, GPUs, disk, packages, weights) and where to get what is missing, with licences. With --preset, show
    what one run needs, which of it is missing, and the hours and disk it takes."""
    tables = [Table("Machine", ["what", "found"], _machine(out))]
    if preset or encoder or data or sets:
        tables += _one_run(out, preset or DEFAULT_PRESET, encoder, data, sets, shelf, gpus)
    else:
        tables += _everything(shelf)
    names = ("machine", "needs", "costs") if len(tables) == 3 else ("machine", "packages", "judging_networks", "encoder_weights", "images")
    content = {name: {"rows": records(table), "notes": table.notes} for name, table in zip(names, tables, strict=True)}
    facts(tables, content, format)


def _everything(shelf: Path | None) -> list[Table]:
    """The packages, weights and images that any run could need."""
    packages = Table("Packages", ["package", "here", "version, or how to get it"], [_row(package(name)) for name in EXTRAS])
    networks = [
        judge_of(kind, name, None, setting)
        for kind, setting in (("features", "scores.extractor_weights"), ("pairs", "scores.lpips_weights"))
        for name in read_yaml(folder("reports") / "extractors.yaml")[kind]
    ]
    judging = Table("Judging networks", ["weights", "here", "licence", "where it is, or how to get it"], [_licensed(n) for n in networks])
    known = cards.in_order(cards.load_cards(shelf).values())
    note = "for a file that you already have: --weights FILE; nothing is fetched before it is needed"
    rows = [_licensed(weights_of(card)) for card in known]
    encoders = Table("Encoder weights", ["weights", "here", "licence", "where it is, or how to get it"], rows, [note])
    facts = read_yaml(folder("reports") / "datasets.yaml").values()
    sources = [[f["title"], _counted(f), f["licence"], f"{f['source']}; {_handed(f['setting'])} ({f['layout']})"] for f in facts]
    images = Table("Images", ["data set", "training + validation", "licence", "where it comes from, and how to pass it"], sources)
    return [packages, judging, encoders, images]


def _one_run(
    out: Path, preset: str, encoder: str | None, data: str | None, sets: list[str] | None, shelf: Path | None, gpus: int | None
) -> list[Table]:
    """What a run with these options needs and costs; its data and weights may be missing on this machine."""
    words: dict[str, Any] = {}
    for path, value in (("encoder.card", encoder), ("data.source", data)):
        words = merge(words, nested(path, value)) if value is not None else words
    config = build(merge(words, override(sets or [])), preset=preset, extra=shelf)
    sizes = sizes_of(config, counts_of(config), shelf)
    needs = needs_of(sizes)
    missing = [need.what for need in needs if not need.here and not need.optional]
    notes = [f"missing: {', '.join(missing)}" if missing else "this machine has everything that this run needs"]
    if without := left_out(config):
        notes.append(f"scores left out until a field is set (--set): {', '.join(without)}")
    title = f"What a {preset} run of {config.encoder.card} needs"
    needed = Table(title, ["what", "here", "licence", "where it is, or how to get it"], [_licensed(need) for need in needs], notes)
    return [needed, _costs(out, sizes, preset, GPUS[preset] if gpus is None else gpus)]


def _costs(out: Path, sizes: Sizes, preset: str, gpus: int) -> Table:
    nodes = [(stage, cell, estimate(stage.name, cell, sizes)) for stage, cell in outline(sizes.config, sizes.card.kind)]
    pace = pace_of(gpus, out / "store")
    notes = assumptions(sizes, [cost for _, _, cost in nodes])
    if sizes.config.continued or sizes.config.sampling.shift == TUNED:
        notes.append("not counted: the training that it continues and the runs that tune its shift; 'svgbench plan' counts them")
    wanted = sum(cost.kept for _, _, cost in nodes) + max(cost.passing for _, _, cost in nodes)
    place = _place(out)
    free = shutil.disk_usage(place).free
    verdict = "enough" if free > wanted else "too little: choose another --out"
    notes.append(f"disk: at most {size(wanted)} at once, {size(free)} are free at {place}: {verdict}.")
    return stage_table(f"Planned costs of a {preset} run of {sizes.card.name}", nodes, notes, pace)


def _machine(out: Path) -> list[list[str]]:
    place = _place(out)
    rows = [
        ["python", platform.python_version()],
        ["processors", f"{os.cpu_count()}"],
        ["disk free", f"{size(shutil.disk_usage(place).free)} at {place}"],
    ]
    if not os.access(place, os.W_OK):
        rows.append(["--out", f"{place} cannot be written; give another --out"])
    named = gpus()
    counted = ", ".join(f"{named.count(name)} x {name}" for name in dict.fromkeys(named))
    rows.append(["GPU", counted or "NVIDIA's driver shows none: the presets tiny and mini run on the CPU, small and paper need one"])
    return rows


def _place(out: Path) -> Path:
    """``--out`` or its nearest parent directory that exists."""
    return next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())


def _counted(facts: dict[str, Any]) -> str:
    """Number of images of a data set, and its size if known."""
    counts = f"{facts['train']:,} + {facts['val']:,}"
    return f"{counts}, {size(facts['bytes'])}" if "bytes" in facts else counts


def _handed(setting: str) -> str:
    """The option that sets the path of a data set."""
    return setting if setting.startswith("--") else f"--set {setting}=DIR"


def _row(need: Need) -> list[str]:
    return [need.what, need.state, need.where]


def _licensed(need: Need) -> list[str]:
    return [need.what, need.state, need.licence or "-", need.where]
