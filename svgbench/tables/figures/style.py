"""The style of all figures: one page width, one font size, colours that colour-blind readers can distinguish, labels next to their lines.

Figures are laid out in inches from the upper left corner, so that nothing shifts with a label's length. Saving gives the same bytes every
time: no dates, fixed identifiers, a font that comes with matplotlib.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from svgbench.tables.figures.palette import LINES

WIDTH = 7.0
"""Inches: the width of a page's text column."""
INK, SOFT, RULE = "#1b1b1b", "#6a6a6a", "#dcdcdc"
CLASSES = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#7f7f7f")
"""Paul Tol's muted colours, for ten classes."""
MARKERS, DASHES = ("o", "s", "^"), ("-", (0, (4, 1.5)), (0, (1.2, 1.2)))
"""The next of these are used when the colours of lines run out."""
DPI = 200
SMALL_IMAGE = 96
"""Images up to this side in pixels are shown with nearest-neighbour interpolation, larger ones with antialiasing."""

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 7.5, "axes.titlesize": 7.5, "axes.labelsize": 7.5, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "axes.titlepad": 5, "axes.linewidth": 0.6, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.minor.size": 0,
    "ytick.minor.size": 0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "grid.color": RULE,
    "grid.linewidth": 0.5, "lines.linewidth": 1.3, "lines.markersize": 4.2, "svg.hashsalt": "svgbench", "svg.fonttype": "path",
    "figure.dpi": DPI, "savefig.dpi": DPI, "path.simplify": False,
}  # fmt: skip
LONGEST = 18
"""Most letters per line of a name in the margin beside pictures."""


@contextmanager
def styled() -> Iterator[None]:
    """Inside this context, figures look the same whatever the user's matplotlib settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


class Page:
    """A figure with coordinates in inches, x from the left edge, y from the upper edge."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(self.figure)
        self._sheet: Axes | None = None

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose upper left corner is at (x, y)."""
        whole = self.width, self.height
        return self.figure.add_axes((x / whole[0], 1 - (y + height) / whole[1], width / whole[0], height / whole[1]))

    def title(self, text: str) -> None:
        """The figure's title, in its upper left corner."""
        self.text(0.08, 0.16, text, fontsize=9, weight="bold", va="center")

    def text(self, x: float, y: float, text: str, **how: Any) -> None:
        """A text at (x, y)."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **how)

    def picture(self, x: float, y: float, side: float, pixels: np.ndarray) -> None:
        """A uint8 image [3, H, W] as a square."""
        if self._sheet is None:
            self._sheet = self.figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0), zorder=-1)
            self._sheet.set_axis_off()
        how = "nearest" if pixels.shape[-1] <= SMALL_IMAGE else "antialiased"
        self._sheet.imshow(np.moveaxis(pixels, 0, -1), extent=(x, x + side, y + side, y), interpolation=how, aspect="auto")
        self._sheet.set(xlim=(0, self.width), ylim=(self.height, 0))

    def saved(self, kind: str) -> bytes:
        """The bytes of a ``png`` or ``svg``."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format=kind, metadata={"Software": None} if kind == "png" else {"Date": None, "Creator": None})
        return buffer.getvalue()


class FigureData(NamedTuple):
    """A figure, what it shows, and the table behind it."""

    name: str
    title: str
    caption: str
    page: Page
    columns: list[str]
    rows: list[list[Any]]
    paper: str = ""
    """The figure of the paper that it reproduces: ``figure 4``."""


def percent(share: float) -> str:
    """A share in percent; zero has no sign."""
    return f"{round(100 * share, 1) + 0.0:.1f} %"


def bare(axes: Axes) -> None:
    """A frame without numbers; the caption states the units."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE, linewidth=0.6)


def class_colours(count: int) -> list[Any]:
    """A colour for each class: distinct colours for up to ten, tab20 for up to twenty, else evenly spaced hues."""
    if count <= len(CLASSES):
        return list(CLASSES[:count])
    if count <= 20:
        return [matplotlib.colormaps["tab20"](number) for number in range(count)]
    return [matplotlib.colormaps["hsv"](number / count) for number in range(count)]


def line_of(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the n-th line."""
    turn = number // len(LINES) % len(MARKERS)
    return {
        "color": LINES[number % len(LINES)], "marker": MARKERS[turn], "linestyle": DASHES[turn], "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }  # fmt: skip


def aside(number: int, count: int) -> float:
    """The offset of item ``number`` of ``count`` from their common position, -0.5 to 0.5, so that intervals do not overlap."""
    return (number - (count - 1) / 2) / max(count - 1, 1)


def in_lines(name: str) -> str:
    """A row's name with one line for each part: ``mae-tiny.no-align.weak-share-0.5`` and ``dinov3, align=none, shift=0.5`` have three.
    A point before a digit is a decimal point, unless the six hex digits of a digest follow: with a letter among them, or after a letter.
    Long parts break at their dashes."""
    if "=" in name or ", " in name:
        return "\n".join(line for part in name.split(", ") for line in textwrap.wrap(part, LONGEST, break_long_words=False) or [part])
    digest = r"[0-9a-f]{6}(?:\.|$)"
    words = re.split(rf"\.(?!\d)|\.(?=\d*[a-f])(?={digest})|(?<!\d)\.(?={digest})", name)
    return "\n".join(line for word in words for line in textwrap.wrap(word, LONGEST, break_long_words=False) or [word])


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions at least ``gap`` apart, in the order of the wanted ones and as close to them as possible."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[float, list[int]]] = []  # centre, members
    for i in order:
        groups.append((wanted[i], [i]))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (len(groups[-1][1]) + len(groups[-2][1])) / 2:
            members = groups[-2][1] + groups[-1][1]
            groups[-2:] = [(sum(wanted[m] for m in members) / len(members), members)]
    placed = [0.0] * len(wanted)
    for centre, members in groups:
        for place, member in enumerate(members):
            placed[member] = centre + (place - (len(members) - 1) / 2) * gap
    return placed


def name_lines(axes: Axes, ends: Sequence[tuple[float, float, str, str]], height: float) -> None:
    """Names of lines to the right of axes ``height`` inches high. ``ends``: (x, y, name, colour) of each line's end. Names never overlap;
    long ones are set smaller."""
    low, high = axes.transAxes.inverted().transform(axes.transData.transform([(x, y) for x, y, *_ in ends]))[:, 1], 0.135 / height
    for (x, y, name, colour), place in zip(ends, spread(list(low), high), strict=True):
        axes.annotate(
            name, (x, y), (1.03, place), textcoords="axes fraction", color=colour, va="center", annotation_clip=False,
            fontsize=7 * min(1, 27 / len(name)),
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3, "alpha": 0.6, "relpos": (0, 0.5)},
        )  # fmt: skip


NAME_STEP = 0.15
"""Inches between the names of two classes."""


def height_of_names(names: Sequence[str]) -> float:
    """Inches that ``name_classes`` needs below the middle of its first line."""
    return NAME_STEP * len(names)


def name_classes(page: Page, x: float, y: float, names: Sequence[str]) -> None:
    """The classes' colours and names, one below the other."""
    for number, name in enumerate(names):
        page.text(x, y + NAME_STEP * number, "●", color=CLASSES[number], va="center", fontsize=7)
        page.text(x + 0.13, y + NAME_STEP * number, name if len(name) <= 18 else name[:17] + "…", va="center", fontsize=7)
