"""Latents on a plane: t-SNE by class, and where the trained transformer's velocities lead each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from svgbench.tables.figures_sources import Tokenizer
from svgbench.tables.figures_style import CLASSES, RULE, SOFT, WIDTH, Drawn, Page, in_lines, name_classes

LEFT, RIGHT, TOP = 1.15, 1.0, 0.62
PARTS = {"features": "features", "residual": "residual", "both": "features + residual"}


def embedding(found: Sequence[Tokenizer]) -> Drawn:
    """t-SNE of pooled latents by class: a row a tokenizer, a column for features, residual and both."""
    read = [one.read("embedding") for one in found]
    columns = [part for part in PARTS if any(part in about["parts"] for _, about in read)]
    side = (WIDTH - LEFT - RIGHT) / 3 - 0.12
    page = Page(WIDTH - (3 - len(columns)) * (side + 0.12), TOP + len(found) * (side + 0.3))
    page.text(0.08, 0.16, "t-SNE of latents by class", fontsize=9, weight="bold", va="center")
    rows: list[list[Any]] = []
    for across, part in enumerate(columns):
        page.text(LEFT + across * (side + 0.12), TOP - 0.14, PARTS[part], va="center")
    for down, (one, (points, about)) in enumerate(zip(found, read, strict=True)):
        y = TOP + down * (side + 0.3)
        page.text(0.08, y + 0.08, in_lines(one.name), va="top")
        labels = np.asarray(about["labels"])
        for number, part in enumerate(about["parts"]):
            axes = page.axes(LEFT + columns.index(part) * (side + 0.12), y, side, side)
            _bare(axes)
            own = points[number]
            axes.scatter(own[:, 0], own[:, 1], s=5, c=[CLASSES[label] for label in labels], linewidths=0, alpha=0.85)
            score = about["class_share"][number]
            said = f"class share {100 * score['value']:.1f} % ({100 * score['low']:.1f}, {100 * score['high']:.1f})"
            axes.set_xlabel(said, fontsize=6, color=SOFT, labelpad=2)
            for image, label, (x, height) in zip(about["images"], labels, own.tolist(), strict=True):
                rows.append([one.name, part, image, about["classes"][label], x, height])
    name_classes(page, page.width - RIGHT + 0.05, TOP + 0.1, read[0][1]["classes"])
    caption = (
        "t-SNE of validation images' latents, averaged over positions and standardised as the transformer sees them, one dot an image, one "
        "colour a class. Distances between clusters mean nothing; the class share is measured before t-SNE."
    )
    return Drawn("embedding", "t-SNE of latents by class", caption, page, ["tokenizer", "part", "image", "class", "x", "y"], rows)


def velocities(found: Sequence[Tokenizer]) -> Drawn:
    """Class means of noised latents and of the velocities there: a row a tokenizer, a column a time."""
    read = [one.read("velocities") for one in found]
    times = [at["t"] for at in read[0][1]["times"]]
    gap = 0.07
    side = (WIDTH - LEFT - RIGHT) / len(times) - gap
    page = Page(WIDTH, TOP + len(found) * (side + 0.28) + 0.05)
    page.text(0.08, 0.16, "Where velocities lead the mean of each class, the class untold", fontsize=9, weight="bold", va="center")
    rows: list[list[Any]] = []
    for across, t in enumerate(times):
        page.text(LEFT + across * (side + gap), TOP - 0.14, f"t = {t:g}", va="center")
    for down, (one, (points, about)) in enumerate(zip(found, read, strict=True)):
        y = TOP + down * (side + 0.28)
        page.text(0.08, y + 0.08, in_lines(one.name), va="top")
        centres = np.asarray(about["centres"])
        reach = max(1.25 * float(np.abs(centres).max()), 2.6)
        for across, at in enumerate(about["times"]):
            axes = page.axes(LEFT + across * (side + gap), y, side, side)
            _bare(axes)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
            _field(axes, at, points[across], about["labels"], centres)
            share = at["class_share"]
            said = f"class share {100 * share['value']:.1f} %" if across == 0 else f"{100 * share['value']:.1f} %"
            axes.set_xlabel(said, fontsize=6, color=SOFT, labelpad=2)
            for name, place, velocity, centre in zip(about["classes"], at["positions"], at["velocities"], about["centres"], strict=True):
                rows.append([one.name, at["t"], name, *place, *velocity, *centre])
    name_classes(page, page.width - RIGHT + 0.05, TOP + 0.1, read[0][1]["classes"])
    caption = (
        "Noised latents x_t = (1 - t) noise + t data of validation images (dots) on the plane in which the classes' means differ most. An "
        "arrow starts at a class's mean x_t and ends where the mean velocity that the transformer gives it, without being told the class, "
        "would bring it at t = 1; rings are the classes' true means there. Arrows that reach their rings early: separated; arrows that stay "
        "together: entangled. The grey circle holds the noise (two standard deviations); its size is the scale of each row."
    )
    columns = ["tokenizer", "t", "class", "x", "y", "velocity_x", "velocity_y", "true_x", "true_y"]
    return Drawn("velocities", "Class means of velocities", caption, page, columns, rows)


def _field(axes: Axes, at: dict[str, Any], points: np.ndarray, labels: list[int], centres: np.ndarray) -> None:
    """One time's dots, arrows and rings."""
    axes.add_patch(Circle((0, 0), 2.0, facecolor="none", edgecolor=RULE, linewidth=0.8))
    colours = [CLASSES[label] for label in labels]
    axes.scatter(points[:, 0], points[:, 1], s=2, c=colours, linewidths=0, alpha=0.35)
    for label, (place, velocity) in enumerate(zip(np.asarray(at["positions"]), np.asarray(at["velocities"]), strict=True)):
        tip = place + (1 - at["t"]) * velocity
        how = {"arrowstyle": "-|>,head_length=0.25,head_width=0.13", "color": CLASSES[label], "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", tip, place, arrowprops=how)
        axes.plot(*centres[label], "o", markersize=4, markerfacecolor="none", markeredgecolor=CLASSES[label], markeredgewidth=0.9)


def _bare(axes: Axes) -> None:
    """A frame without numbers: the plane's units are in the caption."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE, linewidth=0.6)
