"""A surface of one metric: rows and columns are two fields of the samples' protocol, with a block of rows for each tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svgbench.config.records import Protocol
from svgbench.tables.collect import RunRecord
from svgbench.tables.facts import Row, fact
from svgbench.tables.layouts import Layout, Surface
from svgbench.tables.measures import MEASURES
from svgbench.tables.standings import fields_of, places_of, scored_cell, shared_protocol, significance_notes
from svgbench.tables.table import Table

Scores = dict[tuple[str, float, float], list[dict[str, Any]]]
"""(tokenizer, value down, value across) -> the scores of its seeds."""


def surface_tables(layout: Layout, records: Sequence[RunRecord]) -> list[Table]:
    """The surface of a layout: a table for each protocol, whose cells differ only in the layout's two fields."""
    surface, column = layout.surface, layout.columns[0]
    if surface is None:
        return []
    scale = 1.0 if column.guidance == "none" else column.guidance
    by_protocol: dict[str, Scores] = {}
    for record in records:
        name = ", ".join(fact(each, Row([record], record.scores)) for each in layout.rows)
        end = max((score["images_seen"] or 0 for score in record.scores), default=0)  # snapshots are left out
        for score in record.scores:
            if score["metric"] != column.metric or score["guidance"] != scale or (score["images_seen"] or 0) != end:
                continue
            fields = fields_of(score)
            place = (name, fields[surface.down], fields[surface.across])
            protocol = shared_protocol(score, (surface.down, surface.across))
            by_protocol.setdefault(protocol, {}).setdefault(place, []).append(score)
    return [_table(layout, surface, scores) for scores in by_protocol.values()]


def _table(layout: Layout, surface: Surface, scores: Scores) -> Table:
    measure = MEASURES[layout.columns[0].metric]
    downs, acrosses = sorted({down for _, down, _ in scores}), sorted({across for _, _, across in scores})
    rows: list[list[str]] = []
    ranked: list[dict[str, list[dict[str, Any]]]] = []
    for name in dict.fromkeys(name for name, _, _ in scores):
        for down in downs:
            cells = {f"{across:g}": scores.get((name, down, across), []) for across in acrosses}
            there = {across: cell for across, cell in cells.items() if cell}
            places = places_of(there)
            ranked += [there] if places else []
            texts = [scored_cell(cell, places.get(across, 0)) if cell else "-" for across, cell in cells.items()]
            rows += [[name, f"{down:g}", *texts]] if there else []
    below, beside = (path.rpartition(".")[2].replace("_", " ") for path in (surface.down, surface.across))
    columns = ["tokenizer", below, *(f"{beside} {value:g}" for value in acrosses)]
    made = Protocol.model_validate(next(iter(scores.values()))[0]["protocol_fields"])
    sampled = made.sampling.model_dump(exclude_defaults=True) if made.sampling else {}
    kept = [f"{name} {value}" for name, value in sampled.items() if f"sampling.{name}" not in (surface.down, surface.across)]
    counts = sorted({len(cell) for cell in scores.values()})
    seeds = "one seed; variation between seeds is not included" if counts == [1] else f"mean over {' or '.join(map(str, counts))} seeds"
    notes = [
        f"{measure.title} {measure.arrow}: {'; '.join([made.model_copy(update={'sampling': None}).text, *kept])}",
        *significance_notes(ranked, one="cell", over="row"),
        f"marks compare the cells of one row; the best {beside} of a row was chosen on these scores, a tuned one is chosen on another seed",
        seeds,
        *layout.notes,
    ]
    return Table(layout.title, columns, rows, notes, keys=2)
