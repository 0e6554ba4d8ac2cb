"""Sample sheets of finished runs as PNG in the HTML page: the same few samples of each run for each number of steps and each guidance."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svgbench.lab.store import Store
from svgbench.tables.collect import RunRecord

SHOWN = 8
"""Samples per sheet."""
SIDE = 96
"""Largest side of a sample in pixels; larger samples are downsized to it."""
RUNS, SHEETS = 16, 120
"""Largest numbers of runs, and of sheets in total, on a page."""


@dataclass(frozen=True)
class SampleSheet:
    """The first samples of a run with one set of sampling settings."""

    steps: int
    guidance: float
    data: str
    """The PNG as a ``data:`` URL: samples side by side."""
    labels: tuple[int, ...]
    """Their classes."""


@dataclass(frozen=True)
class RunSheets:
    """The sheets of one run."""

    name: str
    side: int
    """Pixels of a sample's side."""
    sheets: tuple[SampleSheet, ...]


def run_sheets(records: Sequence[RunRecord], out: Path) -> list[RunSheets]:
    """The sheets of the first seed of each row, if their samples are still in the store."""
    firsts: dict[str, RunRecord] = {}
    for record in records:
        firsts.setdefault(record.row, record)
    sheets_of_runs, left = [], SHEETS
    for name, record in list(firsts.items())[:RUNS]:
        drawn = [sheet for stage in record.about["stages"] if stage["stage"] == "samples" and (sheet := _sheet(stage, out))]
        drawn = sorted(drawn, key=lambda pair: (pair[0].guidance, pair[0].steps))[:left]
        left -= len(drawn)
        if drawn:
            sheets_of_runs.append(RunSheets(name, drawn[0][1], tuple(sheet for sheet, _ in drawn)))
    return sheets_of_runs


def _sheet(stage: dict, out: Path) -> tuple[SampleSheet, int] | None:
    """One sheet and its samples' side; None if there is nothing to show."""
    import numpy as np
    from PIL import Image

    if stage["cell"].get("sampling.trained", 1.0) != 1.0:  # the page shows samples only from the end of the training
        return None
    store = Store(out / "store")
    place = store.place("samples", stage["key"])
    if not place.is_dir():
        return None
    store.verify("samples", stage["key"])
    images = np.load(place / "samples.npy", mmap_mode="r")[:SHOWN]
    labels = np.load(place / "labels.npy", mmap_mode="r")[:SHOWN]
    tiles = [Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1))) for image in images]
    side = min(SIDE, tiles[0].width)
    canvas = Image.new("RGB", (side * len(tiles), side))
    for i, tile in enumerate(tiles):
        canvas.paste(tile if tile.width == side else tile.resize((side, side), Image.Resampling.LANCZOS), (i * side, 0))
    cell = stage["cell"]
    data = _png(canvas)
    return SampleSheet(int(cell["sampling.steps"]), float(cell["sampling.guidance"]), data, tuple(int(label) for label in labels)), side


def _png(image) -> str:  # type: ignore[no-untyped-def]
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def embedded(path: Path) -> str:
    """A PNG file as a ``data:`` URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
