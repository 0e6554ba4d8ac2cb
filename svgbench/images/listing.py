"""The images of a source and those that a run uses: entries, classes, the validation split, limits. No torch.

A source (class folders, webdataset shards, a Hugging Face dataset) returns a ``Collection``; ``choose`` selects a ``Listing`` from it. An
image is identified by the path ``split/class/file``. The order of a store follows the hash of that path, so different sources with the same
names of classes and files give the same store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from svgbench.config.schema import Data
from svgbench.errors import BadData
from svgbench.images.scan import ListedFile, examples

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".pnm", ".tif", ".tiff")
"""Suffixes of images, in lower case. Other files (``.gif``, which may have many frames) are skipped and counted."""
UNLABELLED = "move the files of a split without labels, as test splits often are, elsewhere"
"""Advice for images without labels, as an alternative to adding labels."""
MAX_NAMES = 12
"""Largest number of class names in a message."""


class ImageEntry(NamedTuple):
    """One image: its path ``split/class/file`` (``class/file`` in a source without splits), label, and position in the source."""

    path: str
    label: int
    size: int = 0
    """Size in bytes; 0 if it is unknown before reading."""
    file: int = 0
    """Index of the source's file that contains it."""
    at: int = 0
    """Offset in bytes, or row, in that file."""


class Files(NamedTuple):
    """The files of a source in which each file contains many images (shards, parquet)."""

    train: list[ListedFile]
    val: list[ListedFile]
    """Empty if the source has no validation images."""
    has_splits: bool
    """Whether the source has splits; the paths of its images then begin with the split."""


Read = Callable[[ImageEntry], bytes]
"""Returns the bytes of an image; raises OSError when they cannot be read. Called from several threads."""
Reader = Callable[[Sequence[ImageEntry], Path], Read]
"""Returns a ``Read`` for some images. Images that must be extracted first are written into the directory, and reused after a kill."""


@dataclass(frozen=True)
class Collection:
    """All images of a source."""

    root: Path
    classes: tuple[str, ...]
    train: list[ImageEntry]
    val: list[ImageEntry] | None
    """None if the source has no validation split."""
    reader: Reader
    files: tuple[str, ...] = ()
    """Files with many images each, relative to the root; empty if each image is a file."""


@dataclass(frozen=True)
class Listing:
    """The images that a run uses. In both splits the classes alternate, so that the first n images are balanced for every n."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[ImageEntry, ...]
    val: tuple[ImageEntry, ...]
    reader: Reader = field(compare=False)
    files: tuple[str, ...] = ()

    def where(self, entry: ImageEntry) -> str:
        """The location of an image for a message: its path, or the file that contains it and its name there."""
        return f"{self.files[entry.file]}: {entry.path.rsplit('/', 1)[-1]}" if self.files else entry.path

    def digest(self) -> str:
        """SHA-256 of the classes and of all paths and labels in order; equal for all sources with the same images."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for split in (self.train, self.val):
            digest.update("".join(f"\n{e.path}\0{e.label}" for e in split).encode("utf-8", "surrogateescape") + b"\n\n")
        return digest.hexdigest()


def choose(collection: Collection, data: Data) -> Listing:
    """Selects the images of a source by the settings ``data``. Raises BadData when there are too few."""
    root, train, val = collection.root, collection.train, collection.val
    if val is None:
        train, val = _hold_out(train, share=data.val_share, seed=data.seed)
    if not val or not train:
        raise BadData(f"{root}: gives {len(train)} training and {len(val)} validation images; add images or change data.val_share.")
    return Listing(
        root,
        collection.classes,
        _limited(train, data.train_images, seed=data.seed, field="data.train_images", root=root)[: data.limit],
        _limited(val, data.val_images, seed=data.seed, field="data.val_images", root=root)[: data.limit],
        collection.reader,
        collection.files,
    )


def check_classes(root: Path, classes: Sequence[str], train: Iterable[ImageEntry], val: Iterable[ImageEntry] | None) -> None:
    """Raises BadData when there is only one class, or when a class has no training images."""
    if len(classes) < 2:
        raise BadData(f"{root}: has only one class, '{classes[0]}', and needs two; give images of two classes or more.")
    populated = {entry.label for entry in train}
    empty = sorted(set(range(len(classes))) - populated)
    if empty:
        raise BadData(
            f"{root}: has no training images of class {empty[0]} ('{classes[empty[0]]}') of {len(classes)}; "
            "labels must count from 0 without gaps."
        )
    for entry in val or ():
        if entry.label not in populated:
            raise BadData(
                f"{root}: the validation image {entry.path} has label {entry.label}, but the training labels are 0 to {len(classes) - 1}; "
                "correct the label or remove the image."
            )


def numbered(root: Path, labels: Sequence[int]) -> tuple[str, ...]:
    """Class names "0", "1", ... for training images with these labels. Raises BadData when the labels must have gaps."""
    if max(labels) >= len(labels):
        raise BadData(f"{root}: has label {max(labels)} but only {len(labels)} training images; labels must count from 0 without gaps.")
    return tuple(str(number) for number in range(max(labels) + 1))


def root_of(source: str, *, advice: str = "give --data (or --set data.source=) a folder of class folders, 'shapes' or 'scenes'") -> Path:
    """The directory of a source. Raises BadData, ending with ``advice``, when it is not a readable directory."""
    root = Path(source).expanduser()
    if not root.exists():
        raise BadData(f"{root} does not exist; {advice}.")
    if not root.is_dir():
        raise BadData(f"{root} is a file; {advice}.")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise BadData(f"{root} cannot be read ({error.strerror}); {advice}.") from None
    return root


def unknown_classes(where: str, names: Iterable[str], classes: Sequence[str]) -> BadData:
    """The error for validation images of classes without training images; lists both."""
    unknown, known = examples(sorted(set(names)), MAX_NAMES), examples(list(classes), MAX_NAMES)
    return BadData(
        f"{where}: has classes without training images ({unknown}); the training images have {len(classes)} classes ({known}); "
        "give both splits the same class names."
    )


def _hold_out(entries: Iterable[ImageEntry], *, share: float, seed: int) -> tuple[list[ImageEntry], list[ImageEntry]]:
    """Splits images into training and validation: of each class, validation gets the ``share`` with the lowest hashes, at least one image
    (none of a class with a single image)."""
    train: list[ImageEntry] = []
    val: list[ImageEntry] = []
    for group in _by_class(entries, seed=seed):
        count = min(max(round(share * len(group)), 1), len(group) - 1)
        val += group[:count]
        train += group[count:]
    return train, val


def _limited(entries: Sequence[ImageEntry], limit: int | None, *, seed: int, field: str, root: Path) -> tuple[ImageEntry, ...]:
    """The first ``limit`` images (all when None). Classes alternate; the images of a class are sorted by the hash of their paths."""
    if limit is not None and limit > len(entries):
        raise BadData(f"{root}: has {len(entries)} images, but {field} asks for {limit}; lower it or leave it empty.")
    groups = _by_class(entries, seed=seed)
    ranked = sorted((place, number) for number, group in enumerate(groups) for place in range(len(group)))
    return tuple(groups[number][place] for place, number in ranked[:limit])


def _by_class(entries: Iterable[ImageEntry], *, seed: int) -> list[list[ImageEntry]]:
    """The entries of each class, sorted by the hash of seed and path."""
    groups: dict[int, list[ImageEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.label, []).append(entry)
    return [sorted(groups[label], key=lambda e: _rank(e.path, seed)) for label in sorted(groups)]


def _rank(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{path}".encode("utf-8", "surrogateescape")).digest()
