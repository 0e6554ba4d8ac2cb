"""Tests of differences: paired t over seeds, Holm's correction, and which rows of a column do not differ significantly from its best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Literal

from svgbench.tables.seeds import interval_of, value_of

Alternative = Literal["two-sided", "less", "greater"]
LEVEL = 0.05
"""A difference is significant if its corrected p is below this level."""
Z_975 = 1.959963984540054


def paired_p(differences: Sequence[float], alternative: Alternative = "two-sided") -> float | None:
    """p of a paired t-test of differences, one for each seed, as ``scipy.stats.ttest_1samp`` of them against 0; None for fewer than two. If
    all are equal, the variance is 0: p is 1 for zeros, else 0 if the sign fits the alternative."""
    if len(differences) < 2:
        return None
    spread = stdev(differences) / math.sqrt(len(differences))
    centre = mean(differences)
    if not spread:
        t = 0.0 if not centre else math.copysign(math.inf, centre)
        return 1.0 if not t else _tail(t, len(differences) - 1, alternative)
    return _tail(centre / spread, len(differences) - 1, alternative)


def _tail(t: float, freedom: int, alternative: Alternative) -> float:
    """The p value of a Student t."""
    from scipy.special import stdtr  # imported here, because most commands print no test

    if alternative == "two-sided":
        return float(2 * stdtr(freedom, -abs(t)))
    return float(stdtr(freedom, t if alternative == "less" else -t))


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979), in the same order."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected


def best_and_ties(cells: Mapping[str, list[dict[str, Any]]], *, lower: bool) -> list[str]:
    """The row with the best mean, then the rows whose difference from it is not significant. ``cells``: row -> its scores, one per seed.

    A row is compared with the best at the seeds that both have, by a paired t-test; if they share fewer than two, by the intervals of both
    over images, as if these were independent. The two-sided p values are corrected by Holm's method over the rows of the column. Rows
    without intervals are compared by their values."""
    values = {row: value_of(scores) for row, scores in cells.items()}
    best = (min if lower else max)(values, key=lambda row: values[row])
    others = [row for row in cells if row != best]
    corrected = holm([_p(cells[row], cells[best]) for row in others])
    return [best, *(row for row, p in zip(others, corrected, strict=True) if p >= LEVEL)]


def _p(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """Two-sided p of the difference of two rows."""
    mine, theirs = ({score["seed"]: score["value"] for score in scores} for scores in (one, other))
    p = paired_p([value - theirs[seed] for seed, value in mine.items() if seed in theirs])
    if p is not None:
        return p
    difference = abs(value_of(one) - value_of(other))
    mine_half, their_half = _half(one), _half(other)
    if not difference:
        return 1.0
    if mine_half is None or their_half is None or not (mine_half or their_half):
        return 0.0
    return math.erfc(difference / math.hypot(mine_half, their_half) * Z_975 / math.sqrt(2))


def _half(scores: list[dict[str, Any]]) -> float | None:
    """Half of the 95 % interval of a row; the longer half if the other is cut by the metric's range."""
    low, high = interval_of(scores)
    return None if low is None or high is None else max(high - value_of(scores), value_of(scores) - low)
