"""``encoders``: list the cards, show one, check one encoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from svgbench.cli.console import Format, table_of
from svgbench.cli.output import Formatted, facts
from svgbench.config import cards
from svgbench.config.experiments import DEFAULT_PRESET
from svgbench.errors import BadWeights, SvgbenchError
from svgbench.tables.table import Table

app = typer.Typer(invoke_without_command=True, help="Encoders: list the cards, show one, check one.")
Preset = Annotated[str, typer.Option("--preset", metavar="PRESET", help="The preset that chooses a family's card.")]
Shelf = Annotated[Path | None, typer.Option("--shelf", metavar="DIR", help="A folder of your own encoder cards.")]


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_cards()


@app.command("list")
def list_cards(shelf: Shelf = None, format: Formatted = Format.auto) -> None:
    """List the cards with family, backend, channels, stride, parameters and licence."""
    known = cards.in_order(cards.load_cards(shelf).values())
    rows = [[c.name, c.family, c.backend, c.kind, str(c.channels), str(c.stride), f"{c.params_m:g}", c.licence] for c in known]
    notes = [
        "any other model: timm:NAME, open_clip:NAME, transformers:NAME, diffusers:NAME (the library's name, a repository or a directory)",
        "one card: svgbench encoders show NAME",
    ]
    table = Table("Encoders", ["name", "family", "backend", "kind", "channels", "stride", "params M", "licence"], rows, notes)
    facts([table], [card.model_dump(mode="json") for card in known], format)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A card, a family, or BACKEND:NAME.")], preset: Preset = DEFAULT_PRESET, shelf: Shelf = None
) -> None:
    """Print one card: how it opens, its pixels, its weights and its licence."""
    card = cards.find(name, preset, shelf)
    sys.stdout.write(yaml.safe_dump(card.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True))


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A card, a family, or BACKEND:NAME.")],
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="A file or directory of an official release.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Check the architecture with random weights.")] = False,
    preset: Preset = DEFAULT_PRESET,
    shelf: Shelf = None,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Open one encoder and test what its card promises: shape, stride, determinism, batch independence, pixel range, no gradient, speed."""
    card = cards.find(name, preset, shelf)
    from svgbench.backends.conformance import examine
    from svgbench.backends.open import open_encoder
    from svgbench.machine.runtime import Runtime

    place = Runtime(device=device).torch_device
    try:
        encoder = open_encoder(card, weights, place, random_weights_seed=0 if random_weights else None)
    except BadWeights as error:
        raise BadWeights(f"{str(error).rstrip('.')}; or check only the architecture with --random-weights.") from None
    findings = examine(encoder)
    rows = [[finding.name, "ok" if finding.ok else "FAIL", finding.figure] for finding in findings]
    notes = [f"licence {card.licence}, which forbids {' and '.join(card.forbids)} use"] if card.forbids else [f"licence {card.licence}"]
    notes += ["random weights: only the architecture was checked"] if random_weights else []
    table_of(Table(f"Check of {card.name}", ["promise", "kept", "measured"], rows, notes))
    broken = [finding.name for finding in findings if not finding.ok]
    if broken:
        listed = f"{len(broken)} of {len(findings)} promises ({', '.join(broken)})"
        raise SvgbenchError(f"'{card.name}' breaks {listed}; correct its card or its backend.")
