"""Curves: gFID against sampling steps, guidance and images seen in training, and the separation of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from svgbench.config.records import Protocol, digest
from svgbench.tables.figures.palette import LINES
from svgbench.tables.figures.sources import TokenizerRuns
from svgbench.tables.figures.style import SOFT, WIDTH, FigureData, Page, aside, in_lines, line_of, name_lines
from svgbench.tables.labels import row_of
from svgbench.tables.seeds import half_interval

LEFT, RIGHT, TOP, GAP = 0.62, 1.55, 0.3, 0.3
"""Inches around panels."""
INTERVAL: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.55, "zorder": 1.5}
ABREAST = 3
"""Panels in a row."""
LOG_FROM = 6.0
"""A vertical axis whose values span more than this factor is logarithmic."""

Rows = list[dict[str, Any]]


class Point(NamedTuple):
    """One mean over seeds of one line in one panel."""

    panel: tuple[str, float]
    """The protocol without sampling (text), and the guidance (the steps, if guidance is the axis)."""
    line: str
    x: float
    value: float
    low: float | None
    high: float | None
    rows: Rows


def gfid_by_steps(tokenizers: Sequence[TokenizerRuns]) -> FigureData | str:
    """gFID against sampling steps, or the reason why it is not drawn."""
    rows = {one.name: [row for row in _gfid(one) if row["images_seen"] == _longest(one)] for one in tokenizers}
    points = _points(rows, lambda row: row["steps"])
    if not _has_lines(points):
        return "gFID against sampling steps needs a run with gFID at two counts of steps or more."
    title = "gFID against sampling steps"
    return _drawn("gfid-by-steps", title, "sampling steps", points, {one.name: one.number for one in tokenizers})


def gfid_by_guidance(tokenizers: Sequence[TokenizerRuns]) -> FigureData | str:
    """gFID against the guidance scale at each tokenizer's largest number of sampling steps, or the reason why it is not drawn."""
    most = {one.name: max((row["steps"] for row in _gfid(one)), default=0) for one in tokenizers}
    rows = {
        one.name: [row for row in _gfid(one) if row["images_seen"] == _longest(one) and row["steps"] == most[one.name]]
        for one in tokenizers
    }
    points = _points(rows, lambda row: row["guidance"], panel="steps")
    if not _has_lines(points):
        return "gFID against guidance needs a run with gFID at two guidance scales or more (see the experiment guidance)."
    title = "gFID against the guidance scale"
    return _drawn(
        "gfid-by-guidance", title, "guidance scale", points, {one.name: one.number for one in tokenizers}, panel="number of steps"
    )


def gfid_by_images(tokenizers: Sequence[TokenizerRuns]) -> FigureData | str:
    """gFID at the largest number of sampling steps against images seen in training, or the reason why it is not drawn. A curve follows one
    training if its snapshots were sampled, else trainings that differ only in their length."""
    groups: dict[str, list[TokenizerRuns]] = {}
    for one in tokenizers:
        along = len({row["images_seen"] for row in _gfid(one)}) > 1
        groups.setdefault(one.name if along else _without_length(one), []).append(one)
    names = {key: min((one.name for one in group), key=len) for key, group in groups.items()}
    rows = {names[key]: [row for one in group for row in _gfid(one)] for key, group in groups.items()}
    most = max((row["steps"] for of_tokenizer in rows.values() for row in of_tokenizer), default=0)
    points = _points(
        {name: [r for r in of_tokenizer if r["steps"] == most] for name, of_tokenizer in rows.items()}, lambda row: row["images_seen"]
    )
    if not _has_lines(points):
        return "gFID against images seen needs snapshots along a training (see the experiment convergence), or two training lengths."
    title = f"gFID against images seen in training, {most} sampling steps"
    numbers = {names[key]: min(one.number for one in group) for key, group in groups.items()}
    return _drawn("gfid-by-images", title, "images seen", points, numbers)


def gfid_along(one: TokenizerRuns) -> list[tuple[int, float, dict[str, Any]]]:
    """(images seen, mean gFID over seeds, a row of scores) without guidance at the largest number of steps, along a training under one
    protocol."""
    rows = [row for row in _gfid(one) if row["guidance"] == 1]
    most = max((row["steps"] for row in rows), default=0)
    points = _points({one.name: [row for row in rows if row["steps"] == most]}, lambda row: row["images_seen"])
    first = (points[0].panel, points[0].line) if points else None
    return [(int(point.x), point.value, point.rows[0]) for point in points if (point.panel, point.line) == first]


