"""Latents on a plane: t-SNE by class, and where the trained transformer's velocities lead each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from svgbench.tables.figures.sources import TokenizerRuns
from svgbench.tables.figures.style import CLASSES, RULE, SOFT, WIDTH, FigureData, Page, in_lines, name_classes

LEFT, RIGHT, TOP = 1.15, 1.0, 0.62
ABREAST = 4
"""Panels of t-SNE in a row."""


def embedding(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """t-SNE of pooled latents by class: panels of features (once an encoder), residual and both of each tokenizer."""
    rows: list[list[Any]] = []
    panels: list[tuple[str, str, np.ndarray, list[int], dict[str, Any]]] = []
    classes: list[str] = []
    for one in tokenizers:
        points, about = one.read("embedding")
        labels, classes = about["labels"], about["classes"]
        for number, part in enumerate(about["parts"]):
            embedded = points[number]
            for image, label, (x, y) in zip(about["images"], labels, embedded.tolist(), strict=True):
                rows.append([one.name, part, image, classes[label], x, y])
            name = one.config.encoder.card if part == "features" else one.name
            kind = "latents" if one.first.about["kind"] == "codec" else {"both": "features + residual"}.get(part, part)
            if not any(name == known and np.array_equal(embedded, old) for known, _, old, *_ in panels):
                panels.append((name, kind, embedded, labels, about["class_share"][number]))
    gap, below = 0.12, 0.66
    side = (WIDTH - 0.08 - RIGHT - ABREAST * gap) / ABREAST
    page = Page(WIDTH, 0.7 + math.ceil(len(panels) / ABREAST) * (side + below) - 0.35)
    page.title("t-SNE of latents by class")
    for number, (name, kind, embedded, labels, score) in enumerate(panels):
        x, y = 0.08 + number % ABREAST * (side + gap), 0.7 + number // ABREAST * (side + below)
        page.text(x, y - 0.2, name, va="center", fontsize=6.5)
        page.text(x, y - 0.08, kind, va="center", fontsize=6.5, color=SOFT)
        axes = page.axes(x, y, side, side)
        _bare(axes)
        axes.scatter(
            embedded[:, 0], embedded[:, 1], s=4.5, c=[CLASSES[label] for label in labels], linewidths=0, alpha=0.85, rasterized=True
        )
        share = f"class share {_percent(score['value'])} ({100 * score['low']:.1f}, {100 * score['high']:.1f})"
        axes.set_xlabel(share, fontsize=6, color=SOFT, labelpad=2)
    name_classes(page, WIDTH - RIGHT + 0.05, 0.8, classes)
    caption = (
        "t-SNE of validation images' latents, averaged over positions and standardised as the transformer sees them, one dot an image, one "
        "colour a class. Distances between clusters mean nothing; the class share is measured before t-SNE."
    )
    return FigureData("embedding", "t-SNE of latents by class", caption, page, ["tokenizer", "part", "image", "class", "x", "y"], rows)


def velocities(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """Class means of noised latents and of the velocities there: a row a tokenizer, a column a time."""
    read = [one.read("velocities") for one in tokenizers]
    times = [at["t"] for at in read[0][1]["times"]]
    gap = 0.07
    side = (WIDTH - LEFT - RIGHT) / len(times) - gap
    page = Page(WIDTH, TOP + len(tokenizers) * (side + 0.28) + 0.05)
    page.title("Where velocities lead the mean of each class, without a class label")
    rows: list[list[Any]] = []
    for across, t in enumerate(times):
        page.text(LEFT + across * (side + gap), TOP - 0.14, f"t = {t:g}", va="center")
    for down, (one, (points, about)) in enumerate(zip(tokenizers, read, strict=True)):
        y = TOP + down * (side + 0.28)
        page.text(0.08, y + 0.08, in_lines(one.name), va="top")
        centres = np.asarray(about["centres"])
        reach = max(1.15 * float(np.abs(centres).max()), 2.4)
        for across, at in enumerate(about["times"]):
            axes = page.axes(LEFT + across * (side + gap), y, side, side)
            _bare(axes)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
            _field(axes, at, points[across], about["labels"], centres)
            share = at["class_share"]
            label = ("class share " if across == 0 else "") + _percent(share["value"])
            axes.set_xlabel(label, fontsize=6, color=SOFT, labelpad=2)
            for name, place, velocity, centre in zip(about["classes"], at["positions"], at["velocities"], about["centres"], strict=True):
                rows.append([one.name, at["t"], name, *place, *velocity, *centre])
    name_classes(page, page.width - RIGHT + 0.05, TOP + 0.1, read[0][1]["classes"])
    caption = (
        "Noised latents x_t = (1 - t) noise + t data of validation images (dots) on the plane in which the classes' means differ most. An "
        "arrow starts at a class's mean x_t and ends where the mean velocity that the transformer predicts for it unconditionally "
        "would bring it at t = 1; rings are the classes' true means there. Arrows that reach their rings early: separated; arrows that "
        "stay together: entangled. The dashed circle holds the noise (two standard deviations) and is the scale of each row."
    )
    columns = ["tokenizer", "t", "class", "x", "y", "velocity_x", "velocity_y", "true_x", "true_y"]
    return FigureData("velocities", "Class means of velocities", caption, page, columns, rows)


def _field(axes: Axes, at: dict[str, Any], points: np.ndarray, labels: list[int], centres: np.ndarray) -> None:
    """One time's dots, arrows and rings."""
    axes.add_patch(Circle((0, 0), 2.0, facecolor="none", edgecolor=SOFT, linewidth=0.6, linestyle=(0, (3, 2))))
    colours = [CLASSES[label] for label in labels]
    axes.scatter(points[:, 0], points[:, 1], s=2, c=colours, linewidths=0, alpha=0.4, rasterized=True)
    for label, (place, velocity) in enumerate(zip(np.asarray(at["positions"]), np.asarray(at["velocities"]), strict=True)):
        tip = place + (1 - at["t"]) * velocity
        how = {"arrowstyle": "-|>,head_length=0.25,head_width=0.13", "color": CLASSES[label], "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", tip, place, arrowprops=how)
        axes.plot(*centres[label], "o", markersize=4, markerfacecolor="none", markeredgecolor=CLASSES[label], markeredgewidth=0.9)


def _percent(share: float) -> str:
    """A share in percent, without a sign before zero."""
    return f"{round(100 * share, 1) + 0.0:.1f} %"


def _bare(axes: Axes) -> None:
    """A frame without numbers: the plane's units are in the caption."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE, linewidth=0.6)
