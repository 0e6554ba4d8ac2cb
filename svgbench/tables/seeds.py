"""Mean over several seeds with its 95 % Student t interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import mean, stdev
from typing import Any

T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t for 2, 3, ... seeds; the last is used for more."""


def half_interval(values: list[float]) -> float:
    """Half the 95 % Student t interval of a mean over seeds."""
    n = len(values)
    return T_975[min(n, len(T_975) + 1) - 2] * stdev(values) / math.sqrt(n)


def measured_once(scores: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scores without repetitions: runs of several seeds that share an autoencoder share its scores, which are one measurement. Measured
    costs, which are not from an artifact, are never repetitions."""
    first: dict[Any, dict[str, Any]] = {}
    for number, score in enumerate(scores):
        first.setdefault((score.get("key", number), score["metric"], score["detail"].get("latents")), score)
    return list(first.values())


def apart(pairs: Mapping[int, tuple[dict[str, Any], dict[str, Any]]]) -> list[int]:
    """The seeds of pairs of scores, in order, without those whose two scores are an earlier pair's (``measured_once``)."""
    first: dict[Any, int] = {}
    for seed in sorted(pairs):
        first.setdefault(tuple(score.get("key", seed) for score in pairs[seed]), seed)
    return list(first.values())


def value_of(scores: list[dict[str, Any]]) -> float:
    """The mean over seeds."""
    return mean(score["value"] for score in scores)


def interval_of(scores: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """The interval of the mean over several seeds, or of the single score."""
    if len(scores) == 1:
        return scores[0]["low"], scores[0]["high"]
    centre, half = value_of(scores), half_interval([score["value"] for score in scores])
    return centre - half, centre + half


def text_of(scores: list[dict[str, Any]], digits: int) -> str:
    """``mean ± half interval`` of several seeds; ``value (low, high)`` of one."""
    if len(scores) > 1:
        return f"{value_of(scores):.{digits}f} ± {half_interval([s['value'] for s in scores]):.{digits}f}"
    (score,) = scores
    if score["low"] is None:
        return f"{score['value']:.{digits}f}"
    return f"{score['value']:.{digits}f} ({score['low']:.{digits}f}, {score['high']:.{digits}f})"