def _drawn(name: str, title: str, axis: str, points: list[Point], numbers: dict[str, int], panel: str = "guidance") -> FigureData:
    """The figure of points. ``axis``: what x is; ``numbers``: tokenizer -> its number, which fixes its colour; ``panel``: what is
    constant in a panel beside the protocol."""
    seeds = sorted({len(point.rows) for point in points})
    several = f"mean over {' or '.join(map(str, seeds))} seeds with its 95 % t-interval" if seeds[-1] > 1 else ""
    single = "value with its bootstrap interval for one seed" if seeds[0] == 1 else ""
    caption = (
        f"Frechet distance of samples to the training images (lower is better) against {axis}; one line per tokenizer, one panel per "
        f"{panel} and protocol: {'; '.join(part for part in (several, single) if part)}."
    )
    columns = ["tokenizer", "guidance", "steps", "images_seen", "gfid", "low", "high", "seeds", "count", "sampler", "protocol"]
    rows = []
    for point in points:
        row = point.rows[0]
        how = Protocol.model_validate(row["protocol_fields"]).sampling
        shown = [point.line, row["guidance"], row["steps"], row["images_seen"], point.value, point.low, point.high, len(point.rows)]
        rows.append([*shown, row["count"], how.how if how else "", row["protocol"]])
    return FigureData(name, title, caption, _panels(points, numbers, axis, title), columns, rows)


def _gfid(one: TokenizerRuns) -> Rows:
    return [row for row in one.rows if row["metric"] == "gfid" and row["images_seen"] is not None]


def _longest(one: TokenizerRuns) -> int:
    return max((row["images_seen"] for row in _gfid(one)), default=0)


def _without_length(one: TokenizerRuns) -> str:
    """Digest of the configuration without seed, sampling and the length of the transformer's training."""
    config = one.config.model_dump(mode="json", exclude={"seed": True, "sampling": True})
    training = config["diffusion"]["training"]
    return digest({**config, "diffusion": {**config["diffusion"], "training": {**training, "total_images": 0, "checkpoint_images": 0}}})


def _points(rows: dict[str, Rows], x: Callable[[dict[str, Any]], float], panel: str = "guidance") -> list[Point]:
    """Averages over seeds. ``panel``: the column with one panel per value. Each line is a tokenizer with one way of sampling; if there are
    several, its name states what differs. With guidance as the axis, unguided samples start the line of the tokenizer's guided ones."""
    cells: dict[tuple[tuple[str, float], str, str, float], Rows] = {}
    for name, of_tokenizer in rows.items():
        guided = {_way(row) for row in of_tokenizer if row["guidance"] != 1} if panel == "steps" else set()
        for row in of_tokenizer:
            way = guided.copy().pop() if row["guidance"] == 1 and len(guided) == 1 else _way(row)
            made = Protocol.model_validate(row["protocol_fields"])
            judged = made.model_copy(update={"sampling": None}).text
            cells.setdefault(((judged, row[panel]), name, way, x(row)), []).append(row)
    shown = _distinct_labels({way for _, _, way, _ in cells})
    points = []
    for (place, name, way, where), point_rows in sorted(
        cells.items(), key=lambda item: (item[0][0], list(rows).index(item[0][1]), *item[0][2:])
    ):
        values = [row["value"] for row in point_rows]
        value = mean(values)
        half = half_interval(values) if len(values) > 1 else None
        low, high = (point_rows[0]["low"], point_rows[0]["high"]) if half is None else (value - half, value + half)
        points.append(Point(place, f"{name}, {shown[way]}" if shown[way] else name, where, value, low, high, point_rows))
    return points


def _way(row: dict[str, Any]) -> str:
    """How a row's samples were drawn, except for steps and guidance."""
    how = Protocol.model_validate(row["protocol_fields"]).sampling
    return how.how if how else ""


