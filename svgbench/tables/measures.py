"""Facts of each metric for the tables (``metrics/declared.py``), and the stages on which its scores depend."""

from __future__ import annotations

from svgbench.metrics.declared import METRICS as MEASURES
from svgbench.stages import graph

__all__ = ["MEASURES", "upstream"]


def upstream(stages: tuple[str, ...]) -> set[str]:
    """These stages and all on which they depend; their scores need every one of them."""
    reached, open_ = set(), list(stages)
    while open_:
        name = open_.pop()
        if name not in reached:
            reached.add(name)
            open_ += [row.name for row in graph.STAGES for need in _needs(name) if need in (row.name, row.provides)]
    return reached


def _needs(stage: str) -> tuple[str, ...]:
    return next(((*row.needs, *row.also) for row in graph.STAGES if row.name == stage), ())
