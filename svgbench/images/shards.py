"""Webdataset shards as a source of images: plain ``*.tar`` files, read in place without unpacking. No torch.

A member ``KEY.jpg`` (``png``, ``webp``, ...) is an image; ``KEY.cls`` (an integer as text) or ``KEY.json`` (an object with ``label``)
is its label; a key ends at the first dot of the file name. The split of a shard follows from its folder (``train/``, ``val/``) or its name
(``imagenet-train-000.tar``; shards without a split are then ignored); if neither names a split, a share of each class is held out.
``classes.txt`` names the classes, one per line, for all shards or in the folder of a split; without it, a class is named by the folder of
its keys, or by its number. Splits that number their classes differently are matched by these names.
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from svgbench.errors import BadData
from svgbench.images import scan
from svgbench.images.listing import SUFFIXES, UNLABELLED, Collection, Files, ImageEntry, Read, check_classes, numbered, unknown_classes
from svgbench.images.scan import ListedFile, Skipped
from svgbench.images.splits import check_links, choose_splits, split_of
from svgbench.machine.files import open_regular

LABEL_BYTES = 1 << 20
"""Largest size of a label file."""
NAMES = "classes.txt"
TAR = (".tar",)
BLOCK = 512
"""Bytes of a tar header."""


@dataclass
class _Member:
    """The files of one key."""

    image: tuple[str, int, int] | None = None
    """Name, size in bytes, offset in the shard."""
    labels: dict[str, bytes] = field(default_factory=dict)
    """Suffix (``cls``, ``json``) -> content."""


def holds(root: Path) -> bool:
    """Whether a directory contains shards. Tar files next to folders of images (ImageNet unpacked beside its archives) are not shards."""
    if any(split_of(name) == "train" and scan.first_file(root / name, TAR + SUFFIXES).lower().endswith(TAR) for name in scan.folders(root)):
        return True
    return bool(scan.files_in(root, TAR)) and not any(scan.first_file(root / name, SUFFIXES) for name in scan.folders(root))


def files(root: Path, skipped: Skipped) -> tuple[Path, list[ListedFile]]:
    """The folder that paths are relative to, its shards, and the files that name the classes."""
    split = _split(root, skipped)
    names = {file for split_ in (split.train, split.val) for file in _names_files(root, split_)}
    return root, [*split.train, *split.val, *(scan.stat_file(root, name) for name in sorted(names))]


def collect(root: Path) -> Collection:
    """Lists the images of all shards in one pass over the tar headers (about 10,000 images per second). Raises BadData for unusable
    shards."""
    split = _split(root, Skipped())
    shards, count = [root / file.path for file in (*split.train, *split.val)], len(split.train)
    labelled = [[(key, *image, _label(shard, key, labels)) for key, image, labels in _members(shard)] for shard in shards]
    rows, val_rows = ([row for rows in part for row in rows] for part in (labelled[:count], labelled[count:]))
    classes, named_by = _classes(root, _names_files(root, split.train), rows)
    label_map = _label_map(root, _names_files(root, split.val), val_rows, classes, named_by)

    def entries(name_of_split: str, numbers: range) -> list[ImageEntry]:
        entries_of_split = []
        for number in numbers:
            for _, name, size, offset, label in labelled[number]:
                label = label if number < count else label_map.get(label, label)
                kind = classes[label] if label < len(classes) else str(label)
                path = f"{kind}/{name}"
                entries_of_split.append(ImageEntry(f"{name_of_split}/{path}" if split.has_splits else path, label, size, number, offset))
        return entries_of_split

    train = entries("train", range(count))
    val = entries("val", range(count, len(shards))) if split.val else None
    check_classes(root, classes, train, val)
    relative = tuple(file.path for file in (*split.train, *split.val))
    return Collection(root, classes, train, val, lambda entries, scratch: _reader(shards), relative)


def _reader(shards: Sequence[Path]) -> Read:
    def read(entry: ImageEntry) -> bytes:
        with open_regular(shards[entry.file]) as file:
            file.seek(entry.at)
            return file.read(entry.size)

    return read


def _folders(root: Path) -> list[str]:
    """Folders that contain shards."""
    return [name for name in scan.folders(root) if scan.first_file(root / name, TAR + SUFFIXES).lower().endswith(TAR)]


def _split(root: Path, skipped: Skipped) -> Files:
    """Shards for training and for validation, by their names and those of their folders."""
    check_links(root)
    folders, shards = _folders(root), scan.files_in(root, TAR, skipped)
    single = any(split_of(name) for name in folders) and not any(split_of(name) for name in shards)
    chosen = choose_splits(root, [*folders, *shards], skipped, single=single)
    if chosen is None:
        skipped.others += folders
        return Files([scan.stat_file(root, name) for name in shards], [], False)

    def shard_files(name: str) -> list[ListedFile]:
        if name not in folders:
            return [scan.stat_file(root, name)]
        inside = sorted(scan.walk(root, name, (*TAR, NAMES), skipped))
        return [file for file in inside if file.path.lower().endswith(TAR)]

    train, val = ([file for name in part for file in shard_files(name)] for part in chosen)
    return Files(train, val, True)


def _names_files(root: Path, shards: Sequence[ListedFile]) -> list[str]:
    """The file that names the classes of some shards, in a list: in their folder, else in the root; empty without one."""
    for place in sorted({file.path.rpartition("/")[0].split("/")[0] for file in shards} - {""}):
        if (root / place / NAMES).is_file():
            return [f"{place}/{NAMES}"]
    return [NAMES] if shards and (root / NAMES).is_file() else []


def _members(shard: Path) -> list[tuple[str, tuple[str, int, int], dict[str, bytes]]]:
    """Key, image (name, size, offset) and label files of every image of a shard, in order. Raises BadData when it cannot be read."""
    members: defaultdict[str, _Member] = defaultdict(_Member)
    archive = ""
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                folder, _, name = info.name.rpartition("/")
                stem, _, kind = name.partition(".")
                key = f"{folder}/{stem}".lstrip("./")
                if not stem or info.isdir():
                    continue
                if f".{kind.lower()}" in SUFFIXES:
                    if not info.isreg() or info.issparse():
                        raise BadData(f"{shard}: '{info.name}' is a link or a sparse file; write the images themselves into the shard.")
                    if members[key].image:
                        raise BadData(f"{shard}: has two images with the key '{key}'; remove one of them.")
                    members[key].image = (name, info.size, info.offset_data)
                elif kind in ("cls", "json") and info.isreg() and info.size <= LABEL_BYTES:
                    members[key].labels[kind] = tar.extractfile(info).read()  # type: ignore[union-attr]
                elif info.name.lower().endswith(TAR):
                    archive = archive or info.name
            end = tar.offset
        with shard.open("rb") as file:  # tarfile treats a damaged header as the end
            file.seek(end)
            if file.read(BLOCK).strip(b"\0"):
                raise BadData(f"{shard}: is damaged at byte {end:,}; fetch the shard again.")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise BadData(f"{shard}: cannot be read as a plain tar file ({error}); fetch the shard again, uncompressed.") from None
    except OSError as error:
        raise BadData(f"{shard}: cannot be read ({error.strerror or error}); fetch the shard again.") from None
    images = [(key, member.image, member.labels) for key, member in members.items() if member.image]
    if archive and not images:  # ImageNet's own archive of the training images
        raise BadData(f"{shard}: contains archives ({archive}) and no images; unpack all of them into a folder for each class.")
    return images


def _label(shard: Path, key: str, labels: dict[str, bytes]) -> int:
    """The label of a key. Raises BadData without a valid one."""
    text: object = None
    try:
        if "cls" in labels:
            text = int(labels["cls"])
        elif "json" in labels:
            content = json.loads(labels["json"])
            text = content.get("label") if isinstance(content, dict) else None
    except ValueError:
        text = (labels["cls"] if "cls" in labels else labels["json"])[:40].decode("utf-8", "replace")
    if text is None:
        raise BadData(
            f"{shard}: the image '{key}' has no label; add '{key}.cls' (a whole number) or '{key}.json' (with 'label'), or {UNLABELLED}."
        )
    if text == -1:
        raise BadData(f"{shard}: the image '{key}' has no label (-1); correct it, or {UNLABELLED}.")
    if not isinstance(text, int) or isinstance(text, bool) or text < 0:
        raise BadData(f"{shard}: the label of '{key}' is {text!r}; labels are whole numbers from 0.")
    return text


Rows = Sequence[tuple[str, str, int, int, int]]
"""Key, image name, bytes, offset and label."""


def _classes(root: Path, names_files: Sequence[str], rows: Rows) -> tuple[tuple[str, ...], str]:
    """Names of the training classes, and where they come from: ``file``, ``folders`` (of the keys) or ``numbers``."""
    if not rows:
        raise BadData(f"{root}: its training shards have no images; give members like KEY.jpg ({', '.join(SUFFIXES)}) with KEY.cls.")
    if names_files:
        return _names_in(root / names_files[0], max(row[-1] for row in rows)), "file"
    numbers = numbered(root, [row[-1] for row in rows])
    folders = _folders_of(rows)
    by_folder = len(folders) == len(numbers)
    return (tuple(folders[label] for label in sorted(folders)), "folders") if by_folder else (numbers, "numbers")


def _label_map(root: Path, names_files: Sequence[str], rows: Rows, classes: Sequence[str], named_by: str) -> dict[int, int]:
    """Validation label -> training label, matched by class names; empty if the labels are already the same. Raises BadData for a class
    without training images."""
    if not rows:
        return {}
    labels = sorted({row[-1] for row in rows})
    if names_files:
        names = dict(enumerate(_names_in(root / names_files[0], labels[-1])))
        if tuple(names.values()) == tuple(classes):
            return {}
    else:
        names = _folders_of(rows)
        if named_by == "numbers" or not names or (named_by == "file" and not set(names.values()) <= set(classes)):
            return {}
    if len(set(classes)) < len(classes) or len(set(names.values())) < len(names):
        raise BadData(f"{root}: two classes have the same name, so labels cannot be matched by name; give each class its own name.")
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [names[label] for label in labels if names[label] not in numbers]
    if unknown or named_by == "numbers":
        raise unknown_classes(str(root / (names_files[0] if names_files else rows[0][1])), unknown or names.values(), classes)
    return {label: numbers[names[label]] for label in labels}


def _names_in(file: Path, largest: int) -> tuple[str, ...]:
    """The class names in a file, one per line. Raises BadData when there are fewer than labels."""
    names = tuple(line.strip() for line in file.read_text("utf-8-sig", errors="replace").splitlines() if line.strip())
    if largest >= len(names):
        raise BadData(f"{file}: names {len(names)} classes, but there is a label {largest}; name every class, one per line.")
    return names


def _folders_of(rows: Rows) -> dict[int, str]:
    """Label -> the folder of its keys; empty if two labels share a folder or a label has several folders."""
    folders: dict[int, set[str]] = defaultdict(set)
    for key, *_, label in rows:
        folders[label].add(key.rpartition("/")[0].rpartition("/")[2])
    names = {label: next(iter(found)) for label, found in folders.items()}
    unique = all(len(found) == 1 for found in folders.values()) and len(set(names.values())) == len(names) and all(names.values())
    return names if unique else {}