def _distinct_labels(ways: set[str]) -> dict[str, str]:
    """Each way of sampling -> its words that not all of them share: ``euler-shift0.15`` and ``heun-shift0.15`` give euler and heun."""
    common = set.intersection(*(set(way.split("-")) for way in ways)) if ways else set()
    return {way: "-".join(word for word in way.split("-") if word not in common) for way in ways}


def _has_lines(points: list[Point]) -> bool:
    ends: dict[tuple[Any, str], set[float]] = {}
    for point in points:
        ends.setdefault((point.panel, point.line), set()).add(point.x)
    return any(len(xs) > 1 for xs in ends.values())


def _panels(points: list[Point], numbers: dict[str, int], label: str, title: str) -> Page:
    """A panel for each protocol and guidance; panels of one protocol have the same axes. Names are at the last panel of a row.
    ``numbers``: name of a row -> its number, which determines its colour."""
    panels = list(dict.fromkeys(point.panel for point in points))
    lines = _numbered(dict.fromkeys(point.line for point in points), numbers)
    columns = min(ABREAST, max(sum(panel[0] == judged for panel in panels) for judged, _ in panels))
    rows = []  # each protocol starts a new row
    for judged in dict.fromkeys(judged for judged, _ in panels):
        judge_panels = [panel for panel in panels if panel[0] == judged]
        rows += [judge_panels[start : start + columns] for start in range(0, len(judge_panels), columns)]
    width, height = (WIDTH - LEFT - RIGHT - (columns - 1) * GAP) / columns, max(2.1, 0.15 * len(lines))
    step = height + 0.85
    page = Page(WIDTH, TOP + len(rows) * step)
    page.title(title)
    for down, row in enumerate(rows):
        same = [point for point in points if point.panel[0] == row[0][0]]
        for across, panel in enumerate(row):
            axes = page.axes(LEFT + across * (width + GAP), TOP + 0.22 + down * step, width, height)
            ends = _lines(axes, [point for point in points if point.panel == panel], lines)
            _scales(axes, same)
            axes.set_title(_panel_title(panel[1], label), loc="left")
            axes.set_xlabel(label)
            if across == 0:
                axes.set_ylabel("gFID (lower is better)")
            else:
                axes.tick_params(labelleft=False)
            if panel == row[-1]:
                name_lines(axes, ends, height)
        page.text(LEFT, TOP + down * step + height + 0.72, row[0][0], fontsize=5.5, color=SOFT, va="center")
    return page


def _panel_title(number: float, label: str) -> str:
    """The meaning of a panel's number: the steps if the axis is the guidance, else the guidance."""
    if label == "guidance scale":
        return f"{number:g} step{'s' * (number != 1)}"
    return "without guidance" if number == 1 else f"guidance {number:g}"


def _numbered(lines: Iterable[str], numbers: dict[str, int]) -> dict[str, int]:
    """Name of each line -> its number, in the order of the rows. Several lines of one row have one colour and differ in their dashes."""
    of_row: dict[str, list[str]] = {}
    for line in lines:
        of_row.setdefault(row_of(line, numbers) or line, []).append(line)
    rows = sorted(of_row, key=lambda row: numbers.get(row, len(numbers)))
    return {line: numbers.get(row, len(numbers)) + i * len(LINES) for row in rows for i, line in enumerate(sorted(of_row[row]))}


def _lines(axes: Axes, points: list[Point], lines: dict[str, int]) -> list[tuple[float, float, str, str]]:
    """Draws a panel's lines; returns the end of each: (x, y, name, colour)."""
    ends = []
    for place, (line, number) in enumerate(lines.items()):
        line_points = [point for point in points if point.line == line]
        if not line_points:
            continue
        how, beside = line_of(number), 1 + 0.09 * aside(place, len(lines))
        axes.plot([p.x * beside for p in line_points], [p.value for p in line_points], **how)
        known = [(p.x * beside, p.low, p.high) for p in line_points if p.low is not None and p.high is not None]
        axes.vlines([x for x, _, _ in known], [low for _, low, _ in known], [high for _, _, high in known], color=how["color"], **INTERVAL)
        ends.append((line_points[-1].x * beside, line_points[-1].value, line, str(how["color"])))
    return ends


