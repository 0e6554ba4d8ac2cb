"""What a source of images holds and which of it a run asks for: entries, classes, the held-out share, the limits. No torch.

A source (class folders, webdataset shards, a Hugging Face dataset) gives a ``Collection``; ``choose`` makes a ``Listing`` of it. An image
is known by the path ``split/class/file``: the order of a store follows the hash of that path, so sources that hold the same files under the
same names of classes and files make the same store.
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
from svgbench.images.scan import Found, named

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".pnm", ".tif", ".tiff")
"""What is taken for an image, in lower case. Others (``.gif``, which may hold many pictures) are passed over and counted."""
UNLABELLED = "move the files of a split without labels, as test splits often are, elsewhere"
"""What to do about images without labels, besides giving them some."""
LISTED = 12
"""So many class names are listed in a sentence."""


class Entry(NamedTuple):
    """One image: ``split/class/file`` (without the split where the source has none) with forward slashes, and where its bytes are."""

    path: str
    label: int
    size: int = 0
    """Bytes; 0 where only reading would tell."""
    file: int = 0
    """Which of the source's files holds it."""
    at: int = 0
    """Offset in bytes, or row, in that file."""


class Files(NamedTuple):
    """The files of a source that hold many images each, below its root."""

    train: list[Found]
    val: list[Found]
    """Empty where the source has no validation images of its own."""
    named: bool
    """Whether the source says which are for training; then its images' paths begin with the split's name."""


Read = Callable[[Entry], bytes]
"""The bytes of an image; OSError when they cannot be read. Called from several threads."""
Reader = Callable[[Sequence[Entry], Path], Read]
"""How to read some images; the directory takes what must be laid out first, and what is there already is used again."""


@dataclass(frozen=True)
class Collection:
    """All images of a source."""

    root: Path
    classes: tuple[str, ...]
    train: list[Entry]
    val: list[Entry] | None
    """None where the source has no validation images of its own."""
    reader: Reader
    files: tuple[str, ...] = ()
    """Files that hold many images, relative to the root; empty where each image is a file."""


@dataclass(frozen=True)
class Listing:
    """The images a run asks for; in both splits labels walk the classes in turn, so that every beginning is balanced."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[Entry, ...]
    val: tuple[Entry, ...]
    reader: Reader = field(compare=False)
    files: tuple[str, ...] = ()

    def where(self, entry: Entry) -> str:
        """Where a person finds an image: its path, or the file that holds it and its name there."""
        return f"{self.files[entry.file]}: {entry.path.rsplit('/', 1)[-1]}" if self.files else entry.path

    def digest(self) -> str:
        """Of the classes and of every image's path and label in the store's order: equal for equal images of whatever source."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for split in (self.train, self.val):
            digest.update("".join(f"\n{e.path}\0{e.label}" for e in split).encode("utf-8", "surrogateescape") + b"\n\n")
        return digest.hexdigest()


def choose(found: Collection, data: Data) -> Listing:
    """The images of a source that ``data`` asks for; BadData when there are too few."""
    root, train, val = found.root, found.train, found.val
    if val is None:
        train, val = _hold_out(train, share=data.val_share, seed=data.seed)
    if not val or not train:
        raise BadData(f"{root}: leaves {len(train)} training and {len(val)} validation images; add images or change data.val_share.")
    return Listing(
        root,
        found.classes,
        _limited(train, data.train_images, seed=data.seed, field="data.train_images", root=root)[: data.limit],
        _limited(val, data.val_images, seed=data.seed, field="data.val_images", root=root)[: data.limit],
        found.reader,
        found.files,
    )


def check_classes(root: Path, classes: Sequence[str], train: Iterable[Entry], val: Iterable[Entry] | None) -> None:
    """BadData when there is one class only, when a class has no training images, or when an image is of a class that does not exist."""
    if len(classes) < 2:
        raise BadData(f"{root}: holds one class, '{classes[0]}', and two are needed; give images of two classes or more.")
    full = {entry.label for entry in train}
    empty = sorted(set(range(len(classes))) - full)
    if empty:
        raise BadData(
            f"{root}: holds no training images of class {empty[0]} ('{classes[empty[0]]}') among {len(classes)}; "
            "labels count from 0 without gaps."
        )
    for entry in val or ():
        if entry.label not in full:
            raise BadData(
                f"{root}: the validation image {entry.path} has label {entry.label}, and the training labels are 0 to {len(classes) - 1}; "
                "correct the label or remove the image."
            )


def numbered(root: Path, labels: Sequence[int]) -> tuple[str, ...]:
    """Numbers as names of the classes of training images; BadData when the labels cannot count from 0 without gaps."""
    if max(labels) >= len(labels):
        raise BadData(f"{root}: has a label {max(labels)} among {len(labels)} training images; labels count from 0 without gaps.")
    return tuple(str(number) for number in range(max(labels) + 1))


def root_of(source: str, *, advice: str = "give --data (or --set data.source=) a folder of class folders, or 'shapes'") -> Path:
    """The directory a source names; BadData when it is none or cannot be read, with ``advice`` that fits the command."""
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
    """The error for validation images of classes that training does not have, with both lists."""
    found, known = named(sorted(set(names)), LISTED), named(list(classes), LISTED)
    return BadData(
        f"{where}: has classes that the training images do not have ({found}); training has {len(classes)} ({known}); "
        "give both splits the same class names."
    )


def _hold_out(entries: Iterable[Entry], *, share: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Training and validation images: of each class the ``share`` whose paths hash lowest, and at least one of two or more."""
    train: list[Entry] = []
    val: list[Entry] = []
    for group in _by_class(entries, seed=seed):
        count = min(max(round(share * len(group)), 1), len(group) - 1)
        val += group[:count]
        train += group[count:]
    return train, val


def _limited(entries: Sequence[Entry], most: int | None, *, seed: int, field: str, root: Path) -> tuple[Entry, ...]:
    """``most`` images (all when None), one class after the other in turn, in an order fixed by the hash of the path."""
    if most is not None and most > len(entries):
        raise BadData(f"{root}: has {len(entries)} images for {field}, which asks for {most}; lower it or leave it empty.")
    groups = _by_class(entries, seed=seed)
    ranked = sorted((place, number) for number, group in enumerate(groups) for place in range(len(group)))
    return tuple(groups[number][place] for place, number in ranked[:most])


def _by_class(entries: Iterable[Entry], *, seed: int) -> list[list[Entry]]:
    """The entries of each class, by the hash of seed and path."""
    groups: dict[int, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.label, []).append(entry)
    return [sorted(groups[label], key=lambda e: _rank(e.path, seed)) for label in sorted(groups)]


def _rank(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{path}".encode("utf-8", "surrogateescape")).digest()
