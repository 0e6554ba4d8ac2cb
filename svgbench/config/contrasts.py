"""A comparison of two cells that an experiment declares in its file before it runs: the metric, the expected difference and the reason."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from svgbench.config.part import Sparse

FEWEST_SCALES = 3
"""Guidance is tuned among this many scales or more: two only tell whether to guide at all."""

Text = Annotated[str, Field(min_length=1)]


def group_name(run: str) -> str:
    """The name of a run or a cell without its seed."""
    return re.sub(r"(^|\.)seed-\d+", "", run).strip(".")


class Contrast(Sparse):
    """One comparison. Cells have their names in ``svgbench experiments show``, without the seed; they are paired by seed."""

    later = ("trained",)

    name: Text
    """The name of the comparison in tables."""
    metric: str
    """The compared score, such as gfid (``metrics/declared.py``)."""
    between: tuple[Text, Text]
    """Two cells; the difference is the first minus the second."""
    alternative: Literal["two-sided", "less", "greater"] = "two-sided"
    """The expected relation of the first cell's number to the second's; less and greater give a one-sided test."""
    why: Text
    """The reason for the expectation; printed as a footnote of the table."""
    steps: Annotated[int, Field(ge=1)] | Literal["most"] = "most"
    """For scores of samples: the number of steps at which the cells are compared; most: the largest of each cell."""
    guidance: Annotated[float, Field(ge=0)] | Literal["none", "most", "tuned"] = "none"
    """For scores of samples: the guidance scale; none: 1; most: the largest of each cell; tuned: the best of each cell, chosen on its first
    seed and scored on the others (``tables.tuned_guidance``)."""
    trained: Annotated[float, Field(gt=0, le=1)] = 1.0
    """For scores of samples: the share of the training after which they were drawn, as in ``sampling.trained``."""
    latents: Literal["whole", "features", "residual", "both"] = "whole"
    """For perception scores: features, residual or whole (the full latent)."""

    @model_validator(mode="after")
    def _two_cells(self) -> Contrast:
        if self.between[0] == self.between[1]:
            raise ValueError(f"between lists '{self.between[0]}' twice; name two different cells")
        return self
