"""Data sets for dense prediction: folders of images with a segmentation mask or a depth map each. No torch.

segmentation   images/{training,validation}/**/NAME.jpg, annotations/{training,validation}/**/NAME.png: uint8, 0 unlabelled,
               1 to 150 the classes (ADE20K as unpacked); split folders may have any name that ``splits`` recognises
depth          images/{training,validation}/**/NAME.jpg, depth/{training,validation}/**/NAME.png: 16 bits, millimetres, 0 unknown;
               or nyu_train.txt and nyu_test.txt, each line with the paths of an image and a depth map in the folder (BTS, DINOv2)
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

from svgbench.config.scoring import Depth, Segmentation
from svgbench.errors import BadData
from svgbench.images import catalogue, scan
from svgbench.images.catalogue import FileDigests
from svgbench.images.decode import UNREADABLE, check_size, open_image, read_values, reason, to_rgb
from svgbench.images.listing import SUFFIXES
from svgbench.images.scan import Skipped
from svgbench.images.splits import choose_splits, split_of
from svgbench.machine.progress import tell_once

SPLITS = ("training", "validation")
TARGETS: dict[Kind, str] = {"segmentation": "annotations", "depth": "depth"}
LISTS = {"training": "nyu_train.txt", "validation": "nyu_test.txt"}
IGNORED = 255
"""The label of unlabelled pixels."""
MILLIMETRES = 1000.0
WHY_NO_PIXELS = {
    "masks": "all are 0, which means unlabelled; give masks that hold labels",
    "depth maps": "all are 0, which means unknown, or out of the head's range; give depth maps in millimetres or correct scores.depth.head",
}
"""Kind of the targets -> why none of their pixels can be used, and what to do."""

Kind = Literal["segmentation", "depth"]


class ImagePair(NamedTuple):
    """An image and its target: paths below the folder with forward slashes."""

    image: str
    target: str


class Sample(NamedTuple):
    """An image and its target in memory."""

    image: Image.Image
    """RGB."""
    target: np.ndarray
    """[H, W]: uint8 classes from 0 with 255 for ignored, or float32 metres with 0 for unknown."""


@dataclass(frozen=True)
class DenseSet:
    """The images and targets of both splits, in the order of their paths."""

    root: Path
    training: tuple[ImagePair, ...]
    validation: tuple[ImagePair, ...]
    contents: Mapping[str, str] = field(repr=False, compare=False)
    """Path -> sha256 of the file's bytes."""

    def limited(self, limit: int | None) -> DenseSet:
        """The first ``limit`` pairs of each split; all when None."""
        return DenseSet(self.root, self.training[:limit], self.validation[:limit], self.contents)

    def digest(self, split: str) -> str:
        """SHA-256 of a split's relative paths and the bytes of its files."""
        files = (file for pair in getattr(self, split) for file in pair)
        lines = "".join(f"{file}\0{self.contents[file]}\n" for file in files)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def identity(self) -> str:
        """SHA-256 of both splits."""
        return hashlib.sha256("".join(self.digest(split) for split in SPLITS).encode()).hexdigest()


def open_set(kind: Kind, source: str, identity: str = "") -> DenseSet:
    """Lists the pairs of a folder. Raises BadData when files are missing, or when ``identity`` is given and the files have changed
    since."""
    field = f"scores.{kind}.source"
    try:
        return _open(kind, Path(source).expanduser(), field, identity)
    except BadData as error:
        raise error.about(field) from None


def _open(kind: Kind, root: Path, field: str, identity: str) -> DenseSet:
    """``open_set``; ``field`` is the configuration field that names the folder."""
    if not root.is_dir():
        raise BadData(f"{root} is not a folder; set {field} to a folder with images/ and {TARGETS[kind]}/, or leave it empty.")
    skipped = Skipped()
    splits = _splits(kind, root, skipped)
    if not identity and (sentence := skipped.sentence(root)):  # reported once, while a run is planned
        tell_once(f"data: {sentence}")
    dense_set = DenseSet(root, **{split: tuple(pairs) for split, pairs in splits.items()}, contents=_reading(kind, root, splits).digests)
    if identity and dense_set.identity != identity:
        raise BadData(f"{root}: its files changed after this run was planned; run the same command again.")
    return dense_set


def opened(kind: Kind, settings: Segmentation | Depth, identity: str | None = None) -> DenseSet:
    """Opens the set of a stage's settings, which must have a ``source``; ``identity`` replaces theirs if given. Raises BadData as
    ``open_set`` does."""
    assert settings.source is not None  # else the run has no such stage
    return open_set(kind, settings.source, settings.identity if identity is None else identity)


