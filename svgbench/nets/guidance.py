"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): v = v_null + w (v_class - v_null), and when w is what.

A schedule is a word: ``constant``; ``linear`` (from 1, before the first step, to the scale at the last); ``late`` (second half of the
steps); ``early-R`` (while t > R, as the SVG release names it); ``interval-A-B`` (while A <= t <= B, Kynkaanniemi et al., arXiv 2404.07724).
Where a schedule does not guide, w is 1 and the null class is not evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from svgbench.errors import BadConfig, unknown

Schedule = Callable[[float, int, int], float]
"""(t, step, steps) -> how much of the way from 1 to the scale the weight goes, 0 to 1."""

NAMES = ("constant", "linear", "late", "early-R", "interval-A-B")


def parse(schedule: str) -> Schedule:
    """The schedule a word names; UnknownName or BadConfig in one sentence when it names none."""
    kind, _, rest = schedule.partition("-")
    if schedule == "constant":
        return lambda t, step, steps: 1.0
    if schedule == "linear":
        return lambda t, step, steps: (step + 1) / steps
    if schedule == "late":
        return lambda t, step, steps: 2 * step >= steps
    if kind == "early":
        (low,) = _times(schedule, rest, 1)
        return lambda t, step, steps: t > low
    if kind == "interval":
        low, high = _times(schedule, rest, 2)
        if low > high:
            raise BadConfig(f"guidance schedule '{schedule}' begins after it ends; write interval-{high:g}-{low:g}.")
        return lambda t, step, steps: low <= t <= high
    raise unknown("guidance schedule", schedule, NAMES)


def _times(schedule: str, rest: str, count: int) -> list[float]:
    """``count`` times in [0, 1] written with dashes between them."""
    number = r"(\d*\.?\d+)"
    match = re.fullmatch("-".join([number] * count), rest)
    times = [float(text) for text in match.groups()] if match else []
    if not match or max(times) > 1:
        form = "early-0.5" if count == 1 else "interval-0.1-0.8"
        raise BadConfig(f"guidance schedule '{schedule}' needs {count} time{'s' * (count > 1)} from 0 to 1, for example {form}.")
    return times


def weight(schedule: Schedule, scale: float, t: float, step: int, steps: int) -> float:
    """The guidance weight at time ``t`` of step ``step`` (from 0) of ``steps``."""
    return 1.0 + (scale - 1.0) * float(schedule(t, step, steps))


def guide(conditional: Tensor, null: Tensor, weight: float) -> Tensor:
    """v_null + w (v_class - v_null)."""
    return null + weight * (conditional - null)
