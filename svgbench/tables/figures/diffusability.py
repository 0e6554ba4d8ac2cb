"""The picture of diffusability cards: a small panel for each figure, with a point and an interval for each tokenizer, then curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from svgbench.metrics.latent_figures import FIGURES, NOISES, LatentFigure
from svgbench.tables.diffusability import TITLE, Card
from svgbench.tables.figures.style import SOFT, WIDTH, Page, in_lines, line_of, styled

ABREAST = 4
"""Panels in a row."""
LEFT, RIGHT, TOP, GAP = 1.15, 0.15, 0.45, 0.22
"""Inches around and between the panels."""
ROW = 0.17
"""Inches for one tokenizer in a panel."""
CURVES = 1.5
"""Inches of the height of a curve's panel."""
SCALARS = tuple(one for one in FIGURES if not one.name.startswith("noise_psnr"))
"""The figures with a panel of points; PSNR is a curve."""


def drawn(cards: Sequence[Card], kind: str) -> bytes:
    """The bytes of the picture as ``png`` or ``svg``."""
    with styled():
        return page_of(cards).saved(kind)


def page_of(cards: Sequence[Card]) -> Page:
    """The picture as a page, inside the style of all figures."""
    height = max(0.5, ROW * max(len(cards), sum(in_lines(card.name).count("\n") + 1 for card in cards)))
    step, lines = height + 0.5, -(-len(SCALARS) // ABREAST)
    page = Page(WIDTH, TOP + lines * step + CURVES + 0.75)
    page.title(TITLE)
    width = (WIDTH - LEFT - RIGHT - (ABREAST - 1) * GAP) / ABREAST
    for number, figure in enumerate(SCALARS):
        down, across = divmod(number, ABREAST)
        axes = page.axes(LEFT + across * (width + GAP), TOP + 0.1 + down * step, width, height)
        _points(axes, figure, cards, names=across == 0)
    width = (WIDTH - LEFT - RIGHT - 2 * (GAP + 0.35)) / 3
    for number, (title, label, draw) in enumerate(PANELS):
        axes = page.axes(LEFT + number * (width + GAP + 0.35), TOP + lines * step + 0.1, width, CURVES)
        for row, card in enumerate(cards):
            draw(axes, card, {**line_of(row), "markersize": 2.5})
        axes.set_title(title, loc="left")
        axes.set_xlabel(label)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        if not axes.lines:
            axes.text(0.5, 0.5, "no tokenizer has it", transform=axes.transAxes, ha="center", color=SOFT)
    return page


def _points(axes: Axes, figure: LatentFigure, cards: Sequence[Card], *, names: bool) -> None:
    """The panel of one figure: a row for each tokenizer."""
    if figure.logarithmic:
        axes.set_xscale("log")
    for row, card in enumerate(cards):
        score, colour = card.score(figure.name), str(line_of(row)["color"])
        if score is None:
            axes.text(0.02, row, "-", transform=axes.get_yaxis_transform(), va="center", color=colour)
            continue
        axes.plot(score.value, row, "o", color=colour, markersize=3.6)
        if score.low is not None and score.high is not None:
            low = max(score.low, score.value / 10) if figure.logarithmic else score.low
            axes.hlines(row, low, score.high, color=colour, linewidth=1)
    axes.set_ylim(len(cards) - 0.4, -0.6)
    axes.set_yticks(range(len(cards)), [in_lines(card.name) for card in cards] if names else [])
    for label, row in zip(axes.get_yticklabels(), range(len(cards)), strict=False):
        label.set_color(str(line_of(row)["color"]))
    axes.tick_params(axis="y", length=0)
    axes.set_title(figure.heading, loc="left")
    if not axes.lines:
        axes.set_xticks([])
    elif not figure.logarithmic or axes.get_xlim()[1] < 10 * axes.get_xlim()[0]:  # too short for ticks at powers
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        _decimal(axes.xaxis, (1, 3))
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _decimal(axis: Axis, digits: tuple[int, ...]) -> None:
    """Ticks of a logarithmic axis as plain numbers that begin with one of the digits."""
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _irreducible(axes: Axes, card: Card, how: dict[str, Any]) -> None:
    curve = card.curves["irreducible"]
    if "gaussian" in curve:
        axes.plot(curve["times"], curve["gaussian"], **{**how, "marker": ""})


def _bands(axes: Axes, card: Card, how: dict[str, Any]) -> None:
    bands = card.curves["bands"][1:]
    if len(bands) > 1 and min(bands) > 0:
        axes.plot(range(1, len(bands) + 1), bands, **how)
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            _decimal(axis, (1, 2, 5))


def _noise(axes: Axes, card: Card, how: dict[str, Any]) -> None:
    scores = [card.score(f"noise_psnr_{noise:g}") for noise in NOISES]
    values = [score.value for score in scores if score is not None]
    if len(values) == len(NOISES):
        axes.plot(NOISES, values, **how)


PANELS: tuple[tuple[str, str, Callable[[Axes, Card, dict[str, Any]], None]], ...] = (
    ("irreducible variance, Gaussian", "t (0 noise, 1 data)", _irreducible),
    ("energy of a DCT coefficient", "frequency u + v", _bands),
    ("PSNR (dB)", "noise on the latent", _noise),
)
"""Title, label of the horizontal axis and drawing of each panel of curves."""
