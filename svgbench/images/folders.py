"""Class folders as a source of images. No torch.

``DIR/class/*.jpg`` (a share of each class is held out), or ``DIR/train/class/*`` with ``DIR/val/class/*``; split folders may have any name
that ``splits`` understands (``training`` and ``validation``, ``ILSVRC2012_img_train``). ImageNet as it is unpacked
(``DIR/ILSVRC/Data/CLS-LOC/train/n01440764``) is found below the folder that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from svgbench.errors import BadData
from svgbench.images import scan
from svgbench.images.listing import SUFFIXES, Collection, Entry, Read, unknown_classes
from svgbench.images.scan import Found, Passed, named
from svgbench.images.splits import Chosen, check_links, choose_splits, is_bare, split_of
from svgbench.machine.files import is_inside, read_regular

IMAGENET = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
"""Where ImageNet's own archive has its class folders."""
PICTURES, TARGETS = {"images", "jpegimages", "leftimg8bit"}, {"annotations", "masks", "labels", "depth", "segmentationclass", "gtfine"}
"""Folders of data sets with masks or depth maps, in lower case: beside each other they are no classes."""
ARCHIVES = (".zip", ".gz", ".tgz", ".zst", ".xz", ".bz2", ".7z", ".rar")


@dataclass(frozen=True)
class _Layout:
    """Where a folder has its classes, and their images."""

    root: Path
    """What paths count from."""
    train: str
    """The folder of the training classes below the root; empty where that is the root itself."""
    val: str | None
    """That of the validation classes; None where there is none."""
    classes: tuple[str, ...]
    images: dict[str, dict[str, list[Found]]]
    """Split -> class -> its images in the order of their paths."""


def collect(root: Path) -> Collection:
    """The images below a folder; BadData when it holds none, one class, or classes that do not match."""
    found = _layout(root, Passed())
    splits = {
        split: [Entry(file.path, label, file.size) for label, name in enumerate(found.classes) for file in images[name]]
        for split, images in found.images.items()
    }
    return Collection(found.root, found.classes, splits["train"], splits.get("val"), lambda entries, scratch: _reader(found.root))


def files(root: Path, passed: Passed) -> tuple[Path, list[Found]]:
    """The folder that paths count from, and every image file of both splits; BadData as of ``collect``, before a file is read."""
    found = _layout(root, passed)
    return found.root, [file for images in found.images.values() for of_class in images.values() for file in of_class]


def _reader(root: Path) -> Read:
    return lambda entry: read_regular(root / entry.path)


def _layout(root: Path, passed: Passed) -> _Layout:
    """The classes and images of a folder; BadData when they cannot be told or do not match."""
    root, train, val = _splits(root, passed)
    classes = tuple(scan.folders(root / train, passed if train else None))
    images = {"train": _images(root, train, classes, passed)}
    if not train:
        _check_places(root, classes, images["train"], passed)
    _check_training(root / train, classes, images["train"])
    if val is not None:
        strange = sorted(set(scan.folders(root / val, passed)) - set(classes))
        if strange:
            raise unknown_classes(str(root / val), strange, classes)
        images["val"] = _images(root, val, classes, passed)
        if not any(images["val"].values()):
            raise BadData(f"{root / val}: holds no images below class folders; sort them into the class folders that {root / train} has.")
    return _Layout(root, train, val, classes, images)


def _check_training(place: Path, classes: Sequence[str], images: Mapping[str, Sequence[Found]]) -> None:
    """BadData unless there are two classes or more with images each."""
    if not any(images.values()):
        raise BadData(f"{place}: holds no images below class folders; give a folder like DIR/class/image.jpg ({', '.join(SUFFIXES)}).")
    empty = next((name for name in classes if not images[name]), None)
    if empty is not None:
        raise BadData(f"{place / empty}: holds no images, and each folder in {place} is a class; fill it or move it elsewhere.")
    if len(classes) < 2:
        raise BadData(f"{place}: holds one class, '{classes[0]}', and two are needed; sort the images into a folder for each class.")


def _check_places(root: Path, classes: Sequence[str], images: Mapping[str, Sequence[Found]], passed: Passed) -> None:
    """BadData for a folder without splits whose folders cannot be classes: images beside masks, or splits below classes; ``passed`` notes
    that images are deeper than usual."""
    kinds = {name.lower(): name for name in classes}
    pictures, targets = (sorted(names & kinds.keys()) for names in (PICTURES, TARGETS))
    if pictures and targets:
        raise BadData(
            f"{root}: holds '{kinds[pictures[0]]}' and '{kinds[targets[0]]}', which are no classes; give a folder like DIR/class/image.jpg "
            "(images with masks or depth maps go to scores.segmentation.source or scores.depth.source)."
        )
    below = {name: {file.path.split("/")[1] for file in images[name] if file.path.count("/") > 1} for name in classes}
    split = [name for name in classes if {"train", "val"} <= {_held(folder) for folder in below[name] if is_bare(folder)}]
    if len(split) > 1:
        raise BadData(
            f"{root}: the folders {named(split)} hold splits themselves ({named(sorted(below[split[0]]))}); "
            "put the classes below the splits, as in train/CLASS/image.jpg and val/CLASS/image.jpg."
        )
    deep = next((name for name in classes if len(below[name]) > 1), None)
    if deep is not None and not any(file.path.count("/") == 1 for of_class in images.values() for file in of_class):
        passed.notes.append(f"each folder in it is a class, with all images below it ({deep}/{min(below[deep])} is of the class {deep})")


