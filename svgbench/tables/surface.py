"""A surface of one metric: one field of the samples' protocol down, another across, a block of rows for each tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svgbench.config.records import Protocol
from svgbench.tables.collect import RunRecord
from svgbench.tables.facts import Row, fact
from svgbench.tables.layouts import Layout, Surface
from svgbench.tables.measures import MEASURES
from svgbench.tables.seeds import value_of
from svgbench.tables.standings import fields_of, scored_cell, shared_protocol
from svgbench.tables.table import Table

Scores = dict[tuple[str, float, float], list[dict[str, Any]]]
"""(tokenizer, value down, value across) -> the scores of its seeds."""


def surface_tables(layout: Layout, records: Sequence[RunRecord]) -> list[Table]:
    """The surface of a layout: a table for each protocol, whose rows and columns differ in the layout's two fields alone."""
    surface, column = layout.surface, layout.columns[0]
    if surface is None:
        return []
    by_protocol: dict[str, Scores] = {}
    for record in records:
        name = ", ".join(fact(each, Row([record], record.scores)) for each in layout.rows)
        for score in record.scores:
            if score["metric"] != column.metric or score["guidance"] not in (None, _scale(column.guidance)):
                continue
            fields = fields_of(score)
            place = (name, fields[surface.down], fields[surface.across])
            protocol = shared_protocol(score, (surface.down, surface.across))
            by_protocol.setdefault(protocol, {}).setdefault(place, []).append(score)
    return [_table(layout, surface, scores) for scores in by_protocol.values()]


def _scale(guidance: Any) -> float:
    return guidance if isinstance(guidance, float) else 1.0


def _table(layout: Layout, surface: Surface, scores: Scores) -> Table:
    measure = MEASURES[layout.columns[0].metric]
    downs, acrosses = (sorted({place[number] for place in scores}) for number in (1, 2))
    rows: list[list[str]] = []
    for name in dict.fromkeys(name for name, _, _ in scores):
        for down in downs:
            cells = [scores.get((name, down, across)) for across in acrosses]
            values = [value_of(cell) for cell in cells if cell]
            best = (min if measure.better == "lower" else max)(values) if len(set(values)) > 1 else None
            texts = [scored_cell(cell, int(value_of(cell) == best)) if cell else "-" for cell in cells]
            rows.append([name, f"{down:g}", *texts] if values else [])
    down, across = (path.rpartition(".")[2].replace("_", " ") for path in (surface.down, surface.across))
    columns = ["tokenizer", down, *(f"{across} {value:g}" for value in acrosses)]
    made = Protocol.model_validate(next(iter(scores.values()))[0]["protocol_fields"])
    sampled = made.sampling.model_dump(exclude_defaults=True) if made.sampling else {}
    kept = [f"{name} {value}" for name, value in sampled.items() if f"sampling.{name}" not in (surface.down, surface.across)]
    counts = sorted({len(cell) for cell in scores.values()})
    seeds = "one seed; variation between seeds is not included" if counts == [1] else f"mean over {' or '.join(map(str, counts))} seeds"
    notes = [
        f"{measure.title} {measure.arrow}: {'; '.join([made.model_copy(update={'sampling': None}).text, *kept])}",
        f"bold: the best {across} of its row, by the mean; the best of a few is not a tuned {across}, which is chosen on another seed",
        seeds,
        *layout.notes,
    ]
    return Table(layout.title, columns, [row for row in rows if row], notes, keys=2)
