"""``diagnose``: the diffusability cards of encoders and finished runs, from latents alone."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from svgbench.cli.completion import complete_encoders
from svgbench.cli.console import Format
from svgbench.cli.experiments import Data, Device, Preset, Set, Shelf, Threads
from svgbench.cli.output import Formatted, facts
from svgbench.cli.selection import directory, trial
from svgbench.config import cards
from svgbench.config.build import build
from svgbench.config.experiments import DEFAULT_PRESET
from svgbench.config.parse import merge, nested, override
from svgbench.config.records import Score
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput, UnknownName, notify, unknown
from svgbench.lab.diagnosis import card_plan
from svgbench.lab.plan import Plan, Run, resolve
from svgbench.lab.run_plan import complete, is_main
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench
from svgbench.machine.files import guarded, write_atomic
from svgbench.tables.collect import collect
from svgbench.tables.diffusability import Card, card_table

PICTURES = (".png", ".svg")


def diagnose(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Cards, families, BACKEND:NAME, or runs.", autocompletion=complete_encoders)
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", callback=directory, help="Directory of the runs; its store keeps the results.")
    ] = Path("runs"),
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Also draw the figures: a .png or .svg file.")] = None,
    preset: Preset = DEFAULT_PRESET,
    data: Data = None,
    sets: Set = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="A trial on at most N images of each split.", min=1)] = None,
    shelf: Shelf = None,
    device: Device = "auto",
    threads: Threads = None,
    format: Formatted = Format.auto,
) -> None:
    """Show how easily a diffusion model can learn a latent space, from latents alone: irreducible variance, spectra, classes, neighbours,
    spatial structure, and what noise does to the decoder. Trains nothing; the same command again reads the stored results."""
    if to is not None and (to.suffix.lower() not in PICTURES or to.is_dir()):
        raise BadInput(f"--to {to} is no picture; give a file that ends in .png or .svg.")
    if to is not None and importlib.util.find_spec("matplotlib") is None:
        raise BadInput("--to needs matplotlib; install it: pip install 'svgbench[figures]'.")
    known = {place.parent.name for place in out.glob("*/run.json")}
    names = list(dict.fromkeys(names))
    encoders = {name: _config(name, preset, data, trial(sets, limit, False), shelf, known) for name in names if name not in known}
    if not encoders and (data is not None or sets or limit):
        raise BadInput("--data, --set and --limit belong to encoders, and only runs are named; leave them out.")
    runs = {name: _recorded(out, name) for name in names if name in known}
    store = Store(out / "store")
    plan, reasons = card_plan(encoders, runs, store)
    complete(plan, out, Bench(out=str(out), device=device, threads=threads))
    if not is_main():
        return
    found = {run.name: _card(run, plan, store, reasons) for run in plan.runs}
    shown = [found[name] for name in names]
    if to is not None:
        from svgbench.tables.figures.diffusability import drawn

        with guarded(to):
            write_atomic(to, drawn(shown, to.suffix.lower()[1:]))
        notify(f"written: {to}")
    facts([card_table(shown, tokenizers_down=format is Format.csv)], [card.content() for card in shown], format)


def _config(name: str, preset: str, data: str | None, sets: list[str], shelf: Path | None, known: set[str]) -> RunConfig:
    """The configuration of an encoder alone. Raises UnknownName, with the closest cards and runs, when the name is neither."""
    try:
        cards.find(name, preset, shelf)
    except UnknownName:
        if ":" in name:
            raise
        raise unknown("card or run", name, [*cards.load_cards(shelf), *cards.FAMILIES, *known]) from None
    given = merge(nested("encoder.card", name), nested("data.source", data) if data is not None else {})
    return resolve(build(merge(given, override(sets)), preset=preset, extra=shelf), shelf)


def _recorded(out: Path, name: str) -> tuple[RunConfig, list[dict[str, Any]]]:
    """The configuration and the stages of a finished run."""
    record = collect(out, [name])[0]
    return RunConfig.model_validate(record.config()), record.about["stages"]


def _card(run: Run, plan: Plan, store: Store, reasons: dict[str, str]) -> Card:
    """The card of a tokenizer from its finished diagnoses."""
    scores: list[Score] = []
    about: dict[str, Any] = {}
    for node in (plan.nodes[key] for key in run.nodes):
        store.verify(node.stage, node.key)
        scores += store.scores(node.stage, node.key)
        if node.stage == "diffusability":
            about = json.loads((store.place(node.stage, node.key) / "diffusability.json").read_bytes())
    missing = about["missing"] | ({"ifid": reasons[run.name]} if run.name in reasons else {})
    return Card(
        run.name,
        run.config.encoder.card,
        tuple(about["latent"]),
        about["images"],
        about["classes"],
        tuple(scores),
        missing,
        about["curves"],
    )
