"""The notes of tables in which rows differ in their alignment, but the diffusion model sees no difference.

Latents that are standardised channel by channel lose what an alignment does to each channel: of a residual r, (a r + b - (a m + b)) / (a s)
is (r - m) / s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from svgbench.config.choices import ALIGNMENTS
from svgbench.config.records import canonical
from svgbench.metrics.declared import names as declared
from svgbench.tables.collect import RunRecord
from svgbench.tables.table import Cell, Table

STAGE_1 = ("autoencoder", "imported-autoencoder")
WHY = "which latents.standardise channel takes back"


def note_one_function(tables: Sequence[Table], records: Sequence[RunRecord]) -> None:
    """Adds to every table of samples' scores which of its rows are one function of the image to the diffusion model, and which others
    differ by the training of stage 1 alone."""
    unseen = [(record, parts) for record in records if (parts := _unseen(record)) is not None]
    same = _groups((canonical([*parts, record.seed, weights]), record) for record, parts in unseen if (weights := _weights(record)))
    alike = _groups((canonical(parts), record) for record, parts in unseen)
    for table in tables:
        shown = {str(row[0]) for row in table.rows}
        if table.kind in ("measured", "differences") and _scores_samples(table):
            for rows in same:
                if shown.issuperset(rows):
                    table.notes.append(
                        f"one function of the image: {_listed(rows)} give the diffusion model the same latents, because they have the same "
                        f"weights of stage 1 and their alignments only scale and shift channels, {WHY}; the gFID of these rows differs "
                        "by rounding alone"
                    )
            for rows in alike:
                if shown.issuperset(rows) and rows not in same:
                    table.notes.append(
                        f"seen through stage 1 alone: the alignments of {_listed(rows)} only scale and shift channels, {WHY}; what these "
                        "rows differ by comes from the training of stage 1"
                    )


def _unseen(record: RunRecord) -> list[Any] | None:
    """What must be equal between runs whose alignments the diffusion model does not see; None for a run whose alignment it sees, or
    that has none to see."""
    config = record.config()
    autoencoder, latents = config.get("autoencoder") or {}, config.get("latents") or {}
    if record.about.get("kind") == "codec" or "align" not in autoencoder or not autoencoder["residual"]["channels"]:
        return None
    if latents.get("standardise", "channel") != "channel" or latents.get("statistics") or latents.get("scale"):
        return None
    mode = ALIGNMENTS.get(latents.get("align") or autoencoder["align"])
    if mode is None or not mode.by_channel:
        return None
    others = {name: value for name, value in config.items() if name not in ("autoencoder", "latents", "seed")}
    return [others, {name: value for name, value in autoencoder.items() if name not in ("align", "align_strength")}]


def _weights(record: RunRecord) -> str | None:
    """Key of the trained or imported stage 1; None where the latents depend on the batch."""
    config = record.config()
    if config["autoencoder"]["align"] == "batch" and not config["latents"].get("align"):
        return None
    return next((stage["key"] for name in STAGE_1 if (stage := record.stage(name)) is not None), None)


def _groups(keyed: Iterable[tuple[str, RunRecord]]) -> list[tuple[str, ...]]:
    """Two or more rows whose runs share a key, in the order of the runs; each such set of rows once."""
    rows: dict[str, dict[str, None]] = {}
    order: dict[str, int] = {}
    for key, record in keyed:
        rows.setdefault(key, {})[record.row] = None
        order.setdefault(record.row, len(order))
    return list(dict.fromkeys(tuple(sorted(names, key=order.__getitem__)) for names in rows.values() if len(names) > 1))


def _scores_samples(table: Table) -> bool:
    return any(isinstance(cell, Cell) and cell.facts.get("metric") in declared("generation") for row in table.rows for cell in row)


def _listed(rows: tuple[str, ...]) -> str:
    *first, last = rows
    return f"{'; '.join(first)} and {last}"
