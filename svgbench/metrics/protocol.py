"""Names of protocols: two numbers may be compared when their protocol texts are equal, so one function writes all of them.

A name tells, in this order: what is measured and by which judge (network and the first 8 hex digits of its weights' sha256), against
which reference images (set, count, digest), on which images (set, count), and the rounding or settings that change the number. Each
part is free of the separator ``/``, so no two sets of parts can run together into one name. What a name does not tell: who trained the
model, at how many steps and which guidance it sampled; these are what is compared, and stand in the score's ``detail``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from svgbench.config.part import Part
from svgbench.config.records import digest as digest_of
from svgbench.errors import BadInput

VERSION = "v1"
"""Raised whenever a change of svgbench's own arithmetic changes a number."""

ROUNDING = "uint8-round"
"""floats in [0, 1] become uint8 by round(255 x) (see ``samples.to_uint8``); every metric sees uint8 images."""

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9.,:+_=@-]*")


@dataclass(frozen=True, kw_only=True)
class ImageGroup:
    """Which images, in words that fit a protocol's name."""

    name: str
    """``train``, ``val``, ``balanced`` or ``random`` (how the labels of samples were drawn)."""
    count: int | None
    """How many; None where only statistics were handed over and do not say."""
    digest: str = ""
    """sha256 of the images (their store's file, or their list); empty for generated images, which are what is measured."""

    def __str__(self) -> str:
        counted = self.name if self.count is None else f"{self.name}-{self.count}"
        return counted + (f"@{self.digest[:8]}" if self.digest else "")


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A network that a number depends on."""

    name: str
    digest: str
    """sha256 of its weights."""

    def __str__(self) -> str:
        return f"{self.name}@{self.digest[:8]}"


def protocol(
    measure: str,
    *,
    images: ImageGroup,
    judge: Judge | None = None,
    reference: ImageGroup | None = None,
    details: tuple[str, ...] = (),
    settings: Part | Mapping[str, Any] | None = None,
) -> str:
    """The one text that names how a number was made, e.g. ``fd-shapes-cnn@1a2b3c4d/train-10000@9f8e7d6c/balanced-2000/uint8-round/v1``.

    ``details`` are further parts in words; ``settings`` enter by the digest of all their fields.
    """
    if judge is not None and not judge.digest:
        raise BadInput(f"the judge '{judge.name}' has no digest, so its protocol has no name; open it from a weights file.")
    if reference is not None and not reference.digest:
        raise BadInput(f"the reference images '{reference.name}' have no digest, so the protocol has no name; give their sha256.")
    parts = [f"{measure}-{judge}" if judge else measure]
    parts += [str(reference)] if reference else []
    parts += [str(images), *details]
    if settings is not None:
        fields = settings.model_dump(mode="json") if isinstance(settings, Part) else dict(settings)
        parts.append(f"settings@{digest_of(fields)[:8]}")
    for part in parts:
        if not _PART.fullmatch(part):
            raise BadInput(f"'{part}' cannot be a part of a protocol's name; use letters, digits and . , : + _ = @ - only.")
    return "/".join([*parts, VERSION])
