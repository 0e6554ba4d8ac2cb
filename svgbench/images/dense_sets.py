"""Folders of images with a mask or a depth map each: listed, identified and read pair by pair. No torch.

segmentation   images/{training,validation}/**/NAME.jpg, annotations/{training,validation}/**/NAME.png: uint8, 0 unlabelled,
               1 to 150 the classes (ADE20K as its archive unpacks); the splits by any name that ``splits`` understands
depth          images/{training,validation}/**/NAME.jpg, depth/{training,validation}/**/NAME.png: 16 bits, millimetres, 0 unknown;
               or nyu_train.txt and nyu_test.txt, each line an image and a depth map below the folder (BTS, DINOv2)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from svgbench.errors import BadData
from svgbench.images import catalogue, scan
from svgbench.images.catalogue import Reading
from svgbench.images.decode import UNREADABLE, check_size, opened, reason, stored, to_rgb
from svgbench.images.listing import SUFFIXES
from svgbench.images.scan import Passed
from svgbench.images.splits import choose_splits, split_of
from svgbench.machine.progress import tell_once

SPLITS = ("training", "validation")
TARGETS = {"segmentation": "annotations", "depth": "depth"}
LISTS = {"training": "nyu_train.txt", "validation": "nyu_test.txt"}
IGNORED = 255
"""What an unlabelled pixel becomes."""
MILLIMETRES = 1000.0
NOTHING = {
    "masks": "all are 0, which means unlabelled; give masks that hold labels",
    "depth maps": "all are 0, which means unknown, or out of the head's range; give depth maps in millimetres or correct scores.depth.head",
}
"""What targets are called -> why none of their pixels counts, and what to do."""

Kind = Literal["segmentation", "depth"]


class Pair(NamedTuple):
    """An image and its target: paths below the folder with forward slashes."""

    image: str
    target: str


class Sample(NamedTuple):
    """A pair as read."""

    image: Image.Image
    """RGB."""
    target: np.ndarray
    """[H, W]: uint8 classes from 0 with 255 for ignored, or float32 metres with 0 for unknown."""


@dataclass(frozen=True)
class DenseSet:
    """The pairs of both splits, in the order of their paths."""

    root: Path
    training: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    contents: Mapping[str, str] = field(repr=False, compare=False)
    """Path -> sha256 of the file's bytes."""

    def limited(self, most: int | None) -> DenseSet:
        """The first ``most`` pairs of each split; all when None."""
        return DenseSet(self.root, self.training[:most], self.validation[:most], self.contents)

    def digest(self, split: str) -> str:
        """sha256 of a split's relative paths and the bytes of its files."""
        files = (file for pair in getattr(self, split) for file in pair)
        lines = "".join(f"{file}\0{self.contents[file]}\n" for file in files)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def identity(self) -> str:
        """sha256 of both splits."""
        return hashlib.sha256("".join(self.digest(split) for split in SPLITS).encode()).hexdigest()


def open_set(kind: Kind, source: str, identity: str = "") -> DenseSet:
    """The pairs of a folder; BadData names what is missing, or says that it is no longer the one of an ``identity``."""
    field = f"scores.{kind}.source"
    try:
        return _opened(kind, Path(source).expanduser(), field, identity)
    except BadData as error:
        raise error.about(field) from None


def _opened(kind: Kind, root: Path, field: str, identity: str) -> DenseSet:
    """The pairs of a folder that a ``field`` of the configuration names."""
    if not root.is_dir():
        raise BadData(f"{root} is no folder; give {field} one with images/ and {TARGETS[kind]}/, or leave it empty.")
    passed = Passed()
    splits = _splits(kind, root, passed)
    if not identity and (sentence := passed.sentence(root)):  # said once, while a run is planned
        tell_once(f"data: {sentence}")
    found = DenseSet(root, **{split: tuple(pairs) for split, pairs in splits.items()}, contents=_reading(kind, root, splits).digests)
    if identity and found.identity != identity:
        raise BadData(f"{root}: its files changed after this run was planned; run the same command again.")
    return found


