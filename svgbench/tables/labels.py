"""Readable names of an experiment's cells: the values of its axes, such as ``align=none, shift=0.3``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from svgbench.config.experiments import Experiment
from svgbench.config.fields import short_name
from svgbench.tables.collect import RunRecord

SEED = "seed"
"""The axis over which the runs of a row are averaged."""
ENCODERS = ("encoder", "card")
"""Last words of fields whose values are names of encoders; the label of a cell is then only the value."""


def cell_labels(experiment: Experiment) -> dict[str, str]:
    """Name of each cell, as ``config.experiments.cells`` gives it -> its label without the seed; empty if the seed is the only axis."""
    axes: list[list[tuple[str, str]]] = []
    for axis, values in experiment.axes.items():
        if isinstance(values, dict):
            axes.append([(name, name) for name in values])
            continue
        word, plain = short_name(axis), axis.rsplit(".", 1)[-1] in ENCODERS
        texts = [str(value) for value in values]
        axes.append([(text if plain else f"{word}-{text}", "" if axis == SEED else text if plain else f"{word}={text}") for text in texts])
    return {".".join(name for name, _ in cell): ", ".join(label for _, label in cell if label) for cell in itertools.product(*axes) if cell}


def labelled(records: Sequence[RunRecord], labels: Mapping[str, str]) -> list[RunRecord]:
    """The records with the labels of their runs; unchanged if labels are missing or not unique."""
    rows = {record.row: labels.get(record.name, "") for record in records}
    if "" in rows.values() or len(set(rows.values())) < len(rows):
        return list(records)
    return [replace(record, label=labels[record.name]) for record in records]


def row_numbers(records: Sequence[RunRecord]) -> dict[str, int]:
    """Name of each row -> its number, which determines its colour in every table, curve and figure."""
    return {row: number for number, row in enumerate(dict.fromkeys(record.row for record in records))}


def row_of(text: str, rows: Mapping[str, int] | Sequence[str]) -> str | None:
    """The row named by the first cell of a table's row: its name, which may be followed by a comma and a detail, such as latents."""
    return max((row for row in rows if text == row or text.startswith(f"{row}, ")), key=len, default=None)
