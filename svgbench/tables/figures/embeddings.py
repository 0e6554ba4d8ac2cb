"""t-SNE of latents: by class for each part of a tokenizer, by 20 and 100 classes for each encoder, by block of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from svgbench.tables.figures.sources import TokenizerRuns
from svgbench.tables.figures.style import INK, SOFT, WIDTH, FigureData, Page, bare, class_colours, name_classes, percent

LEFT, RIGHT, TOP, GAP, BELOW = 0.08, 1.0, 0.7, 0.12, 0.66
ABREAST = 4
"""Panels in a row."""
LONGEST = 30
"""Most characters of a name above a panel; longer names are cut."""


class Panel(NamedTuple):
    """One t-SNE plot with its labels."""

    name: str
    kind: str
    points: np.ndarray
    """[N, 2]"""
    labels: list[int]
    classes: int
    below: str


def embedding(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """t-SNE of pooled latents by class: for each tokenizer panels of features (once per encoder), residual, and both."""
    rows: list[list[Any]] = []
    panels: list[Panel] = []
    classes: list[str] = []
    for one in tokenizers:
        points, about = one.read("embedding")
        labels, classes = about["labels"], about["classes"]
        for number, part in enumerate(about["parts"]):
            rows += _rows([one.name, part], points[number], about["images"], labels, classes)
            name = one.config.encoder.card if part == "features" else one.name
            kind = "latents" if one.first.about["kind"] == "codec" else {"both": "features + residual"}.get(part, part)
            panel = Panel(name, kind, points[number], labels, len(classes), _share(about["class_share"][number]))
            _once(panels, panel)
    title = "t-SNE of latents by class"
    page = _page(title, panels, classes)
    caption = (
        "t-SNE of validation images' latents, averaged over positions and standardised as the transformer sees them. One dot is one "
        "image, one colour one class. Distances between clusters have no meaning; the class share is measured before t-SNE."
    )
    return FigureData("embedding", title, caption, page, ["tokenizer", "part", "image", "class", "x", "y"], rows)


def by_classes(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """t-SNE of each encoder's features for 20 and for 100 classes, with the linear probe of the features."""
    rows: list[list[Any]] = []
    panels: list[Panel] = []
    named: list[str] = []
    for one in tokenizers:
        points, about = one.read("class-embedding")
        top1, protocol = _probe(one) or (None, "")
        below = "no linear probe" if top1 is None else f"linear probe {top1:.1f} %"
        first = 0
        for found in about["sets"]:
            part = points[first : first + len(found["labels"])]
            first += len(part)
            each = len(part) // len(found["classes"])
            kind = f"{len(found['classes'])} classes, {each} images each"
            panel = Panel(one.config.encoder.card, kind, part, found["labels"], len(found["classes"]), below)
            if not _once(panels, panel):
                continue
            whole = _rows([panel.name, panel.classes], part, found["images"], panel.labels, found["classes"])
            rows += [[*row, top1, protocol] for row in whole]
            named = found["classes"] if len(found["classes"]) <= 10 else named
    panels.sort(key=lambda panel: panel.classes)
    title = "t-SNE of encoders' features"
    page = _page(title, panels, named)
    caption = (
        "t-SNE of the frozen encoders' features (a codec's latents) of validation images, averaged over positions, for 20 and for 100 "
        "classes (all classes when the data have fewer), with at most 100 images per class. Below: top-1 of the linear probe on the same "
        "features, over all classes of the data (first seed). Distances between clusters have no meaning."
    )
    columns = ["encoder", "classes", "image", "class", "x", "y", "probe_top1", "protocol"]
    return FigureData("embedding-by-classes", title, caption, page, columns, rows)