def _held(folder: str) -> str | None:
    """The split that a name means, test as validation."""
    split = split_of(folder)
    return "val" if split == "test" else split


def _splits(root: Path, passed: Passed) -> tuple[Path, str, str | None]:
    """The folder, and below it where its training classes are, and its validation classes if it has its own."""
    root = next((root / inner for inner in IMAGENET if _has_train(root / inner)), root)
    names = scan.folders(root, passed)
    if not names:
        packed = next((path.name for path in sorted(root.iterdir()) if path.suffix.lower() in ARCHIVES), None)
        raise BadData(
            f"{root}: holds no class folders, shards (*.tar) or Hugging Face dataset"
            + (f", but archives ({packed}); unpack them and " if packed else "; ")
            + "give a folder like DIR/class/image.jpg, or 'shapes'."
        )
    check_links(root)
    chosen = _chosen(root, names, passed)
    if chosen is None:
        if len(names) == 1 and (inner := _inner(root, names[0])):
            raise BadData(f"{root}: holds one folder, '{names[0]}', which would be the only class; give {inner}.")
        return root, "", None
    return root, _same_inside(root, chosen.train[0]), _same_inside(root, chosen.val[0]) if chosen.val else None


def _alone(place: Path) -> str | None:
    """The only folder in a folder that holds no images itself; None where it is a link to one above it."""
    names = scan.folders(place)
    if len(names) != 1 or scan.own(place, SUFFIXES) or is_inside(place / names[0], place):
        return None
    return names[0]


def _inner(root: Path, name: str) -> Path | None:
    """The folder below one that stands alone which has several folders, or a single one that is a split, or shards or a dataset."""
    place = root / name
    while (inner := _alone(place)) and not split_of(inner):
        place = place / inner
    return place if scan.folders(place) or scan.own(place, (".tar", ".parquet", ".arrow")) else None


def _same_inside(root: Path, split: str) -> str:
    """A split's folder, or the one in it where that alone is in it and its name means the same split (``train/train/CLASS``)."""
    while (inner := _alone(root / split)) and split_of(inner) == split_of(split.rpartition("/")[2]):
        split = f"{split}/{inner}"
    return split


def _has_train(place: Path) -> bool:
    return place.is_dir() and any(split_of(name) == "train" for name in scan.folders(place))


def _chosen(root: Path, names: Sequence[str], passed: Passed) -> Chosen | None:
    """The split folders among some folders; None when all of them are classes. A folder called ``train`` may be a class of locomotives:
    it is a split when it holds class folders itself. BadData when that cannot be told."""
    like = [name for name in names if split_of(name)]
    if not like:
        return None
    others = [name for name in names if name not in like and scan.first(root / name, SUFFIXES)]
    inside = {name: frozenset(scan.folders(root / name)) for name in (*like, *others)}
    training = [name for name in like if split_of(name) == "train"]
    held = [name for name in like if name not in training and (inside[name] or split_of(name) == "val")]
    if any(inside[name] for name in training) and (held or not others):
        usable = [*training, *held, *others]
        passed.others += [name for name in like if name not in usable]
        chosen = choose_splits(root, usable, passed, single=True)
        for name in (*chosen.train, *chosen.val[:1]) if chosen else ():
            passed.outside += len(scan.own(root / name, SUFFIXES))
        return chosen
    if not others or (training and held):
        if len(like) == 1 and not inside[like[0]]:
            return None  # one class: that is said
        if not training and any(inside.values()):
            choose_splits(root, like, passed, single=True)  # says what is missing
        flat = [name for name in like if not inside[name]]
        example = flat[0] if is_bare(flat[0]) else split_of(flat[0])
        raise BadData(
            f"{root}: {named(flat)} named like a split, without class folders; sort the images into folders like {example}/CLASS/image.jpg."
        )
    for name in like:  # beside folders of images that are in no split
        alike = any(inside[name] & inside[other] for other in others)
        nested = all(inside[other] for other in others)
        splits = not nested and not scan.own(root / name, SUFFIXES) if inside[name] else nested
        if alike or (is_bare(name) and splits):
            raise BadData(
                f"{root}: '{name}' looks like a split, and beside it are folders of images that are in no split ({named(others)}); "
                "name the splits 'train' and 'val', or move what does not belong to them elsewhere."
            )
    return None


def _images(root: Path, split: str, classes: Sequence[str], passed: Passed) -> dict[str, list[Found]]:
    """The images below each class folder of a split, in the order of their paths; none of a class that has no folder there."""
    return {
        name: sorted(scan.walk(root, f"{split}/{name}" if split else name, SUFFIXES, passed)) if (root / split / name).is_dir() else []
        for name in classes
    }
