"""Protocols: how numbers were computed. Only numbers with equal protocols may be ranked, so one function builds every protocol.

A protocol (``config.records.Protocol``) states what is measured and by which judge (network, sha256 of its weights, how it resizes),
against which reference images (set, count, digest), on which images (set, count, how their labels were drawn), rounding, settings and, for
samples, how they were drawn. Its text states all of this in one line. No part contains the separator ``/``, so different protocols have
different texts. A protocol does not state which model was scored, because protocols serve to compare models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from svgbench.config.part import Part
from svgbench.config.records import Protocol, SamplingProtocol
from svgbench.config.records import digest as digest_of
from svgbench.errors import BadInput

VERSION = "v1"
"""Increased whenever a change of svgbench's arithmetic changes a number."""

ROUNDING = "uint8-round"
"""floats in [0, 1] become uint8 by round(255 x) (see ``samples.to_uint8``); every metric is computed on uint8 images."""

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9.,:+_=@-]*")


@dataclass(frozen=True, kw_only=True)
class ImageGroup:
    """A set of images, as a protocol names it."""

    name: str
    """``train``, ``val``, ``balanced`` or ``random`` (how the labels of samples were drawn)."""
    count: int | None
    """Number of images; None if only statistics are given."""
    digest: str = ""
    """sha256 of the images (their store's file, or their list); empty for generated images, because they are what is measured."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A network that a number depends on."""

    name: str
    digest: str
    """sha256 of its weights."""
    resize: str = ""
    """How it resizes images to its input size; empty if it does not resize them."""


def protocol(
    measure: str,
    *,
    images: ImageGroup,
    judge: Judge | None = None,
    reference: ImageGroup | None = None,
    rounding: str | None = None,
    details: tuple[str, ...] = (),
    settings: Part | Mapping[str, Any] | None = None,
    sampling: SamplingProtocol | None = None,
) -> Protocol:
    """The protocol of a number. ``images`` named ``balanced`` or ``random`` are samples whose labels were drawn that way; ``details`` are
    further parts; ``settings`` are included as a digest of all their fields. Raises BadInput for a judge or reference without digest."""
    if judge is not None and not judge.digest:
        raise BadInput(f"the judge '{judge.name}' has no digest, so its protocol has no name; open it from a weights file.")
    if reference is not None and not reference.digest:
        raise BadInput(f"the reference images '{reference.name}' have no digest, so the protocol has no name; give their sha256.")
    fields: dict[str, Any] = {"measure": measure, "details": details, "rounding": rounding, "sampling": sampling, "version": VERSION}
    if judge is not None:
        fields |= {"judge": judge.name, "judge_digest": judge.digest, "resize": judge.resize or None}
    if reference is not None:
        fields |= {"reference": reference.name, "reference_count": reference.count, "reference_digest": reference.digest}
    drawn = images.name in ("balanced", "random")
    fields |= {"images": "samples" if drawn else images.name, "balance": images.name if drawn else None}
    fields |= {"count": images.count, "images_digest": images.digest or None}
    if settings is not None:
        fields["chosen"] = settings.model_dump(mode="json") if isinstance(settings, Part) else dict(settings)
        fields["settings"] = digest_of(fields["chosen"])
    for part in (measure, *details, *(value for value in fields.values() if isinstance(value, str))):
        if not _PART.fullmatch(part):
            raise BadInput(f"'{part}' cannot be a part of a protocol's name; use letters, digits and . , : + _ = @ - only.")
    return Protocol(**fields)
