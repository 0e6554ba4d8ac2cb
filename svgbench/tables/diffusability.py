"""Diffusability cards as tables: figures down, tokenizers across; for CSV the other way round. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svgbench.config.records import Score
from svgbench.metrics.latent_figures import DECODED, FIGURES, NO_DECODER, LatentFigure
from svgbench.tables.table import Cell, Table

TITLE = "Diffusability of latent spaces"
NOTES = (
    "latents standardised by channel; value ± half of the 95 % interval over images (jackknife over 10 groups)",
    "VIV: irreducible variance of the velocity; LDS, CDS: how similarity falls with distance; arrows: better in the figure's source; "
    "definitions: docs/diagnose.md",
)


@dataclass(frozen=True)
class Card:
    """The figures of one tokenizer."""

    name: str
    encoder: str
    latent: tuple[int, ...]
    """Channels, height, width."""
    images: int
    classes: int
    scores: tuple[Score, ...]
    missing: dict[str, str]
    """Metric -> why it is missing."""
    curves: dict[str, Any]

    def score(self, metric: str) -> Score | None:
        """The score of a metric, None if it is missing."""
        return next((score for score in self.scores if score.metric == metric), None)

    def content(self) -> dict[str, Any]:
        """As JSON."""
        rows = [{**score.model_dump(mode="json"), "protocol": score.protocol.text} for score in self.scores]
        about = {"name": self.name, "encoder": self.encoder, "latent": list(self.latent), "images": self.images, "classes": self.classes}
        return {**about, "scores": rows, "missing": self.missing, "curves": self.curves}


def card_table(cards: Sequence[Card], *, tokenizers_down: bool = False) -> Table:
    """The table of some cards. ``tokenizers_down``: one row for each tokenizer instead of each figure."""
    columns = [[f"{card.latent[0]} × {card.latent[1]} × {card.latent[2]}", *(_cell(card, one) for one in FIGURES)] for card in cards]
    heads = ["latent", *(one.heading for one in FIGURES)]
    notes = [*NOTES, *_reasons(cards)]
    if tokenizers_down:
        rows = [[card.name, *column] for card, column in zip(cards, columns, strict=True)]
        return Table(TITLE, ["tokenizer", *heads], rows, notes)
    rows = [[head, *(column[place] for column in columns)] for place, head in enumerate(heads)]
    return Table(TITLE, ["figure", *(card.name for card in cards)], rows, notes)


def _cell(card: Card, figure: LatentFigure) -> Cell:
    score = card.score(figure.name)
    if score is None:
        return Cell("-", metric=figure.name)
    facts: dict[str, Any] = {
        "metric": score.metric,
        "low": score.low,
        "high": score.high,
        "count": score.count,
        "protocol": score.protocol.text,
    }
    half = "" if score.high is None else f" ± {_half(score.high - score.value, figure.digits)}"
    return Cell(f"{score.value:.{figure.digits}f}{half}", value=score.value, hint=score.protocol.text, **facts)


def _half(width: float, digits: int) -> str:
    """Half of an interval, rounded up."""
    return f"{math.ceil(width * 10**digits - 1e-6) / 10**digits:.{digits}f}"


def _reasons(cards: Sequence[Card]) -> list[str]:
    """Notes on missing figures, one for each reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for card in cards:
        for metric, reason in card.missing.items():
            what = "figures of a decoder" if metric in DECODED and reason == NO_DECODER else _title(metric)
            names = groups.setdefault((what, reason), [])
            names += [] if card.name in names else [card.name]
    return [f"-: {what}, {', '.join(names)}: {reason.rstrip('.')}" for (what, reason), names in groups.items()]


def _title(metric: str) -> str:
    return next((one.title for one in FIGURES if one.name == metric), metric)
