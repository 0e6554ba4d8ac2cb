"""What every piece of configuration is made of: a frozen model that knows its fields, and bounded numbers."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Seed = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class Part(BaseModel):
    """A frozen piece of configuration that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


P = TypeVar("P", bound=Part)


def heads_divide(part: P) -> P:
    """The part, whose ``width`` is a multiple of its ``heads``."""
    fields = dict(part)
    if fields["width"] % fields["heads"]:
        raise ValueError(f"width {fields['width']} is not a multiple of heads {fields['heads']}")
    return part