def by_layers(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """t-SNE of some blocks of each encoder, and of each tokenizer's raw latents with and without alignment."""
    rows: list[list[Any]] = []
    panels: list[Panel] = []
    classes: list[str] = []
    for one in tokenizers:
        points, about = one.read("layer-embedding")
        labels, classes = about["labels"], about["classes"]
        for number, part in enumerate(about["parts"]):
            rows += _rows([one.name, part], points[number], about["images"], labels, classes)
            name = one.config.encoder.card if part.startswith("block ") else one.name
            _once(panels, Panel(name, part, points[number], labels, len(classes), _share(about["class_share"][number])))
    title = "t-SNE by block of the encoder, and of latents without and with alignment"
    page = _page(title, panels, classes)
    caption = (
        "t-SNE of validation images' raw vectors, averaged over positions: patch tokens after some blocks of the encoder (the first is 1), "
        "and the latents (features and residual concatenated) before standardisation. 'alignment left out': the same trained residual "
        "encoder without its alignment. The class share is measured before t-SNE."
    )
    return FigureData("embedding-by-layer", title, caption, page, ["tokenizer", "part", "image", "class", "x", "y"], rows)


def _once(panels: list[Panel], panel: Panel) -> bool:
    """Adds a panel unless there is one of the same name, kind and points. Returns whether it was added."""
    if any((panel.name, panel.kind) == (old.name, old.kind) and np.array_equal(panel.points, old.points) for old in panels):
        return False
    panels.append(panel)
    return True


def _page(title: str, panels: Sequence[Panel], classes: Sequence[str]) -> Page:
    """Panels in rows (a new number of classes starts a new row), with names above, a line of text below, and the legend of the classes to
    the right of the first row."""
    side = (WIDTH - LEFT - RIGHT - ABREAST * GAP) / ABREAST
    places: list[tuple[int, int]] = []  # row, column
    for count in dict.fromkeys(panel.classes for panel in panels):
        first = places[-1][0] + 1 if places else 0
        places += [(first + i // ABREAST, i % ABREAST) for i in range(sum(panel.classes == count for panel in panels))]
    page = Page(WIDTH, TOP + (places[-1][0] + 1) * (side + BELOW) - 0.35)
    page.title(title)
    name_classes(page, LEFT + (1 + max(column for row, column in places if row == 0)) * (side + GAP) + 0.02, TOP + 0.1, classes)
    for (row, column), panel in zip(places, panels, strict=True):
        x, y = LEFT + column * (side + GAP), TOP + row * (side + BELOW)
        for above, text, colour in ((0.2, panel.name, INK), (0.08, panel.kind, SOFT)):
            shown = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
            page.text(x, y - above, shown, va="center", fontsize=6.5, color=colour)
        axes = page.axes(x, y, side, side)
        bare(axes)
        colours = class_colours(panel.classes)
        size = 4.5 if len(panel.points) <= 1000 else 2.0
        axes.scatter(
            panel.points[:, 0], panel.points[:, 1], s=size, c=[colours[label] for label in panel.labels], linewidths=0, alpha=0.85,
            rasterized=True,
        )  # fmt: skip
        axes.set_xlabel(panel.below, fontsize=6, color=SOFT, labelpad=2)
    return page


def _rows(begin: list[Any], points: np.ndarray, images: list[int], labels: list[int], classes: list[str]) -> list[list[Any]]:
    return [
        [*begin, image, classes[label], x, y] for image, label, (x, y) in zip(images, labels, points.astype(float).tolist(), strict=True)
    ]


def _share(score: dict[str, Any]) -> str:
    return f"class share {percent(score['value'])} ({100 * score['low']:.1f}, {100 * score['high']:.1f})"


def _probe(one: TokenizerRuns) -> tuple[float, str] | None:
    """Top-1 in percent of the first seed's linear probe on the features, and its protocol; None when it was not measured."""
    found = [
        (row["value"], row["protocol"])
        for row in one.first.scores
        if row["metric"] == "probe_top1" and row["detail"]["latents"] == "features"
    ]
    return found[0] if found else None
