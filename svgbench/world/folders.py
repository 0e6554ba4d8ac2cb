"""Class folders as a source of images. No torch.

``DIR/class/*.jpg`` (a share of each class is held out), or ``DIR/train/class/*`` with ``DIR/val/class/*``. ImageNet as it is unpacked
(``DIR/ILSVRC/Data/CLS-LOC/train/n01440764``) is found below the folder that holds it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from svgbench.errors import BadData
from svgbench.world.files import read_regular
from svgbench.world.listing import SUFFIXES, VALIDATION, Collection, Entry, Read

IMAGENET = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
"""Where ImageNet's own archive has its class folders."""


def collect(root: Path) -> Collection:
    """The images below a folder; BadData when it holds none, one class, or classes that do not match."""
    root, train_root, val_root = _roots(root)
    classes = tuple(sorted(_folders(train_root)))
    train = _images(root, train_root, classes)
    if not train:
        raise BadData(f"{train_root}: holds no images below class folders; give a folder like DIR/class/image.jpg ({', '.join(SUFFIXES)}).")
    full = {entry.label for entry in train}
    if len(full) < len(classes):
        empty = next(name for number, name in enumerate(classes) if number not in full)
        raise BadData(f"{train_root / empty}: holds no images; remove the folder or fill it.")
    if len(classes) < 2:
        raise BadData(f"{train_root}: holds one class, '{classes[0]}', and two are needed; give the folder above your class folders.")
    if val_root is None:
        return Collection(root, classes, train, None, lambda entries, scratch: _reader(root))
    strange = sorted(set(_folders(val_root)) - set(classes))
    if strange:
        raise BadData(f"{val_root / strange[0]}: is a class that {train_root} does not have; give both the same class folders.")
    val = _images(root, val_root, classes)
    if not val:
        raise BadData(f"{val_root}: holds no images below class folders; sort them into the class folders that {train_root} has.")
    return Collection(root, classes, train, val, lambda entries, scratch: _reader(root))


def identity(root: Path) -> str:
    """Digest of the relative paths and sizes of all images, wherever the folder lies."""
    digest = hashlib.sha256()
    root, train_root, val_root = _roots(root)
    for split in (train_root, val_root):
        if split is not None:
            entries = _images(root, split, tuple(sorted(_folders(split))))
            digest.update("".join(f"{e.path}\0{e.size}\n" for e in sorted(entries)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _reader(root: Path) -> Read:
    return lambda entry: read_regular(root / entry.path)


def _roots(root: Path) -> tuple[Path, Path, Path | None]:
    """The folder, where its training classes are, and where its validation classes are if it has its own."""
    root = next((root / inner for inner in IMAGENET if (root / inner / "train").is_dir()), root)
    names = set(_folders(root))
    if not names:
        raise BadData(
            f"{root}: holds no class folders, shards (*.tar) or Hugging Face dataset; give a folder like DIR/class/image.jpg, or 'shapes'."
        )
    if "train" in names and _folders(root / "train"):
        own = next((name for name in VALIDATION if name in names), None)
        return root, root / "train", root / own if own else None
    return root, root, None


def _folders(directory: Path) -> list[str]:
    """Names of the folders in a directory, hidden ones left out."""
    return [entry.name for entry in os.scandir(directory) if entry.is_dir() and not entry.name.startswith(".")]


def _images(root: Path, split: Path, classes: Sequence[str]) -> list[Entry]:
    """All images below the class folders of a split, in order of label and path."""
    found = []
    for label, name in enumerate(classes):
        for place, folders, files in os.walk(split / name):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for file in files:
                if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                    path = os.path.join(place, file)
                    size = os.stat(path).st_size if os.path.exists(path) else 0  # a dangling link is listed, then named as unreadable
                    found.append(Entry(Path(path).relative_to(root).as_posix(), label, size))
    return sorted(found, key=lambda entry: (entry.label, entry.path))