def _scales(axes: Axes, points: list[Point]) -> None:
    """Sets axis ranges that include all these points: x logarithmic with a tick at each count, y logarithmic if its values span more than
    ``LOG_FROM``."""
    xs = sorted({point.x for point in points})
    axes.set_xscale("log")
    axes.set_xlim(xs[0] / 1.18, xs[-1] * 1.18)
    kept = [x for i, x in enumerate(xs) if i == 0 or x > 1.2 * xs[i - 1]]
    axes.set_xticks(kept, [_count(x) for x in kept])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = min(p.value for p in points), max(p.value for p in points)
    whole = [bound for p in points for bound in (p.low, p.high, p.value) if bound is not None and bound > 0]
    if low > 0 and high / low > LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(max(min(whole), low / 2) / 1.1, max(whole) * 1.1)
    else:
        room = 0.06 * (max(whole) - min(whole) or 1)
        axes.set_ylim(min(whole) - room, max(whole) + room)
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _count(x: float) -> str:
    """A count in short form: 25, 64k, 1.2M."""
    return f"{x / 1e6:g}M" if x >= 1_000_000 else f"{x / 1e3:g}k" if x >= 1000 else f"{x:g}"


def class_shares(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """The share of the variance that the class explains: of pooled latents, and of the velocities at each time."""
    columns = ["tokenizer", "of", "t", "class_share", "low", "high", "count", "protocol"]
    rows: list[list[Any]] = []
    height = max(2.2, 0.24 * len(tokenizers))
    page = Page(WIDTH, TOP + height + 0.75)
    page.title("How far classes are apart: share of the variance that the class explains")
    left = page.axes(1.45, TOP + 0.22, 1.65, height)
    right = page.axes(3.75, TOP + 0.22, 1.7, height)
    markers = {"features": "o", "residual": "x", "both": "D"}
    ends = []
    for number, one in enumerate(tokenizers):
        colour = str(line_of(one.number)["color"])
        scores = one.read("embedding")[1]["class_share"]
        for score in scores:
            part = score["detail"]["latents"]
            how: dict[str, Any] = {"markerfacecolor": "white"} if part == "both" else {}
            y = number + 0.44 * aside(list(markers).index(part), len(markers)) if len(scores) > 1 else number
            left.plot(100 * score["value"], y, markers[part], color=colour, clip_on=False, **how)
            left.hlines(y, 100 * score["low"], 100 * score["high"], color=colour, **INTERVAL)
            rows.append([one.name, f"latents: {part}", None, *(score[name] for name in ("value", "low", "high", "count")), _text(score)])
        times = one.read("velocities")[1]["times"]
        beside = 0.05 * aside(number, len(tokenizers))
        right.plot([at["t"] + beside for at in times], [100 * at["class_share"]["value"] for at in times], **line_of(one.number))
        for at in times:
            score = at["class_share"]
            right.vlines(at["t"] + beside, 100 * score["low"], 100 * score["high"], color=colour, **INTERVAL)
            rows.append([one.name, "velocities", at["t"], *(score[name] for name in ("value", "low", "high", "count")), _text(score)])
        ends.append((times[-1]["t"] + beside, 100 * times[-1]["class_share"]["value"], one.name, colour))
    left.set_yticks(range(len(tokenizers)), [in_lines(one.name) for one in tokenizers])
    left.set_ylim(len(tokenizers) - 0.4, -0.6)
    left.set_xlabel("of pooled latents, %\n• features   × residual   ◇ both")
    left.set_title("latents", loc="left")
    right.set_xlabel("t (0 noise, 1 data)")
    right.set_ylabel("of velocities, %")
    right.set_title("unconditional velocities", loc="left")
    left.grid(axis="x")
    right.grid(axis="y")
    for axes in (left, right):
        axes.set_axisbelow(True)
        axes.axhline(0, color=SOFT, linewidth=0.5) if axes is right else axes.axvline(0, color=SOFT, linewidth=0.5)
    name_lines(right, ends, height)
    caption = (
        "Omega squared of the class with its 95 % bootstrap interval; about 0 where classes are entangled, 1 where nothing but the class "
        "varies. Left: latents as the transformer sees them, averaged over positions. Right: velocities that the trained transformer gives "
        "noised validation images without the class as a condition."
    )
    return FigureData("class-share", "How far classes are apart", caption, page, columns, rows)


def _text(score: dict[str, Any]) -> str:
    return Protocol.model_validate(score["protocol"]).text
