"""Headline ratios from measured curves: the steps or images that a baseline needs to reach a gFID, divided by those that a run needs.

Between two measured points, gFID is interpolated linearly in the logarithm of steps or of images seen; a curve reaches a gFID where it
first falls to it. Curves are not extrapolated: a gFID that is not reached is marked, and one already reached at the first point gives a
bound. Crossings and ratios are computed seed by seed; tables show the geometric mean over seeds and its 95 % t-interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from svgbench.tables.figures.series import Curve
from svgbench.tables.seeds import half_interval
from svgbench.tables.table import Cell, Table

NAMES = {"steps": "sampling steps", "images_seen": "images seen"}


@dataclass(frozen=True)
class Crossing:
    """The point at which a curve reaches a gFID."""

    x: float
    """Steps or images seen; infinite if the gFID is not reached."""
    before: bool = False
    """Whether it was already reached at the first measured point, so that ``x`` is an upper bound."""

    @property
    def reached(self) -> bool:
        """Whether the curve reaches the gFID at all."""
        return math.isfinite(self.x)


def crossing(points: Sequence[tuple[float, float]], target: float) -> Crossing:
    """Where (x, gFID) points, left to right, first fall to ``target``."""
    if points[0][1] <= target:
        return Crossing(points[0][0], before=True)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y1 <= target:
            share = (y0 - target) / (y0 - y1)
            return Crossing(math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0))))
    return Crossing(math.inf)


def ratio_table(curves: Sequence[Curve], *, baseline: str, targets: Sequence[float] = (), notes: Sequence[str] = ()) -> Table | None:
    """Compares each curve with the baseline's at the best gFID of the baseline, at the lowest that all reach, and at every target; None
    without curves.

    The best of the baseline is also taken seed by seed: each seed of a run is compared with the same seed of the baseline. A seed that
    lacks a point of its curve is left out, with a note."""
    partial = _partial(curves)
    curves = [replace(curve, seeds=curve.whole()) for curve in curves if curve.whole()]
    if not curves:
        return None
    base = next((curve for curve in curves if curve.is_of(baseline)), curves[0])
    missing = f"no curve belongs to the baseline '{baseline}'; {base.name} is used instead"
    absent = [] if base.is_of(baseline) else [missing]
    what, guided = NAMES[base.over], "" if base.guidance == 1 else f", guidance {base.guidance:g}"
    hours = base.over == "images_seen"
    columns = ["run", "gFID to reach", what, f"fewer than {base.name}", *(["device-hours", "fewer hours"] if hours else []), "curve"]
    table = Table(f"Headline ratios: {what} to reach a gFID{guided}", columns, [], kind="ratios")
    bests = {seed: min(y for _, y in points) for seed, points in base.seeds.items()}
    wanted = [(f"{mean(bests.values()):.2f} (best of {base.name})", bests)]
    common = _common([curve for curve in curves if _alike(curve, base)], bests)
    wanted += [(f"{mean(common.values()):.2f} (the lowest that all reach)", common)] if common != bests else []
    wanted += [(f"{t:g}", dict.fromkeys(bests, t)) for t in targets]
    for text, goals in wanted:
        for curve in curves:
            table.rows.append([curve.name, text, *_cells(curve, base, goals, hours), _drawn(curve)])
    steps = f"; sampled with {base.steps} steps" if hours else ""
    table.notes = [
        f"computed from the curves in the last column ({what}: gFID), linear in log {what} between measured points{steps}",
        "× is the baseline's number over the run's, at the same gFID and seed: above 1 the run needs fewer",
        *absent,
        *partial,
        *_spread(curves),
        *(["device-hours: hours of the diffusion stage per image seen, times the images seen; " + _devices(curves)] if hours else []),
        *notes,
    ]
    return table


def _alike(one: Curve, other: Curve) -> bool:
    """Whether two curves may be compared."""
    return (one.protocol, one.guidance, one.steps) == (other.protocol, other.guidance, other.steps)


def _common(curves: Sequence[Curve], bests: dict[int, float]) -> dict[int, float]:
    """The lowest gFID that every curve reaches, for each seed of the baseline. ``bests``: the baseline's best for each seed."""
    reached = {seed: [min(y for _, y in curve.seeds[seed]) for curve in curves if seed in curve.seeds] for seed in bests}
    return {seed: max(bests_of_seed) for seed, bests_of_seed in reached.items()}


