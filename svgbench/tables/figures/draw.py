"""The figures of a set of runs: each as PNG and SVG, the table behind it as CSV, its caption and sources as JSON. Needs matplotlib."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svgbench.machine.files import write_atomic
from svgbench.tables.figures import curves, planes, sheets
from svgbench.tables.figures.sources import TokenizerRuns
from svgbench.tables.figures.style import FigureData, styled

CURVES = (curves.gfid_by_steps, curves.gfid_by_images)
PICTURES = (
    sheets.reconstructions, sheets.samples, planes.embedding, planes.velocities,
    curves.class_shares, sheets.interpolation, sheets.editing,
)  # fmt: skip
KINDS = ("png", "svg")


def draw(curves: Sequence[TokenizerRuns], pictured: Sequence[TokenizerRuns], to: Path) -> tuple[list[FigureData], list[str]]:
    """Draws curves of all tokenizers and pictures of those with diagnoses into a directory; gives the figures, and why others are not
    drawn."""
    drawn, reasons = [], []
    with styled():
        for make, tokenizers in [*((make, curves) for make in CURVES), *((make, pictured) for make in PICTURES)]:
            if not tokenizers:
                continue
            figure = make(tokenizers)
            if isinstance(figure, str):
                reasons.append(figure)
                continue
            _write(figure, tokenizers, to)
            drawn.append(figure)
    return drawn, reasons


def _write(figure: FigureData, tokenizers: Sequence[TokenizerRuns], to: Path) -> None:
    """A figure's four files; the pictures last, so that where one is, its table is too."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(figure.columns)
    table.writerows([_plain(value) for value in row] for row in figure.rows)
    content = {
        "figure": figure.name, "title": figure.title, "caption": figure.caption,
        "tokenizers": [{"name": one.name, "runs": [record.name for record in one.records]} for one in tokenizers],
    }  # fmt: skip
    write_atomic(to / f"{figure.name}.csv", stream.getvalue().encode())
    write_atomic(to / f"{figure.name}.json", (json.dumps(content, indent=1) + "\n").encode())
    for kind in KINDS:
        write_atomic(to / f"{figure.name}.{kind}", figure.page.saved(kind))


def _plain(value: Any) -> Any:
    """Numbers to six digits, which is more than any of them means."""
    return f"{value:.6g}" if isinstance(value, float) else value
