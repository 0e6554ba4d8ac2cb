"""Draws the figures of a set of runs: each as PNG and SVG, its data as CSV, its caption and sources as JSON. Needs matplotlib."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from svgbench.errors import unknown
from svgbench.machine.files import write_atomic
from svgbench.tables.figures import curves, edits, embeddings, planes, sheets, toy, training
from svgbench.tables.figures.sources import TokenizerRuns
from svgbench.tables.figures.style import FigureData, styled


@dataclass(frozen=True)
class Drawing:
    """How one figure is drawn, and which data it needs."""

    make: Callable[[Sequence[TokenizerRuns]], FigureData | str]
    """Returns the figure, or the reason why it is not drawn."""
    stages: tuple[str, ...] = ()
    """The diagnoses that it reads. A figure of diagnoses or pictures shows only tokenizers that have them."""
    of: Literal["pictures", "scores", "nothing"] = "pictures"
    """The data that it needs: ``pictures``, all artifacts of a run; ``scores``, only its records; ``nothing``, no run."""
    paper: str = ""
    """The figure of arXiv 2510.15301 that it reproduces."""


DRAWINGS: Mapping[str, Drawing] = {
    "gfid-by-steps": Drawing(curves.gfid_by_steps, of="scores"),
    "gfid-by-images": Drawing(curves.gfid_by_images, of="scores", paper="figure 1"),
    "gfid-by-guidance": Drawing(curves.gfid_by_guidance, of="scores", paper="figure 13"),
    "training-curves": Drawing(training.training_curves, of="scores", paper="figure 14"),
    "reconstructions": Drawing(sheets.reconstructions, ("residual-left-out",), paper="figure 5"),
    "samples": Drawing(sheets.samples),
    "embedding": Drawing(embeddings.embedding, ("embedding",), paper="figure 10"),
    "embedding-by-classes": Drawing(embeddings.by_classes, ("class-embedding",), paper="figure 4"),
    "embedding-by-layer": Drawing(embeddings.by_layers, ("layer-embedding",), paper="figure 10"),
    "toy-field": Drawing(lambda tokenizers: toy.velocity_field(), of="nothing", paper="figure 4"),
    "velocities": Drawing(planes.velocities, ("velocities",), paper="figure 4"),
    "class-share": Drawing(curves.class_shares, ("embedding", "velocities"), paper="figure 4"),
    "interpolation": Drawing(sheets.interpolation, ("interpolation",)),
    "noise-interpolation": Drawing(edits.noise_interpolation, ("noise-interpolation",), paper="figures 7 to 9"),
    "editing": Drawing(sheets.editing, ("editing",)),
    "box-editing": Drawing(edits.box_editing, ("box-editing",), paper="figure 6"),
    "feature-maps": Drawing(edits.feature_maps, ("feature-maps",), paper="figures 11 and 12"),
}
"""Name -> figure, in drawing order."""
ARTICLE = "arXiv 2510.15301"
KINDS = ("png", "svg")


def chosen(names: Sequence[str] | None) -> list[str]:
    """The figures of these names (all when None), in the order of ``DRAWINGS``. Raises UnknownName for one that does not exist."""
    for name in names or ():
        if name not in DRAWINGS:
            raise unknown("figure", name, DRAWINGS)
    return [name for name in DRAWINGS if names is None or name in names]


def needed(names: Sequence[str]) -> set[str]:
    """The diagnoses that these figures read."""
    return {stage for name in names for stage in DRAWINGS[name].stages}


def draw(
    scored: Sequence[TokenizerRuns], pictured: Sequence[TokenizerRuns], to: Path, names: Sequence[str] | None = None
) -> tuple[list[FigureData], list[str]]:
    """Draws figures into a directory, all when ``names`` is None: curves of all tokenizers, and pictures of those with diagnoses. Returns
    the figures and the reasons why others are not drawn."""
    drawn, reasons = [], []
    with styled():
        for name in chosen(names):
            row = DRAWINGS[name]
            tokenizers = {"scores": scored, "pictures": pictured, "nothing": ()}[row.of]
            if not tokenizers and row.of != "nothing":
                continue
            figure = row.make(tokenizers)
            if isinstance(figure, str):
                reasons.append(figure)
                continue
            if row.paper:
                figure = figure._replace(caption=f"{figure.caption} After {row.paper} of {ARTICLE}.", paper=row.paper)
            _write(figure, tokenizers, to)
            drawn.append(figure)
    return drawn, reasons


def _write(figure: FigureData, tokenizers: Sequence[TokenizerRuns], to: Path) -> None:
    """Writes a figure's four files, the pictures last, so that a picture always has its table."""
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
    """Numbers to six digits, more than are significant."""
    return f"{value:.6g}" if isinstance(value, float) else value
