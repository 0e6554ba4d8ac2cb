"""The directions of the trained transformer's velocities for each class, on a plane of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from svgbench.tables.figures.sources import TokenizerRuns
from svgbench.tables.figures.style import CLASSES, SOFT, WIDTH, FigureData, Page, bare, height_of_names, in_lines, name_classes, percent

LEFT, RIGHT, TOP = 1.15, 1.0, 0.62


def velocities(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """Class means of noised latents and of the velocities there; rows are tokenizers, columns are times."""
    read = [one.read("velocities") for one in tokenizers]
    times = [at["t"] for at in read[0][1]["times"]]
    gap = 0.07
    side = (WIDTH - LEFT - RIGHT) / len(times) - gap
    classes = read[0][1]["classes"]
    page = Page(WIDTH, max(TOP + len(tokenizers) * (side + 0.28) + 0.05, TOP + 0.1 + height_of_names(classes)))
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
            bare(axes)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
            _field(axes, at, points[across], about["labels"], centres)
            share = at["class_share"]
            label = ("class share " if across == 0 else "") + percent(share["value"])
            axes.set_xlabel(label, fontsize=6, color=SOFT, labelpad=2)
            for name, place, velocity, centre in zip(about["classes"], at["positions"], at["velocities"], about["centres"], strict=True):
                rows.append([one.name, at["t"], name, *place, *velocity, *centre])
    name_classes(page, page.width - RIGHT + 0.05, TOP + 0.1, classes)
    caption = (
        "Noised latents x_t = (1 - t) noise + t data of validation images (dots) on the plane in which the class means differ most. An "
        "arrow starts at a class's mean x_t and ends where the mean velocity that the transformer predicts for it unconditionally "
        "would bring it at t = 1; rings are the classes' true means there. If arrows reach their rings early, classes are "
        "separated; if they stay together, entangled. The dashed circle holds the noise (two standard deviations) and sets the scale."
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