def kind_of(root: Path) -> Kind | None:
    """Which kind of dense set a folder holds, by the folder of targets beside its images; None when it holds none."""
    folders = {name.lower() for name in scan.folders(root)}
    if (root / LISTS["training"]).is_file():
        return "depth"
    return next((kind for kind, targets in TARGETS.items() if {"images", targets} <= folders), None)  # type: ignore[return-value]


def verify(kind: Kind, root: Path) -> Reading:
    """Reads every file of a dense set; says how they differ from what was read last."""
    return _reading(kind, root, _splits(kind, root, Passed()), whole=True)


def _reading(kind: Kind, root: Path, splits: Mapping[str, Sequence[Pair]], *, whole: bool = False) -> Reading:
    paths = dict.fromkeys(path for pairs in splits.values() for pair in pairs for path in pair)
    return catalogue.read(root, [scan.stamped(root, path) for path in paths], kind, whole=whole)


def _splits(kind: Kind, root: Path, passed: Passed) -> dict[str, list[Pair]]:
    """The pairs of both splits."""
    if kind == "depth" and (root / LISTS["training"]).is_file():
        return {split: _listed(root, root / LISTS[split]) for split in SPLITS}
    inside = scan.folders(root)
    if len(inside) == 1 and kind_of(root / inside[0]) == kind:
        raise BadData(f"{root}: holds one folder, '{inside[0]}', with the images and their {TARGETS[kind]} in it; give {root / inside[0]}.")
    images, targets = _folders(root, "images", passed), _folders(root, TARGETS[kind], passed)
    for split in SPLITS:
        if split_of(images[split].rpartition("/")[2]) != split_of(targets[split].rpartition("/")[2]):
            raise BadData(f"{root}: {images[split]} and {targets[split]} are different splits; give both folders the same split names.")
    return {split: _paired(root, images[split], targets[split], passed) for split in SPLITS}


def _folders(root: Path, name: str, passed: Passed) -> dict[str, str]:
    """Where each split of the images or of the targets is, below the root, whatever the case of the names."""
    inside = scan.folders(root)
    part = name if name in inside else next((folder for folder in inside if folder.lower() == name), name)
    own = Passed()
    chosen = choose_splits(root / part, scan.folders(root / part, own), own, single=True) if (root / part).is_dir() else None
    passed.notes += own.notes
    passed.others += [f"{part}/{other}" for other in own.others]
    passed.dangling += [f"{part}/{link}" for link in own.dangling]
    train, val = (chosen.train, chosen.val) if chosen else ([], [])
    return {split: f"{part}/{found[0] if found else split}" for split, found in zip(SPLITS, (train, val), strict=True)}


def _paired(root: Path, images_in: str, targets_in: str, passed: Passed) -> list[Pair]:
    """Pairs by name: images/SPLIT/NAME.* with TARGETS/SPLIT/NAME.png."""
    images, maps = _by_name(root, images_in, SUFFIXES, passed), _by_name(root, targets_in, (".png",), passed)
    if not images:
        raise BadData(f"{root / images_in}: holds no images; give a folder with {images_in}/ and {targets_in}/.")
    for one, other, words in ((images, maps, (targets_in, ".png")), (maps, images, (images_in, ".jpg"))):
        alone = sorted(one.keys() - other.keys())
        if alone:
            lacking = f"{words[0]}/{alone[0]}{words[1]}"
            raise BadData(f"{root}: {one[alone[0]]} has no {lacking} ({len(alone)} like it); add the files or remove these.")
    return [Pair(images[name], maps[name]) for name in sorted(images)]


def _by_name(root: Path, folder: str, suffixes: tuple[str, ...], passed: Passed) -> dict[str, str]:
    """Files below a folder of the root by their paths in it without suffix; of several with one name the first is taken."""
    found: dict[str, str] = {}
    files = sorted(file.path for file in scan.walk(root, folder, suffixes, passed)) if (root / folder).is_dir() else []
    for path in files:
        name = path[len(folder) + 1 :].rpartition(".")[0]
        if found.setdefault(name, path) != path:
            passed.twins.append(path)
    return found