def training_count(kind: Kind, source: str) -> int:
    """Number of training pairs in a folder; reads none of them. Raises BadData as ``open_set`` does."""
    return len(_splits(kind, Path(source).expanduser(), Skipped())["training"])


def kind_of(root: Path) -> Kind | None:
    """The kind of dense set in a folder, by the name of the folder of targets; None when it is not a dense set."""
    folders = {name.lower() for name in scan.folders(root)}
    if (root / LISTS["training"]).is_file():
        return "depth"
    return next((kind for kind, targets in TARGETS.items() if {"images", targets} <= folders), None)


def verify(kind: Kind, root: Path) -> FileDigests:
    """Reads every file of a dense set again; the result lists the files that changed since they were last read."""
    return _reading(kind, root, _splits(kind, root, Skipped()), reread=True)


def _reading(kind: Kind, root: Path, splits: Mapping[str, Sequence[ImagePair]], *, reread: bool = False) -> FileDigests:
    paths = dict.fromkeys(path for pairs in splits.values() for pair in pairs for path in pair)
    return catalogue.read(root, [scan.stat_file(root, path) for path in paths], kind, reread=reread)


def _splits(kind: Kind, root: Path, skipped: Skipped) -> dict[str, list[ImagePair]]:
    """The pairs of both splits."""
    if kind == "depth" and (root / LISTS["training"]).is_file():
        return {split: _pairs_from_list(root, root / LISTS[split]) for split in SPLITS}
    names = scan.folders(root)
    if len(names) == 1 and kind_of(root / names[0]) == kind:
        raise BadData(f"{root}: its only folder, '{names[0]}', has the images and {TARGETS[kind]}; give {root / names[0]}.")
    images, targets = _folders(root, "images", skipped), _folders(root, TARGETS[kind], skipped)
    for split in SPLITS:
        if split_of(images[split].rpartition("/")[2]) != split_of(targets[split].rpartition("/")[2]):
            raise BadData(f"{root}: {images[split]} and {targets[split]} are different splits; give both folders the same split names.")
    return {split: _paired(root, images[split], targets[split], skipped) for split in SPLITS}


def _folders(root: Path, name: str, skipped: Skipped) -> dict[str, str]:
    """Split -> its folder of images or targets, relative to the root; upper and lower case do not matter."""
    names = scan.folders(root)
    part = name if name in names else next((folder for folder in names if folder.lower() == name), name)
    skipped_here = Skipped()
    chosen = (
        choose_splits(root / part, scan.folders(root / part, skipped_here), skipped_here, single=True) if (root / part).is_dir() else None
    )
    skipped.notes += skipped_here.notes
    skipped.others += [f"{part}/{other}" for other in skipped_here.others]
    skipped.dangling += [f"{part}/{link}" for link in skipped_here.dangling]
    train, val = (chosen.train, chosen.val) if chosen else ([], [])
    return {split: f"{part}/{names[0] if names else split}" for split, names in zip(SPLITS, (train, val), strict=True)}


def _paired(root: Path, images_in: str, targets_in: str, skipped: Skipped) -> list[ImagePair]:
    """Pairs by name: images/SPLIT/NAME.* with TARGETS/SPLIT/NAME.png."""
    images, maps = _by_name(root, images_in, SUFFIXES, skipped), _by_name(root, targets_in, (".png",), skipped)
    if not images:
        raise BadData(f"{root / images_in}: contains no images; give a folder with {images_in}/ and {targets_in}/.")
    for files, partners, place in ((images, maps, (targets_in, ".png")), (maps, images, (images_in, ".jpg"))):
        unmatched = sorted(files.keys() - partners.keys())
        if unmatched:
            missing = f"{place[0]}/{unmatched[0]}{place[1]}"
            raise BadData(f"{root}: {files[unmatched[0]]} has no {missing} ({len(unmatched)} such files); add or remove files.")
    return [ImagePair(images[name], maps[name]) for name in sorted(images)]


def _by_name(root: Path, folder: str, suffixes: tuple[str, ...], skipped: Skipped) -> dict[str, str]:
    """Path in the folder without suffix -> path below the root; if several files share a name, the first in order."""
    by_name: dict[str, str] = {}
    files = sorted(file.path for file in scan.walk(root, folder, suffixes, skipped)) if (root / folder).is_dir() else []
    for path in files:
        name = path[len(folder) + 1 :].rpartition(".")[0]
        if by_name.setdefault(name, path) != path:
            skipped.twins.append(path)
    return by_name


