"""Class folders as a source of images. No torch.

``DIR/class/*.jpg`` (a share of each class is held out for validation), or ``DIR/train/class/*`` with ``DIR/val/class/*``. Split folders may
have any name that ``splits`` recognises (``training`` and ``validation``, ``ILSVRC2012_img_train``). For ImageNet as unpacked
(``DIR/ILSVRC/Data/CLS-LOC/train/n01440764``), DIR may be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from svgbench.errors import BadData
from svgbench.images import scan
from svgbench.images.listing import SUFFIXES, Collection, ImageEntry, Read, unknown_classes
from svgbench.images.scan import ListedFile, Skipped, examples
from svgbench.images.splits import Chosen, check_links, choose_splits, is_bare, split_of
from svgbench.machine.files import is_inside, read_regular

IMAGENET = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
"""Folders of ImageNet's archive that contain its splits."""
PICTURES, TARGETS = {"images", "jpegimages", "leftimg8bit"}, {"annotations", "masks", "labels", "depth", "segmentationclass", "gtfine"}
"""Folders of images and of targets in dense data sets, in lower case. If both occur, they are not classes."""
ARCHIVES = (".zip", ".gz", ".tgz", ".zst", ".xz", ".bz2", ".7z", ".rar")


@dataclass(frozen=True)
class _Layout:
    """The class folders and images of a data set."""

    root: Path
    """Paths are relative to this folder."""
    train: str
    """The folder of the training classes, relative to the root; empty for the root itself."""
    val: str | None
    """The folder of the validation classes; None without one."""
    classes: tuple[str, ...]
    images: dict[str, dict[str, list[ListedFile]]]
    """Split -> class -> its images in the order of their paths."""


def collect(root: Path) -> Collection:
    """Lists the images below a folder. Raises BadData when there are none, only one class, or validation classes without training
    images."""
    layout = _layout(root, Skipped())
    splits = {
        split: [ImageEntry(file.path, label, file.size) for label, name in enumerate(layout.classes) for file in images[name]]
        for split, images in layout.images.items()
    }
    return Collection(layout.root, layout.classes, splits["train"], splits.get("val"), lambda entries, scratch: _reader(layout.root))


def files(root: Path, skipped: Skipped) -> tuple[Path, list[ListedFile]]:
    """The folder that paths are relative to, and every image file of both splits. Raises BadData as ``collect`` does; reads no file."""
    layout = _layout(root, skipped)
    return layout.root, [file for images in layout.images.values() for of_class in images.values() for file in of_class]


def _reader(root: Path) -> Read:
    return lambda entry: read_regular(root / entry.path)


def _layout(root: Path, skipped: Skipped) -> _Layout:
    """The classes and images of a folder. Raises BadData when the layout is not recognised or the splits' classes differ."""
    root, train, val = _splits(root, skipped)
    classes = tuple(scan.folders(root / train, skipped if train else None))
    images = {"train": _images(root, train, classes, skipped)}
    if not train:
        _check_places(root, classes, images["train"], skipped)
    _check_training(root / train, classes, images["train"])
    if val is not None:
        unknown = sorted(set(scan.folders(root / val, skipped)) - set(classes))
        if unknown:
            raise unknown_classes(str(root / val), unknown, classes)
        images["val"] = _images(root, val, classes, skipped)
        if not any(images["val"].values()):
            raise BadData(f"{root / val}: contains no images in class folders; sort them into the same class folders as in {root / train}.")
    return _Layout(root, train, val, classes, images)


def _check_training(folder: Path, classes: Sequence[str], images: Mapping[str, Sequence[ListedFile]]) -> None:
    """Raises BadData unless there are at least two classes and each has images."""
    if not any(images.values()):
        raise BadData(f"{folder}: contains no images in class folders; give a folder like DIR/class/image.jpg ({', '.join(SUFFIXES)}).")
    empty = next((name for name in classes if not images[name]), None)
    if empty is not None:
        raise BadData(f"{folder / empty}: contains no images, and each folder in {folder} is a class; fill it or move it elsewhere.")
    if len(classes) < 2:
        raise BadData(f"{folder}: has only one class, '{classes[0]}', and needs two; sort the images into a folder for each class.")


def _check_places(root: Path, classes: Sequence[str], images: Mapping[str, Sequence[ListedFile]], skipped: Skipped) -> None:
    """Raises BadData for a folder without splits whose folders cannot be classes: images beside masks, or splits below classes. Adds a
    note to ``skipped`` when images are deeper than usual."""
    kinds = {name.lower(): name for name in classes}
    pictures, targets = (sorted(names & kinds.keys()) for names in (PICTURES, TARGETS))
    if pictures and targets:
        raise BadData(
            f"{root}: contains '{kinds[pictures[0]]}' and '{kinds[targets[0]]}', which are not classes; give a folder like "
            "DIR/class/image.jpg (for images with masks or depth maps set scores.segmentation.source or scores.depth.source)."
        )
    below = {name: {file.path.split("/")[1] for file in images[name] if file.path.count("/") > 1} for name in classes}
    split = [name for name in classes if {"train", "val"} <= {_validation_split(folder) for folder in below[name] if is_bare(folder)}]
    if len(split) > 1:
        raise BadData(
            f"{root}: the folders {examples(split)} contain splits ({examples(sorted(below[split[0]]))}); "
            "put the classes below the splits, as in train/CLASS/image.jpg and val/CLASS/image.jpg."
        )
    deep = next((name for name in classes if len(below[name]) > 1), None)
    if deep is not None and not any(file.path.count("/") == 1 for of_class in images.values() for file in of_class):
        skipped.notes.append(f"each folder in it is a class, with all images below it ({deep}/{min(below[deep])} is of the class {deep})")


