"""A comparison of two cells that an experiment declares in its file before it runs: what is expected of which number, and why."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from svgbench.config.part import Part

Text = Annotated[str, Field(min_length=1)]


def group_name(run: str) -> str:
    """The name of a run or a cell without its seed."""
    return re.sub(r"(^|\.)seed-\d+", "", run).strip(".")


class Contrast(Part):
    """One comparison. Cells are named as in ``svgbench experiments show``, without the seed, over which they are paired."""

    name: Text
    """What the comparison is called in tables."""
    metric: str
    """The compared score, such as gfid (``metrics/declared.py``)."""
    between: tuple[Text, Text]
    """Two cells; the difference is the first minus the second."""
    alternative: Literal["two-sided", "less", "greater"] = "two-sided"
    """What is expected of the first cell's number against the second's; less and greater give a one-sided test."""
    why: Text
    """The reason for the expectation, a footnote of the table."""
    steps: Annotated[int, Field(ge=1)] | Literal["most"] = "most"
    """Of samples: the steps at which the cells are compared, or the most of each."""
    guidance: Annotated[float, Field(ge=0)] | Literal["none", "most"] = "none"
    """Of samples: guidance scale, 1 (none), or the largest of each."""
    latents: Literal["whole", "features", "residual", "both"] = "whole"
    """Of perception: which latents; whole is all that a run has."""

    @model_validator(mode="after")
    def _two_cells(self) -> Contrast:
        if self.between[0] == self.between[1]:
            raise ValueError(f"between names '{self.between[0]}' twice; name two cells")
        return self
