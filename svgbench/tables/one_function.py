"""The notes of tables with rows whose alignments differ, although the diffusion model sees no difference.

Standardising each channel undoes an alignment that scales and shifts channels: for a residual r with mean m and standard deviation s,
(a r + b - (a m + b)) / (a s) = (r - m) / s.
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
WHY = "which latents.standardise channel undoes"


def note_one_function(tables: Sequence[Table], records: Sequence[RunRecord]) -> None:
    """Adds notes to every table with scores of samples: which rows give the diffusion model the same latents, and which differ only by the
    training of stage 1."""
    unseen = [(record, parts) for record in records if (parts := _unseen(record)) is not None]
    same = _groups((canonical([*parts, record.seed, weights]), record) for record, parts in unseen if (weights := _weights(record)))
    alike = _groups((canonical(parts), record) for record, parts in unseen)
    for table in tables:
        shown = {str(row[0]) for row in table.rows}
        if table.kind in ("measured", "differences") and _scores_samples(table):
            for rows in same:
                if shown.issuperset(rows):
                    table.notes.append(
                        f"same latents: {_listed(rows)} give the diffusion model the same latents, because they share the weights of stage "
                        f"1 and their alignments only scale and shift channels, {WHY}; the gFID of these rows differs only by rounding"
                    )
            for rows in alike:
                if shown.issuperset(rows) and rows not in same:
                    table.notes.append(
                        f"equal up to stage 1: the alignments of {_listed(rows)} only scale and shift channels, {WHY}; any "
                        "difference between these rows comes from the training of stage 1"
                    )


def _unseen(record: RunRecord) -> list[Any] | None:
    """The settings that must be equal for two runs whose alignments have no effect on the diffusion model. None for a run without
    alignment, or with one that has an effect."""
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
    """Key of the trained or imported stage 1; None when the latents depend on the batch."""
    config = record.config()
    if config["autoencoder"]["align"] == "batch" and not config["latents"].get("align"):
        return None
    return next((stage["key"] for name in STAGE_1 if (stage := record.stage(name)) is not None), None)


def _groups(keyed: Iterable[tuple[str, RunRecord]]) -> list[tuple[str, ...]]:
    """Sets of two or more rows whose runs have the same key, in the order of the runs."""
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
