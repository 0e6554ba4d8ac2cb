"""Times a repeated call: warm-up, repetitions, median and its confidence interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from svgbench.machine.measure import synchronise

LEAST = 6
"""Fewest repetitions: with five, even the range from smallest to largest contains the true median with a probability of only 94 %."""


@dataclass(frozen=True)
class Times:
    """Seconds of a call: the median of its repetitions, and an interval with at least 95 % confidence."""

    seconds: float
    low: float
    high: float


def timed(call: Callable[[], Any], device: torch.device, *, warm_up: int, repetitions: int) -> Times:
    """Runs ``call`` ``warm_up`` times, then ``repetitions`` times (at least ``LEAST``), waiting for the device before and after each.
    Raises ValueError for fewer repetitions."""
    for _ in range(warm_up):
        call()
    spent = []
    for _ in range(repetitions):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        spent.append(time.perf_counter() - start)
    return times_of(spent)


def times_of(spent: list[float]) -> Times:
    """The median of the times, and a confidence interval between two order statistics, from a binomial distribution with p = 1/2. Assumes
    nothing about the distribution of the times (Conover, Practical Nonparametric Statistics, section 3.2)."""
    if len(spent) < LEAST:
        raise ValueError(f"{len(spent)} times give no interval; at least {LEAST} are needed")
    ordered = sorted(spent)
    rank = rank_of(len(ordered))
    return Times(median(ordered), ordered[rank], ordered[-1 - rank])


def rank_of(count: int) -> int:
    """The largest r such that the range from the r-th smallest to the r-th largest (from 0) of ``count`` values contains the true median
    with a probability of at least 95 %."""
    below, rank = 0.0, -1
    while below + math.comb(count, rank + 1) / 2**count <= 0.025:
        rank += 1
        below += math.comb(count, rank) / 2**count
    return rank