def _cells(curve: Curve, base: Curve, goals: dict[int, float], hours: bool) -> list[str]:
    """The number of steps or images and its ratio, then both in hours if ``hours``."""
    width = 4 if hours else 2
    if not _alike(curve, base):
        return ["other protocol", *["-"] * (width - 1)]
    seeds = [seed for seed in curve.seeds if seed in goals]
    if not seeds:
        return ["no seed of the baseline", *["-"] * (width - 1)]
    mine = [crossing(curve.seeds[seed], goals[seed]) for seed in seeds]
    theirs = [crossing(base.seeds[seed], goals[seed]) for seed in seeds]
    missed = sum(not c.reached for c in mine)
    if missed:
        return ["not reached" if missed == len(mine) else f"not reached by {missed} of {len(mine)} seeds", *["-"] * (width - 1)]
    sign = "≤ " if any(c.before for c in mine) else ""
    cells = [_folded([c.x for c in mine], sign=sign), _ratio(curve is base, mine, theirs, [1.0] * len(mine))]
    if not hours:
        return cells
    curve_rates, others = ([_hours_per_image(c, seed) for seed in seeds] for c in (curve, base))
    if None in curve_rates:
        return [*cells, "-", "-"]
    cells.append(_folded([c.x * rate for c, rate in zip(mine, curve_rates, strict=True) if rate], sign=sign))
    same = None not in others and _device(curve) == _device(base)
    rates = [b / a for a, b in zip(curve_rates, others, strict=True) if a and b] if same else []
    return [*cells, _ratio(curve is base, mine, theirs, rates) if len(rates) == len(mine) else "-"]


def _ratio(is_base: bool, mine: list[Crossing], theirs: list[Crossing], rates: list[float]) -> str:
    """The ratio of the baseline's numbers to the run's, multiplied by ``rates``."""
    if is_base:
        return Cell("1 ×", value=1.0)
    missed = sum(not c.reached for c in theirs)
    if missed:
        return "baseline: not reached" + (f" by {missed} of {len(theirs)} seeds" if missed < len(theirs) else "")
    bounds = {"≥ " for c in mine if c.before} | {"≤ " for c in theirs if c.before}
    if len(bounds) > 1:
        return "undetermined"
    values = [b.x / a.x * rate for a, b, rate in zip(mine, theirs, rates, strict=True)]
    return _folded(values, sign=bounds.pop() if bounds else "", unit=" ×")


def _folded(values: list[float], *, sign: str = "", unit: str = "") -> Cell:
    """The geometric mean over seeds with its interval; a bound has no interval."""
    logs = [math.log(v) for v in values]
    centre = math.exp(mean(logs))
    text = f"{sign}{_number(centre)}"
    ends: dict[str, Any] = {}
    if len(logs) > 1 and not sign and len(set(values)) > 1:
        half = half_interval(logs)
        ends = {"low": math.exp(mean(logs) - half), "high": math.exp(mean(logs) + half)}
        text += f" ({_number(ends['low'])}, {_number(ends['high'])})"
    return Cell(text + unit, value=centre, **ends)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def _drawn(curve: Curve) -> str:
    return ", ".join(f"{x:,.0f}: {y:.2f}" for x, y, _ in curve.points())


def _partial(curves: Sequence[Curve]) -> list[str]:
    """Notes on seeds that lack a point which other seeds of their curve have."""
    notes = []
    for curve in curves:
        every = {x for x, _, _ in curve.points()}
        for seed in (seed for seed in curve.seeds if seed not in curve.whole()):
            lacking = ", ".join(f"{x:,.0f}" for x in sorted(every - {x for x, _ in curve.seeds[seed]}))
            notes.append(f"{curve.name}: seed {seed} has no gFID at {lacking} {NAMES[curve.over]} (failed, or not run yet) and is left out")
    return notes


def _spread(curves: Sequence[Curve]) -> list[str]:
    counts = sorted({len(curve.seeds) for curve in curves})
    if counts[-1] == 1:
        return ["one seed: no interval; variation between seeds is not included"]
    return [f"geometric mean over {' or '.join(map(str, counts))} seeds (95 % t-interval of the logarithms)"]


def _hours_per_image(curve: Curve, seed: int) -> float | None:
    """Device-hours of training per image, from the longest run of a seed."""
    rates = []
    for record in curve.records:
        stage = record.stage("diffusion")
        if stage is not None and record.seed == seed and stage["cost"].get("images_seen"):
            seen = stage["cost"]["images_seen"]
            rates.append((seen, stage["seconds"] * stage["host"].get("ranks", 1) / 3600 / seen))
    return max(rates)[1] if rates else None


def _device(curve: Curve) -> str:
    hosts = [stage["host"] for record in curve.records if (stage := record.stage("diffusion")) is not None]
    return ", ".join(sorted({f"{host.get('device_name', host.get('device', '?'))}, {host.get('threads', '?')} threads" for host in hosts}))


def _devices(curves: Sequence[Curve]) -> str:
    names = list(dict.fromkeys(name for name in map(_device, curves) if name))
    return f"on {'; '.join(names) or 'no recorded device'}" + (" (hours of different devices are not compared)" if len(names) > 1 else "")
