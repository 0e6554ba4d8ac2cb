"""The waterfall of an explanation: each level of the Frechet distance as a bar from the level above it."""

from __future__ import annotations

from collections.abc import Sequence

from svgbench.tables.explanation import NOT_MEASURED, Explanation
from svgbench.tables.figures.palette import LINES
from svgbench.tables.figures.style import INK, RULE, SOFT, WIDTH, Page, styled

LEFT, RIGHT, TOP, ROW, BELOW = 2.3, 0.75, 0.42, 0.26, 0.62
"""Inches: the margin of the levels' names, that of the last numbers, above a panel, of a level, and below a panel."""
FLOOR, HIGHER, LOWER = LINES[6], LINES[1], LINES[2]
"""Colours of the first level, and of steps up and down."""

AXIS = "Frechet distance to the reference (steps do not add up exactly)"


def waterfall(explanations: Sequence[Explanation]) -> bytes:
    """A PNG with one panel for each run."""
    heights = [TOP + ROW * len(one.levels) + BELOW for one in explanations]
    with styled():
        page = Page(WIDTH, sum(heights))
        for number, one in enumerate(explanations):
            _panel(page, sum(heights[:number]), one)
        return page.saved("png")


def _panel(page: Page, top: float, explanation: Explanation) -> None:
    count = len(explanation.levels)
    axes = page.axes(LEFT, top + TOP, WIDTH - LEFT - RIGHT, ROW * count)
    page.text(0.08, top + 0.2, f"{explanation.run}: where its gFID comes from", fontsize=9, weight="bold", va="center")
    before, most = 0.0, max(level.high or level.value or 0.0 for level in explanation.levels)
    for row, level in enumerate(explanation.levels):
        if level.value is None:
            axes.text(before, row, f"  {NOT_MEASURED}", va="center", color=SOFT, fontsize=7)
            continue
        first = level.step is None
        colour = FLOOR if first else HIGHER if level.value >= before else LOWER
        axes.barh(row, level.value - before, left=before, height=0.62, color=colour, zorder=2)
        if level.low is not None and level.high is not None:
            axes.plot([level.low, level.high], [row, row], color=INK, linewidth=0.8, zorder=3)
        text = f"{level.value:.2f}" + ("" if first else f"  ({level.value - before:+.2f})")
        place = max(level.value, before, level.high or 0.0) + 0.015 * most
        axes.text(place, row, text, va="center", fontsize=7, color=INK)
        axes.plot([level.value, level.value], [row, min(row + 1, count - 1)], color=SOFT, linewidth=0.5, zorder=1)
        before = level.value
    axes.set_yticks(range(count), [level.title for level in explanation.levels])
    axes.set(
        ylim=(count - 0.5, -0.5), xlim=(0, 1.12 * most or 1.0), xlabel="Frechet distance to the reference (steps do not add up exactly)"
    )
    axes.xaxis.grid(True, color=RULE, linewidth=0.5, zorder=0)
    axes.tick_params(axis="y", length=0)