def _validation_split(folder: str) -> str | None:
    """The split that a name stands for, with test counted as validation."""
    split = split_of(folder)
    return "val" if split == "test" else split


def _splits(root: Path, skipped: Skipped) -> tuple[Path, str, str | None]:
    """The root, and the folders of the training and the validation classes relative to it (None without validation classes)."""
    root = next((root / inner for inner in IMAGENET if _has_train(root / inner)), root)
    names = scan.folders(root, skipped)
    if not names:
        packed = next((path.name for path in sorted(root.iterdir()) if path.suffix.lower() in ARCHIVES), None)
        raise BadData(
            f"{root}: contains no class folders, shards (*.tar) or Hugging Face dataset"
            + (f", but archives ({packed}); unpack them and " if packed else "; ")
            + "give a folder like DIR/class/image.jpg, 'shapes' or 'scenes'."
        )
    check_links(root)
    chosen = _choose(root, names, skipped)
    if chosen is None:
        if len(names) == 1 and (inner := _inner(root, names[0])):
            raise BadData(f"{root}: its only folder, '{names[0]}', would be the only class; give {inner}.")
        return root, "", None
    return root, _same_inside(root, chosen.train[0]), _same_inside(root, chosen.val[0]) if chosen.val else None


def _only_folder(folder: Path) -> str | None:
    """The only subfolder of a folder that directly contains no images; None if there is none or it is a link to a folder above."""
    names = scan.folders(folder)
    if len(names) != 1 or scan.files_in(folder, SUFFIXES) or is_inside(folder / names[0], folder):
        return None
    return names[0]


def _inner(root: Path, name: str) -> Path | None:
    """Follows single subfolders down to the first folder with several folders, a split, shards or a dataset; None without one."""
    folder = root / name
    while (inner := _only_folder(folder)) and not split_of(inner):
        folder = folder / inner
    return folder if scan.folders(folder) or scan.files_in(folder, (".tar", ".parquet", ".arrow")) else None


def _same_inside(root: Path, split: str) -> str:
    """The folder of a split, or its only subfolder if that is named after the same split (``train/train/CLASS``)."""
    while (inner := _only_folder(root / split)) and split_of(inner) == split_of(split.rpartition("/")[2]):
        split = f"{split}/{inner}"
    return split


def _has_train(folder: Path) -> bool:
    return folder.is_dir() and any(split_of(name) == "train" for name in scan.folders(folder))


def _choose(root: Path, names: Sequence[str], skipped: Skipped) -> Chosen | None:
    """The split folders among some folders; None when all of them are classes. A folder called ``train`` may also be a class (of trains):
    it is a split when it contains class folders. Raises BadData when both are possible."""
    split_names = [name for name in names if split_of(name)]
    if not split_names:
        return None
    others = [name for name in names if name not in split_names and scan.first_file(root / name, SUFFIXES)]
    inside = {name: frozenset(scan.folders(root / name)) for name in (*split_names, *others)}
    training = [name for name in split_names if split_of(name) == "train"]
    validation = [name for name in split_names if name not in training and (inside[name] or split_of(name) == "val")]
    if any(inside[name] for name in training) and (validation or not others):
        usable = [*training, *validation, *others]
        skipped.others += [name for name in split_names if name not in usable]
        chosen = choose_splits(root, usable, skipped, single=True)
        for name in (*chosen.train, *chosen.val[:1]) if chosen else ():
            skipped.outside += len(scan.files_in(root / name, SUFFIXES))
        return chosen
    if not others or (training and validation):
        if len(split_names) == 1 and not inside[split_names[0]]:
            return None  # one class: the caller raises the error
        if not training and any(inside.values()):
            choose_splits(root, split_names, skipped, single=True)  # raises an error that names what is missing
        flat = [name for name in split_names if not inside[name]]
        example = flat[0] if is_bare(flat[0]) else split_of(flat[0])
        raise BadData(
            f"{root}: {examples(flat)} named like a split, without class folders; "
            f"sort the images into folders like {example}/CLASS/image.jpg."
        )
    for name in split_names:  # next to folders of images that are in no split
        shares_classes = any(inside[name] & inside[other] for other in others)
        nested = all(inside[other] for other in others)
        splits = not nested and not scan.files_in(root / name, SUFFIXES) if inside[name] else nested
        if shares_classes or (is_bare(name) and splits):
            raise BadData(
                f"{root}: '{name}' looks like a split, but there are also folders of images in no split ({examples(others)}); "
                "name the splits 'train' and 'val', or move the other folders elsewhere."
            )
    return None


def _images(root: Path, split: str, classes: Sequence[str], skipped: Skipped) -> dict[str, list[ListedFile]]:
    """Class -> its images in a split, in the order of their paths; empty for a class without a folder."""
    return {
        name: sorted(scan.walk(root, f"{split}/{name}" if split else name, SUFFIXES, skipped)) if (root / split / name).is_dir() else []
        for name in classes
    }
