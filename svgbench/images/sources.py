"""What ``data.source`` names: class folders, webdataset shards, a Hugging Face dataset, a packed store, or drawn shapes. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

import numpy as np

from svgbench.config.schema import Data
from svgbench.images import catalogue, packed
from svgbench.images.catalogue import Reading
from svgbench.images.listing import Listing, choose, root_of
from svgbench.images.scan import Passed
from svgbench.machine.progress import tell_once


def identity(data: Data) -> str:
    """Digest of what the source holds, wherever it lies: the paths and bytes of its files, the digests of a packed store, some drawn images
    of ``shapes``. Files that are as they were when they were last read are not read again. While a run is planned (``data`` has no
    identity yet) the user is told what is passed over. BadData when the source cannot be used."""
    if data.source == "shapes":
        return _shapes_identity()
    root = root_of(data.source)
    if packed.holds(root):
        return packed.identity(root, data)
    return files_of(root, say=not data.identity).identity


def files_of(root: Path, *, whole: bool = False, say: bool = True) -> Reading:
    """The files of a source that is no packed store, with their digests; ``whole``: every byte is read, not only what may have changed."""
    passed = Passed()
    inner, files = _kind(root).files(root, passed)
    if say and (sentence := passed.sentence(root)):
        tell_once(f"data: {sentence}")
    return catalogue.read(inner, files, "images", whole=whole)


def list_images(data: Data) -> Listing:
    """The images that ``data`` asks for, in the order of the store; BadData when the source cannot be used."""
    root = root_of(data.source)
    return choose(_kind(root).collect(root), data)


def counted(data: Data) -> tuple[int, int, int]:
    """Training images, validation images and classes that ``data`` asks for, its files unread; BadData when it cannot be used."""
    if data.source == "shapes":
        from svgbench.images import shapes

        return data.at_most("train", data.train_images or 0), data.at_most("val", data.val_images or 0), len(shapes.CLASSES)
    root = root_of(data.source)
    if packed.holds(root):
        counts = packed.counts(root, data)
        return counts["train"], counts["val"], len(packed.read(root)["classes"])
    listing = list_images(data)
    return len(listing.train), len(listing.val), len(listing.classes)


def _kind(root: Path) -> ModuleType:
    from svgbench.images import folders, hub_datasets, shards  # PIL

    return next((kind for kind in (shards, hub_datasets) if kind.holds(root)), folders)


def _shapes_identity() -> str:
    from svgbench.images import shapes

    digest = hashlib.sha256()
    drawn = shapes.draw(np.arange(2 * len(shapes.CLASSES)), seed=0, resolution=32, split="train")
    for array in drawn[:3]:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
