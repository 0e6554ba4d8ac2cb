"""The sources of images for ``data.source``: class folders, webdataset shards, Hugging Face datasets, packed stores, drawn. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

import numpy as np

from svgbench.config.schema import Data
from svgbench.images import catalogue, packed
from svgbench.images.catalogue import FileDigests
from svgbench.images.listing import Listing, choose, root_of
from svgbench.images.scan import Skipped
from svgbench.machine.progress import tell_once


def identity(data: Data) -> str:
    """Digest of the content of a source, independent of its location: paths and bytes of its files, digests of a packed store, or a few
    drawn images. Unchanged files are not read again. While a run is planned (``data`` has no identity yet), reports skipped files.
    Raises BadData when the source cannot be used."""
    if data.drawn:
        return _drawn_identity(data.source)
    root = root_of(data.source)
    if packed.holds(root):
        return packed.identity(root, data)
    return files_of(root, report=not data.identity).identity


def files_of(root: Path, *, reread: bool = False, report: bool = True) -> FileDigests:
    """The files of a source (not a packed store) with their digests; ``reread``: reads every file, not only those that may have changed."""
    skipped = Skipped()
    inner, files = _reader(root).files(root, skipped)
    if report and (sentence := skipped.sentence(root)):
        tell_once(f"data: {sentence}")
    return catalogue.read(inner, files, "images", reread=reread)


def list_images(data: Data) -> Listing:
    """The images selected by ``data``, in the order of the store. Raises BadData when the source cannot be used."""
    root = root_of(data.source)
    return choose(_reader(root).collect(root), data)


def counted(data: Data) -> tuple[int, int, int]:
    """Numbers of training images, validation images and classes of ``data``; reads no image. Raises BadData when it cannot be used."""
    if data.drawn:
        classes = drawer(data.source).CLASSES
        return data.at_most("train", data.train_images or 0), data.at_most("val", data.val_images or 0), len(classes)
    root = root_of(data.source)
    if packed.holds(root):
        counts = packed.counts(root, data)
        return counts["train"], counts["val"], len(packed.read(root)["classes"])
    listing = list_images(data)
    return len(listing.train), len(listing.val), len(listing.classes)


def _reader(root: Path) -> ModuleType:
    from svgbench.images import folders, hub_datasets, shards  # PIL

    return next((module for module in (shards, hub_datasets) if module.holds(root)), folders)


def drawer(source: str) -> ModuleType:
    """The module that draws the images of a source: its ``CLASSES`` and its ``draw``."""
    from svgbench.images import scenes, shapes

    return {"shapes": shapes, "scenes": scenes}[source]


def _drawn_identity(source: str) -> str:
    world = drawer(source)
    digest = hashlib.sha256()
    drawn = world.draw(np.arange(2 * len(world.CLASSES)), seed=0, resolution=32, split="train")
    for array in drawn[:3]:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
