"""References to compare images with: features of real images, computed once for many scores, or published statistics.

Protocol: a reference is identified by its images (``train``, ``images``, ``statistics``), their count and digest; features and statistics
of one extractor are never used for another. An ADM ``.npz`` has both: statistics of the full training set, and 10,000 images (``arr_0``),
whose features are used for precision, recall and KID. Limit: a file does not state the crop and resize of its published statistics.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from svgbench.errors import BadData, BadInput
from svgbench.images import packed
from svgbench.images.store import open_images
from svgbench.machine.files import sha256_of
from svgbench.machine.runtime import Runtime
from svgbench.metrics.features import Extractor, ImageFeatures, Saved, extract
from svgbench.metrics.frechet import Gaussian, read_statistics, united
from svgbench.metrics.image_sets import GivenImages, ImageArray, open_set
from svgbench.metrics.npz import IMAGES, SPATIAL, STATISTICS, holds_statistics, members
from svgbench.metrics.protocol import ImageGroup, Judge

TENSORS, ABOUT = "reference.safetensors", "reference.json"
Progress = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The features of real images, or their statistics."""

    group: ImageGroup
    """Its name in a protocol."""
    gaussian: Gaussian
    """Moments of the extractor's features [D]."""
    spatial: Gaussian | None = None
    """Moments of its spatial features."""
    kept: Tensor | None = None
    """Features [n, D] float32 of all its images, or of n of them; None if there are statistics only."""
    kept_group: ImageGroup | None = None
    """The images of ``kept``, if the statistics were published for other images."""
    size: tuple[int, int] | None = None
    """Height and width in pixels of its images; None if there are statistics only."""

    @classmethod
    def of(cls, features: ImageFeatures, group: ImageGroup, size: tuple[int, int] | None = None) -> Reference:
        """From the features of images."""
        spatial = united(features.spatial).gaussian() if features.spatial else None
        return cls(group=group, gaussian=features.moments.gaussian(), spatial=spatial, kept=features.kept, size=size)

    def save(self, folder: Path, judge: Judge) -> None:
        """Writes ``reference.safetensors`` and ``reference.json``, which states its images and extractor."""
        parts = {"mu": self.gaussian.mean, "sigma": self.gaussian.covariance, "kept": self.kept}
        parts |= dict(zip(SPATIAL, self.spatial, strict=True)) if self.spatial else {}
        save_file({name: part.cpu().contiguous() for name, part in parts.items() if part is not None}, folder / TENSORS)
        group = {"name": self.group.name, "count": self.group.count, "digest": self.group.digest}
        about = {"group": group, "side": self.size, "extractor": {"name": judge.name, "digest": judge.digest}}
        if self.kept_group is not None:
            about["kept_group"] = {"name": self.kept_group.name, "count": self.kept_group.count, "digest": self.kept_group.digest}
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, judge: Judge, device: torch.device | str = "cpu") -> Reference:
        """Reads the files of ``save``. Raises BadInput when they are of another extractor, BadData when they are damaged."""
        try:
            about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
            parts = load_file(folder / TENSORS, device=str(device))
            made_by, group = (about["extractor"]["name"], about["extractor"]["digest"]), ImageGroup(**about["group"])
            kept_group = ImageGroup(**about["kept_group"]) if "kept_group" in about else None
            side = about["side"]  # an earlier version wrote a single number
            size = (side, side) if isinstance(side, int) else tuple(side) if side else None
            pairs = [Gaussian(*(parts[name] for name in pair)) if set(pair) <= parts.keys() else None for pair in (STATISTICS, SPATIAL)]
            if pairs[0] is None:
                raise KeyError("mu")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BadData(f"{folder}: is damaged or incomplete ({error}); compute it again.") from None
        if made_by != (judge.name, judge.digest):
            raise BadInput(
                f"{folder}: features of '{made_by[0]}@{made_by[1][:8]}', but the images are scored by '{judge.name}@{judge.digest[:8]}'; "
                "use the extractor and the weights file that the reference was made with."
            )
        return cls(group=group, gaussian=pairs[0], spatial=pairs[1], kept=parts.get("kept"), kept_group=kept_group, size=size)


def open_reference(
    path: Path | GivenImages, extractor: Extractor, *, expected: tuple[int, int] | None = None, least: int = 2,
    runtime: Runtime | None = None, progress: Progress = lambda label, count: lambda done: None, saved: Saved | None = None,
    resize: int | None = None,
) -> Reference:  # fmt: skip
    """A reference from an ADM ``.npz`` of statistics (with features of its images ``arr_0``, if there are any), a set of images
    (``image_sets.open_set``), or an artifact of the store (``images``: its training images; ``references``). Images of another size than
    ``expected``, or fewer than ``least``, are refused before any is read. ``saved``: a directory for the features, so that a stopped
    computation can resume; ``resize``: the side in pixels to which a set of images is resized."""
    images: Any = None
    published: Reference | None = None
    if isinstance(path, Path):
        if holds_statistics(path):
            published = _published(path, extractor)
            if IMAGES not in members(path):
                return published
            images = ImageArray(path, resize)
            where, size = path, images.shape[2:]
            group = ImageGroup(name="images", count=len(images), digest=published.group.digest)
        elif (path / TENSORS).is_file():
            return Reference.load(path, extractor.judge, extractor.device)
        elif (path / "images.json").is_file():
            store = open_images(path)
            group = ImageGroup(name="train", count=len(store.train), digest=sha256_of(packed.resolved(path)[0] / "train.images.npy"))
            images, where, size = store.train, path, (store.resolution, store.resolution)
    if images is None:
        images = open_set(path, resize)
        where, size = images.path, images.shape[2:]
        group = ImageGroup(name="images", count=len(images), digest=images.digest())
    if expected not in (None, size):
        given, wanted = (f"{height} x {width}" for height, width in (size, expected))
        raise BadInput(f"{where}: images of {given} px, those to be scored are {wanted}; resize one set.")
    if len(images) < least:
        raise BadData(f"{where}: holds {len(images)} images, and a reference needs {least} or more; give more.")
    done = progress("features of the reference", len(images))
    features = extract(extractor, images, runtime=runtime, done=done, saved=saved)
    if published is not None:
        return replace(published, kept=features.kept, kept_group=group, size=size)
    return Reference.of(features, group, size)


def _published(path: Path, extractor: Extractor) -> Reference:
    """The statistics in an ``.npz``; BadInput when they cannot be this extractor's."""
    whole, inner = read_statistics(path)
    gaussian, spatial = _on(whole, extractor), None if inner is None else _on(inner, extractor)
    expected = [(gaussian, extractor.dim, "")] + ([(spatial, extractor.tap.dim, "spatial ")] if extractor.tap else [])
    for statistics, dim, kind in expected:
        if statistics is not None and len(statistics.mean) != dim:
            raise BadInput(
                f"{path}: {kind}statistics of {len(statistics.mean)} numbers, but '{extractor.name}' gives {dim}; "
                "use the extractor that the statistics were made with."
            )
    group = ImageGroup(name="statistics", count=None, digest=sha256_of(path))
    return Reference(group=group, gaussian=gaussian, spatial=spatial if extractor.tap else None)


def _on(pair: Gaussian, extractor: Extractor) -> Gaussian:
    """A Gaussian on the extractor's device."""
    return Gaussian(*(part.to(extractor.device) for part in pair))
