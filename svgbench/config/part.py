"""Base classes of every part of a configuration, and bounded numbers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Seed = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class Part(BaseModel):
    """A frozen part of a configuration that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Sparse(Part):
    """A part with fields that later versions added (``later``). At their defaults they are left out of files and keys."""

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = plain(self)
        for name in self.later:
            if getattr(self, name) == type(self).model_fields[name].default:
                fields.pop(name, None)
        return fields


def whole(part: Part) -> dict[str, Any]:
    """A part as JSON data with every field, including those that files and keys leave out."""
    fields = part.model_dump(mode="json")
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Part):
            fields[name] = whole(value)
        elif name not in fields:
            fields[name] = value
    return fields


def part_in(annotation: Any) -> type[BaseModel] | None:
    """The part of a configuration that is this annotation's type (also if optional, or in a list); None if there is none."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    return next((inside for option in get_args(annotation) if (inside := part_in(option)) is not None), None)


P = TypeVar("P", bound=Part)


def heads_divide(part: P) -> P:
    """The part, unchanged. Raises ValueError unless its ``width`` is a multiple of its ``heads``."""
    fields = dict(part)
    if fields["width"] % fields["heads"]:
        raise ValueError(f"width {fields['width']} is not a multiple of heads {fields['heads']}")
    return part
