"""Class folders as a source of images. No torch.

``DIR/class/*.jpg`` (a share of each class is held out), or ``DIR/train/class/*`` with ``DIR/val/class/*``; split folders may have any name
that ``splits`` understands (``training`` and ``validation``, ``ILSVRC2012_img_train``). ImageNet as it is unpacked
(``DIR/ILSVRC/Data/CLS-LOC/train/n01440764``) is found below the folder that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from svgbench.errors import BadData
from svgbench.world import walk
from svgbench.world.files import read_regular
from svgbench.world.listing import SUFFIXES, Collection, Entry, Read, unknown_classes
from svgbench.world.splits import Chosen, check_links, choose_splits, is_bare, split_of
from svgbench.world.walk import Found, Passed, named

IMAGENET = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
"""Where ImageNet's own archive has its class folders."""


def collect(root: Path) -> Collection:
    """The images below a folder; BadData when it holds none, one class, or classes that do not match."""
    root, train_split, val_split = _splits(root, Passed())
    train_root = root / train_split
    classes = tuple(walk.folders(train_root))
    train = _images(root, train_split, classes)
    if not train:
        raise BadData(f"{train_root}: holds no images below class folders; give a folder like DIR/class/image.jpg ({', '.join(SUFFIXES)}).")
    full = {entry.label for entry in train}
    if len(full) < len(classes):
        empty = next(name for number, name in enumerate(classes) if number not in full)
        raise BadData(f"{train_root / empty}: holds no images; remove the folder or fill it.")
    if len(classes) < 2:
        raise BadData(f"{train_root}: holds one class, '{classes[0]}', and two are needed; give the folder above your class folders.")
    if val_split is None:
        return Collection(root, classes, train, None, lambda entries, scratch: _reader(root))
    val_root = root / val_split
    strange = sorted(set(walk.folders(val_root)) - set(classes))
    if strange:
        raise unknown_classes(str(val_root), strange, classes)
    val = _images(root, val_split, classes)
    if not val:
        raise BadData(f"{val_root}: holds no images below class folders; sort them into the class folders that {train_root} has.")
    return Collection(root, classes, train, val, lambda entries, scratch: _reader(root))


def files(root: Path, passed: Passed) -> tuple[Path, list[Found]]:
    """The folder that paths count from, and every image file of both splits."""
    root, *splits = _splits(root, passed)
    parts = {split: walk.folders(root / split, passed if split else None) for split in splits if split is not None}
    return root, [file for split, classes in parts.items() for file in _files(root, split, classes, passed)]


def _reader(root: Path) -> Read:
    return lambda entry: read_regular(root / entry.path)


def _splits(root: Path, passed: Passed) -> tuple[Path, str, str | None]:
    """The folder, and below it where its training classes are, and its validation classes if it has its own."""
    root = next((root / inner for inner in IMAGENET if _has_train(root / inner)), root)
    names = walk.folders(root, passed)
    if not names:
        raise BadData(
            f"{root}: holds no class folders, shards (*.tar) or Hugging Face dataset; give a folder like DIR/class/image.jpg, or 'shapes'."
        )
    check_links(root)
    chosen = _chosen(root, names, passed)
    if chosen is None:
        return root, "", None
    return root, chosen.train[0], chosen.val[0] if chosen.val else None


def _has_train(place: Path) -> bool:
    return place.is_dir() and any(split_of(name) == "train" for name in walk.folders(place))


def _chosen(root: Path, names: Sequence[str], passed: Passed) -> Chosen | None:
    """The split folders among some folders; None when all of them are classes. A folder called ``train`` may be a class of locomotives:
    it is a split when it holds class folders itself. BadData when that cannot be told."""
    like = [name for name in names if split_of(name)]
    if not like:
        return None
    others = [name for name in names if name not in like and walk.first(root / name, SUFFIXES)]
    inside = {name: frozenset(walk.folders(root / name)) for name in (*like, *others)}
    training = [name for name in like if split_of(name) == "train"]
    held = [name for name in like if name not in training and (inside[name] or split_of(name) == "val")]
    if any(inside[name] for name in training) and (held or not others):
        usable = [*training, *held, *others]
        passed.others += [name for name in like if name not in usable]
        chosen = choose_splits(root, usable, passed, single=True)
        for name in (*chosen.train, *chosen.val[:1]) if chosen else ():
            passed.outside += walk.own_files(root / name, SUFFIXES)
        return chosen
    if not others or (training and held):
        if len(like) == 1 and not inside[like[0]]:
            return None  # one class: that is said
        if not training and any(inside.values()):
            choose_splits(root, like, passed, single=True)  # says what is missing
        flat = [name for name in like if not inside[name]]
        raise BadData(
            f"{root}: {named(flat)} named like a split, without class folders; sort the images into folders like {flat[0]}/CLASS/image.jpg."
        )
    for name in like:  # beside folders of images that are in no split
        alike = any(inside[name] & inside[other] for other in others)
        bare = is_bare(name) and inside[name] and not walk.own_files(root / name, SUFFIXES) and not all(inside[o] for o in others)
        if alike or bare:
            raise BadData(
                f"{root}: '{name}' looks like a split, and beside it are folders of images that are in no split ({named(others)}); "
                "name the splits 'train' and 'val', or move what does not belong to them elsewhere."
            )
    return None


def _files(root: Path, split: str, classes: Sequence[str], passed: Passed) -> Iterator[Found]:
    for name in classes:
        yield from walk.walk(root, f"{split}/{name}" if split else name, SUFFIXES, passed)


def _images(root: Path, split: str, classes: Sequence[str]) -> list[Entry]:
    """All images below the class folders of a split, in order of label and path."""
    found = []
    for label, name in enumerate(classes):
        if (root / split / name).is_dir():
            found += [Entry(file.path, label, file.size) for file in _files(root, split, [name], Passed())]
    return sorted(found, key=lambda entry: (entry.label, entry.path))
