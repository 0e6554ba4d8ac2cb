"""Curves as inline SVG without scripts: axes, lines, markers that differ in shape as well as colour, error bars over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

from svgbench.tables.figures.palette import LINES
from svgbench.tables.figures.series import Curve
from svgbench.tables.ratios import NAMES

WIDTH, HEIGHT = 460, 330
LEFT, RIGHT, TOP, BOTTOM = 46, 448, 14, 286
HUES = len(LINES)
"""Colours of the style sheet; further rows reuse the colours with other dashes."""


def chart(curves: Sequence[Curve], number: int, rows: Mapping[str, int]) -> str:
    """A figure of gFID against the logarithm of steps or images seen: one line per curve, a legend and a table of the numbers.
    ``rows``: name of each row of the tables -> its number, which also determines its colour and marker."""
    hues = [rows.get(curve.records[0].row, i) for i, curve in enumerate(curves)]
    if len({curve.sampled for curve in curves}) > 1:
        curves = [replace(curve, name=f"{curve.name} ({curve.sampled})") for curve in curves]
    points = [point for curve in curves for point in curve.points()]
    xs = sorted({x for x, _, _ in points})
    low, high = min(y - (half or 0) for _, y, half in points), max(y + (half or 0) for _, y, half in points)
    ticks = _ticks(low, high)
    across = _Across(xs[0], xs[-1])
    up = _Up(ticks[0], ticks[-1])
    what = NAMES[curves[0].over]
    title = f"gFID by {what}" + ("" if curves[0].guidance == 1 else f", guidance {curves[0].guidance:g}")
    if curves[0].steps is not None:
        title += f", {curves[0].steps} steps"
    parts = [f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{up(t):.1f}" y2="{up(t):.1f}"/>' for t in ticks]
    parts += [f'<text class="tick" x="{LEFT - 7}" y="{up(t) + 4:.1f}" text-anchor="end">{t:g}</text>' for t in ticks]
    labelled = [(across(x), _short(x)) for x in _apart(xs, across)]
    parts += [f'<text class="tick" x="{at:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{text}</text>' for at, text in labelled]
    parts += [f'<line class="axis" x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{BOTTOM}" y2="{BOTTOM + 5}"/>' for x in xs]
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>')
    parts.append(f'<text class="label" x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{what} (log scale)</text>')
    parts += [_line(curve, i, hue, across, up) for i, (curve, hue) in enumerate(zip(curves, hues, strict=True))]
    keys = "".join(
        f'<li><button type="button" class="key" data-curve="{i}" aria-pressed="false">{swatch(hue)}{escape(curve.name)}</button></li>'
        for i, (curve, hue) in enumerate(zip(curves, hues, strict=True))
    )
    caption = f'<figcaption>{escape(title)}<span class="axisnote"> ↓ lower is better</span></figcaption>'
    label = f"{escape(title)}: {len(curves)} curves; their numbers are in the table below"
    return (
        f'<figure class="chart" id="chart-{number}">{caption}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{label}" data-roving>{"".join(parts)}</svg>'
        f'<ul class="legend" aria-label="Curves">{keys}</ul>{_numbers(curves, xs, title)}</figure>'
    )


class _Across:
    """Horizontal position (logarithmic) for steps or images seen."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._width = math.log(first), math.log(last) - math.log(first)

    def __call__(self, x: float) -> float:
        return LEFT + 14 + (RIGHT - LEFT - 28) * (math.log(x) - self._first) / self._width


class _Up:
    """Vertical position for a gFID."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._height = low, high - low

    def __call__(self, y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (y - self._low) / self._height


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers around a range."""
    raw = max(high - low, 1e-6) / 4
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _apart(xs: list[float], across: _Across) -> list[float]:
    """The values whose labels do not overlap; the last one has priority."""
    kept: list[float] = []
    for x in reversed(xs):
        if not kept or across(kept[-1]) - across(x) > 34:
            kept.append(x)
    return kept


def _short(x: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= 10 * size or (x >= size and x % size == 0):
            return f"{x / size:.3g}{letter}"
    return f"{x:g}"


def _line(curve: Curve, number: int, hue: int, across: _Across, up: _Up) -> str:
    """One curve: error bars, line, and a marker with a tooltip for each point."""
    points = curve.points()
    path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _ in points)
    parts = [
        f'<line class="whisker" x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{up(y - half):.1f}" y2="{up(y + half):.1f}"/>'
        for x, y, half in points
        if half is not None
    ]
    parts.append(f'<polyline class="line dash{hue // HUES % 3}" points="{path}"/>')
    what = "steps" if curve.over == "steps" else "images"
    for x, y, half in points:
        numbers = f"{curve.name}: gFID {y:.2f}{'' if half is None else f' ± {half:.2f}'} at {x:,.0f} {what}"
        place = f"translate({across(x):.1f} {up(y):.1f})"
        label = f'tabindex="-1" role="img" aria-label="{escape(numbers)}" data-hint="{escape(numbers)}"'
        parts.append(f'<g class="point" {label} transform="{place}"><circle class="aim" r="11"/>{_marker(hue)}</g>')
    return f'<g class="curve hue{hue % HUES}" data-curve="{number}">{"".join(parts)}</g>'


def _marker(number: int) -> str:
    """Circle, square, triangle, diamond in turn."""
    shapes = (
        '<circle class="mark" r="4.2"/>', '<rect class="mark" x="-3.8" y="-3.8" width="7.6" height="7.6"/>',
        '<path class="mark" d="M0-5 4.8 3.8H-4.8Z"/>', '<path class="mark" d="M0-5.4 5.4 0 0 5.4-5.4 0Z"/>',
    )  # fmt: skip
    return shapes[number % len(shapes)]


def swatch(number: int) -> str:
    """The colour, dash and marker of a row, as a legend shows them."""
    drawn = f'<line class="line dash{number // HUES % 3}" x1="-13" x2="13" y1="0" y2="0"/>{_marker(number)}'
    return f'<svg class="swatch hue{number % HUES}" viewBox="-14 -7 28 14" aria-hidden="true">{drawn}</svg>'


def _numbers(curves: Sequence[Curve], xs: list[float], title: str) -> str:
    """The curves as a collapsed table."""
    head = "".join(f'<th scope="col">{x:,.0f}</th>' for x in xs)
    body = ""
    for curve in curves:
        text_at = {x: f"{y:.2f}" + ("" if half is None else f" ± {half:.2f}") for x, y, half in curve.points()}
        cells = "".join(f"<td>{text_at.get(x, '–')}</td>" for x in xs)
        body += f'<tr><th scope="row">{escape(curve.name)}</th>{cells}</tr>'
    table = f'<table><caption class="unseen">{escape(title)}</caption><thead><tr><th scope="col">run</th>{head}</tr></thead>'
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}: numbers">'
    return f"<details><summary>Numbers of these curves</summary>{region}{table}<tbody>{body}</tbody></table></div></details>"