def _listed(root: Path, path: Path) -> list[Pair]:
    """Pairs of a split list: image, depth map, and what else a line holds (BTS: the focal length)."""
    if not path.is_file():
        raise BadData(f"{path} does not exist; a folder with {LISTS['training']} needs {LISTS['validation']} too.")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2:
            raise BadData(f"{path}, line {number}: names one file; write an image and its depth map, with a space between.")
        pair = Pair(*(word.lstrip("/") for word in words[:2]))
        outside = [file for file in pair if ".." in Path(file).parts]
        if outside:
            raise BadData(f"{path}, line {number}: {outside[0]} leads out of {root}; name files in that folder.")
        missing = [file for file in pair if not (root / file).is_file()]
        if missing:
            raise BadData(f"{path}, line {number}: {root / missing[0]} does not exist; unpack it there or remove the line.")
        pairs.append(pair)
    if not pairs:
        raise BadData(f"{path}: names no files; write an image and its depth map on each line.")
    return sorted(pairs)


def read_labelled(root: Path, pair: Pair, classes: int, short: int | None = None) -> Sample:
    """An image and its classes 0 to ``classes`` - 1, with 255 where the mask holds 0. BadData for a mask of other numbers than 0 to
    ``classes``, and for an image that would be too large with its short side resized to ``short``."""
    image, mask = _read(root, pair, "mask", short)
    if mask.dtype not in (np.bool_, np.uint8, np.uint16):
        raise BadData(f"{root / pair.target}: holds {mask.dtype} numbers; a mask holds 0 for unlabelled and the classes 1 to {classes}.")
    most = int(mask.max())
    if most > classes:
        raise BadData(
            f"{root / pair.target}: holds label {most}, and the classes are 1 to {classes} with 0 for unlabelled; "
            "correct the mask or set scores.segmentation.head.classes."
        )
    return Sample(image, mask.astype(np.uint8) - np.uint8(1))  # 0 wraps round to 255


def read_depth(root: Path, pair: Pair) -> Sample:
    """An image and its depths in metres, 0 where unknown. BadData for a depth map that is not of 16 bits."""
    image, depth = _read(root, pair, "depth map")
    if depth.dtype in (np.bool_, np.uint8):
        raise BadData(f"{root / pair.target}: has 8 bits a pixel; a depth map is a PNG of 16 bits, in millimetres.")
    if depth.dtype != np.uint16:
        unknown = f"holds {depth.dtype} numbers, whose unit is unknown"
        raise BadData(f"{root / pair.target}: {unknown}; a depth map is a PNG of 16 bits, in millimetres.")
    if not depth.any():
        raise BadData(f"{root / pair.target}: every depth is zero, which means unknown; remove the pair or repair the depth map.")
    return Sample(image, depth.astype(np.float32) / np.float32(MILLIMETRES))


def _read(root: Path, pair: Pair, word: str, short: int | None = None) -> tuple[Image.Image, np.ndarray]:
    """The image in RGB and the numbers of its target, of one size."""
    try:
        path = root / pair.image
        with opened(path) as image:
            check_size(image.size, short)
            rgb = to_rgb(image)
        path = root / pair.target
        with opened(path) as image:
            target = stored(image)
    except UNREADABLE as error:
        raise BadData(f"{path}: cannot be read ({reason(error)}); repair it or remove the pair.") from None
    if target.ndim != 2:
        raise BadData(f"{path}: has {target.shape[2]} channels; a {word} has one.")
    if target.shape != (rgb.height, rgb.width):
        sizes = f"{target.shape[1]} x {target.shape[0]} px, its image {rgb.width} x {rgb.height}"
        raise BadData(f"{path}: the {word} is {sizes}; both must be of one size.")
    return rgb, target


def check(
    root: Path, pairs: Sequence[Pair], counted: Callable[[Pair], int], *, threads: int, word: str, advance: Callable[[int], None]
) -> int:
    """Reads every pair of a split before anything is trained on it and gives the sum of what counts; BadData when one cannot be used or
    when nothing in all of them counts. ``word``: what the targets are called, a key of ``NOTHING``."""
    total = 0
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for count in pool.map(counted, pairs):
            total += count
            advance(1)
    if not total:
        most = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        raise BadData(f"{root}: no pixel of the {word} counts ({pairs[0].target}{most}): {NOTHING[word]}.")
    return total
