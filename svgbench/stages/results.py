"""Functions shared by the scoring stages: the image groups that a protocol names, and ``scores.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from svgbench.config.records import Score
from svgbench.images import packed
from svgbench.images.store import Images, ImageSet
from svgbench.machine.files import write_atomic
from svgbench.metrics.protocol import ImageGroup


def image_group(place: Path, split: str, images: ImageSet, count: int | None = None) -> ImageGroup:
    """A split of the image store at ``place``, as a protocol identifies it: name, number of images and digest of the pixels."""
    name = f"{split}.images.npy"
    digest = packed.digests(place).get(name) or json.loads((place / "manifest.json").read_text())["files"][name]  # before format 2
    return ImageGroup(name=split, count=count or len(images), digest=digest)


class ProbeGroups(TypedDict):
    """The images that a probe was trained and evaluated on."""

    train_images: ImageGroup
    val_images: ImageGroup


def probe_groups(inputs: dict[str, Path], collection: Images, count: int) -> ProbeGroups:
    """The images that a probe was trained on (the first ``count``) and those that it was evaluated on."""
    place = inputs["images"]
    return {"train_images": image_group(place, "train", collection.train, count), "val_images": image_group(place, "val", collection.val)}


def limit_of(slice_: Mapping[str, Any]) -> int | None:
    """The ``data.limit`` of a trial."""
    return slice_.get("data", {}).get("limit")


def encoding_of(slice_: Mapping[str, Any]) -> tuple[str, ...]:
    """The precision of encoding and decoding, as a protocol names it; nothing for fp32."""
    precision = slice_.get("encoder", {}).get("precision", "fp32")
    return () if precision == "fp32" else (f"encoding-{precision}",)


def write_scores(out: Path, scores: Sequence[Score], slice_: Mapping[str, Any]) -> dict[str, Any]:
    """Writes ``scores.json`` on the main rank, marked if the run is a trial or its images are encoded in bf16; returns the stage's cost,
    which is empty for a stage that only scores."""
    marked = [score.marked(limit_of(slice_), *encoding_of(slice_)).model_dump(mode="json") for score in scores]
    write_atomic(out / "scores.json", (json.dumps(marked, indent=1) + "\n").encode())
    return {}