def _pairs_from_list(root: Path, path: Path) -> list[ImagePair]:
    """Pairs of a list file: each line names an image, a depth map and perhaps more (BTS: the focal length), which is ignored."""
    if not path.is_file():
        raise BadData(f"{path} does not exist; a folder with {LISTS['training']} needs {LISTS['validation']} too.")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) < 2:
            raise BadData(f"{path}, line {number}: names only one file; write an image and its depth map, separated by a space.")
        pair = ImagePair(*(word.lstrip("/") for word in columns[:2]))
        outside = [file for file in pair if ".." in Path(file).parts]
        if outside:
            raise BadData(f"{path}, line {number}: {outside[0]} is outside {root}; name files in that folder.")
        absent = [file for file in pair if not (root / file).is_file()]
        if absent:
            raise BadData(f"{path}, line {number}: {root / absent[0]} does not exist; unpack it there or remove the line.")
        pairs.append(pair)
    if not pairs:
        raise BadData(f"{path}: is empty; write an image and its depth map on each line.")
    return sorted(pairs)


def read_labelled(root: Path, pair: ImagePair, classes: int, short: int | None = None) -> Sample:
    """Reads an image and its mask: labels 0 to ``classes`` - 1, and 255 where the mask is 0.

    Raises BadData for a mask with other values than 0 to ``classes``, and for an image that would be too large after resizing its short
    side to ``short`` pixels."""
    image, mask = _read_pair(root, pair, "mask", short)
    if mask.dtype not in (np.bool_, np.uint8, np.uint16):
        raise BadData(f"{root / pair.target}: has {mask.dtype} values; a mask has 0 for unlabelled pixels and the classes 1 to {classes}.")
    largest = int(mask.max())
    if largest > classes:
        raise BadData(
            f"{root / pair.target}: has label {largest}, but the classes are 1 to {classes}, with 0 for unlabelled; "
            "correct the mask or set scores.segmentation.head.classes."
        )
    return Sample(image, mask.astype(np.uint8) - np.uint8(1))  # 0 wraps round to 255


def read_depth(root: Path, pair: ImagePair) -> Sample:
    """Reads an image and its depth in metres, 0 where unknown. Raises BadData for a depth map that does not have 16 bits."""
    image, depth = _read_pair(root, pair, "depth map")
    if depth.dtype in (np.bool_, np.uint8):
        raise BadData(f"{root / pair.target}: has 8 bits per pixel; a depth map is a 16-bit PNG in millimetres.")
    if depth.dtype != np.uint16:
        raise BadData(f"{root / pair.target}: has {depth.dtype} values, whose unit is unknown; a depth map is a 16-bit PNG in millimetres.")
    if not depth.any():
        raise BadData(f"{root / pair.target}: every depth is zero, which means unknown; remove the pair or repair the depth map.")
    return Sample(image, depth.astype(np.float32) / np.float32(MILLIMETRES))


def _read_pair(root: Path, pair: ImagePair, kind: str, short: int | None = None) -> tuple[Image.Image, np.ndarray]:
    """The image in RGB and the values [H, W] of its target. Raises BadData when one cannot be read or their sizes differ."""
    try:
        path = root / pair.image
        with open_image(path) as image:
            check_size(image.size, short)
            rgb = to_rgb(image)
        path = root / pair.target
        with open_image(path) as image:
            target = read_values(image)
    except UNREADABLE as error:
        raise BadData(f"{path}: cannot be read ({reason(error)}); repair it or remove the pair.") from None
    if target.ndim != 2:
        raise BadData(f"{path}: has {target.shape[2]} channels; a {kind} has one channel.")
    if target.shape != (rgb.height, rgb.width):
        sizes = f"{target.shape[1]} x {target.shape[0]} px, its image {rgb.width} x {rgb.height}"
        raise BadData(f"{path}: the {kind} is {sizes}; both must have the same size.")
    return rgb, target


def count_usable_pixels(
    root: Path,
    pairs: Sequence[ImagePair],
    count_labelled: Callable[[ImagePair], int],
    *,
    threads: int,
    kind: str,
    advance: Callable[[int], None],
) -> int:
    """Reads every pair of a split before training and returns the sum of ``count_labelled(pair)``, the usable pixels.

    Raises BadData when a pair cannot be read or when there are no usable pixels. ``kind``: a key of ``WHY_NO_PIXELS``."""
    total = 0
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for count in pool.map(count_labelled, pairs):
            total += count
            advance(1)
    if not total:
        others = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        raise BadData(f"{root}: the {kind} have no usable pixel ({pairs[0].target}{others}): {WHY_NO_PIXELS[kind]}.")
    return total
