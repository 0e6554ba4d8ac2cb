"""``encoders``: list the cards, show one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from svgbench.cli.console import table_of
from svgbench.config import cards
from svgbench.tables.table import Table

app = typer.Typer(invoke_without_command=True, help="The encoders: list, or show NAME.")
Shelf = Annotated[Path | None, typer.Option("--shelf", help="A folder of your own cards.")]


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_cards()


@app.command("list")
def list_cards(shelf: Shelf = None) -> None:
    """Every card with its grid, size, licence and origin."""
    rows = [
        [c.name, c.family, c.backend, c.kind, str(c.channels), str(c.stride), f"{c.params_m:g}", c.licence]
        for c in sorted(cards.load_cards(shelf).values(), key=lambda c: (c.preset != "tiny", c.family, c.params_m))
    ]
    notes = [
        "any other ViT of timm: timm:NAME, for example timm:vit_base_patch16_clip_224.openai",
        "one card whole: svgbench encoders show NAME",
    ]
    table_of(Table("Encoders", ["name", "family", "backend", "kind", "channels", "stride", "params M", "licence"], rows, notes))


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A card, a family, or BACKEND:NAME.")], preset: str = "tiny", shelf: Shelf = None
) -> None:
    """One card whole: how it opens, its pixels, its weights and its licence."""
    card = cards.find(name, preset, shelf)
    sys.stdout.write(yaml.safe_dump(card.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True))
