"""Webdataset shards as a source of images: plain ``*.tar`` files, read where they lie and never unpacked. No torch.

A member ``KEY.jpg`` (``png``, ``webp``, ...) is an image; ``KEY.cls`` (a whole number as text) or ``KEY.json`` (an object with ``label``)
is its label; a key ends at the first dot of its file name. Shards are split by their folders (``train/``, ``val/``) or by words of their
names (``imagenet-train-000.tar``; others beside them are left out); without either, a share of each class is held out. ``classes.txt``
names the classes, one a line, for all shards or in each split's folder; without it a class is named by the folder of its keys, or by its
number. Splits that number their classes differently are brought together by these names.
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
from svgbench.images.listing import SUFFIXES, UNLABELLED, Collection, Entry, Files, Read, check_classes, numbered, unknown_classes
from svgbench.images.scan import Found, Passed
from svgbench.images.splits import check_links, choose_splits, split_of
from svgbench.machine.files import open_regular

LABEL_BYTES = 1 << 20
"""A longer label file is no label."""
NAMES = "classes.txt"
TAR = (".tar",)
BLOCK = 512
"""Bytes of a tar header."""


@dataclass
class _Member:
    """The parts of one key."""

    image: tuple[str, int, int] | None = None
    """Name, bytes, offset."""
    labels: dict[str, bytes] = field(default_factory=dict)
    """Contents of ``cls`` and ``json``."""


def holds(root: Path) -> bool:
    """Whether a directory holds shards; beside folders of images (ImageNet unpacked next to its archives) a tar file is not one."""
    if any(split_of(name) == "train" and scan.first(root / name, TAR + SUFFIXES).lower().endswith(TAR) for name in scan.folders(root)):
        return True
    return bool(scan.own(root, TAR)) and not any(scan.first(root / name, SUFFIXES) for name in scan.folders(root))


def files(root: Path, passed: Passed) -> tuple[Path, list[Found]]:
    """The folder that paths count from, its shards, and the files that name the classes."""
    split = _split(root, passed)
    names = {file for split_ in (split.train, split.val) for file in _names_files(root, split_)}
    return root, [*split.train, *split.val, *(scan.stamped(root, name) for name in sorted(names))]


def collect(root: Path) -> Collection:
    """The images of all shards, indexed by one pass over the tar headers (some 10,000 images a second)."""
    split = _split(root, Passed())
    shards, count = [root / file.path for file in (*split.train, *split.val)], len(split.train)
    labelled = [[(key, *image, _label(shard, key, labels)) for key, image, labels in _members(shard)] for shard in shards]
    rows, val_rows = ([row for rows in part for row in rows] for part in (labelled[:count], labelled[count:]))
    classes, how = _classes(root, _names_files(root, split.train), rows)
    into = _mapped(root, _names_files(root, split.val), val_rows, classes, how)

    def entries(name_of_split: str, numbers: range) -> list[Entry]:
        found = []
        for number in numbers:
            for _, name, size, offset, own in labelled[number]:
                label = own if number < count else into.get(own, own)
                kind = classes[label] if label < len(classes) else str(label)
                path = f"{kind}/{name}"
                found.append(Entry(f"{name_of_split}/{path}" if split.named else path, label, size, number, offset))
        return found

    train = entries("train", range(count))
    val = entries("val", range(count, len(shards))) if split.val else None
    check_classes(root, classes, train, val)
    relative = tuple(file.path for file in (*split.train, *split.val))
    return Collection(root, classes, train, val, lambda entries, scratch: _reader(shards), relative)


def _reader(shards: Sequence[Path]) -> Read:
    def read(entry: Entry) -> bytes:
        with open_regular(shards[entry.file]) as file:
            file.seek(entry.at)
            return file.read(entry.size)

    return read


def _folders(root: Path) -> list[str]:
    """Folders that hold shards."""
    return [name for name in scan.folders(root) if scan.first(root / name, TAR + SUFFIXES).lower().endswith(TAR)]


def _split(root: Path, passed: Passed) -> Files:
    """Shards for training and for validation: those whose own name means a split, and those in folders whose names do."""
    check_links(root)
    folders, shards = _folders(root), scan.own(root, TAR, passed)
    single = any(split_of(name) for name in folders) and not any(split_of(name) for name in shards)
    chosen = choose_splits(root, [*folders, *shards], passed, single=single)
    if chosen is None:
        passed.others += folders
        return Files([scan.stamped(root, name) for name in shards], [], False)

    def found(name: str) -> list[Found]:
        if name not in folders:
            return [scan.stamped(root, name)]
        inside = sorted(scan.walk(root, name, (*TAR, NAMES), passed))
        return [file for file in inside if file.path.lower().endswith(TAR)]

    return Files(*([file for name in part for file in found(name)] for part in chosen), True)


def _names_files(root: Path, shards: Sequence[Found]) -> list[str]:
    """The file that names the classes of some shards, below the root: of their own folder, else of the root; empty where there is none."""
    for place in sorted({file.path.rpartition("/")[0].split("/")[0] for file in shards} - {""}):
        if (root / place / NAMES).is_file():
            return [f"{place}/{NAMES}"]
    return [NAMES] if shards and (root / NAMES).is_file() else []


def _members(shard: Path) -> list[tuple[str, tuple[str, int, int], dict[str, bytes]]]:
    """Key, image (name, bytes, offset) and label files of every image of a shard, in its order."""
    found: defaultdict[str, _Member] = defaultdict(_Member)
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
                        raise BadData(f"{shard}: '{info.name}' is a link or a sparse file; write the shard with the images themselves.")
                    if found[key].image:
                        raise BadData(f"{shard}: holds two images of the key '{key}'; remove one of them.")
                    found[key].image = (name, info.size, info.offset_data)
                elif kind in ("cls", "json") and info.isreg() and info.size <= LABEL_BYTES:
                    found[key].labels[kind] = tar.extractfile(info).read()  # type: ignore[union-attr]
                elif info.name.lower().endswith(TAR):
                    archive = archive or info.name
            end = tar.offset
        with shard.open("rb") as file:  # tarfile takes a damaged header for the end
            file.seek(end)
            if file.read(BLOCK).strip(b"\0"):
                raise BadData(f"{shard}: is damaged at byte {end:,}; fetch the shard again.")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise BadData(f"{shard}: cannot be read as a plain tar file ({error}); fetch the shard again, uncompressed.") from None
    except OSError as error:
        raise BadData(f"{shard}: cannot be read ({error.strerror or error}); fetch the shard again.") from None
    images = [(key, member.image, member.labels) for key, member in found.items() if member.image]
    if archive and not images:  # ImageNet's own archive of the training images
        raise BadData(f"{shard}: holds archives ({archive}) and no images; unpack it and them into a folder for each class.")
    return images


def _label(shard: Path, key: str, labels: dict[str, bytes]) -> int:
    """The label of a key; BadData when it has none."""
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
    """The names of the training classes and what they are known by: a ``file``, the ``folders`` of the keys, or ``numbers``."""
    if not rows:
        raise BadData(f"{root}: its training shards hold no images; give members like KEY.jpg ({', '.join(SUFFIXES)}) with KEY.cls.")
    if names_files:
        return _names_in(root / names_files[0], max(row[-1] for row in rows)), "file"
    numbers = numbered(root, [row[-1] for row in rows])
    folders = _folders_of(rows)
    own = len(folders) == len(numbers)
    return (tuple(folders[label] for label in sorted(folders)), "folders") if own else (numbers, "numbers")


def _mapped(root: Path, names_files: Sequence[str], rows: Rows, classes: Sequence[str], how: str) -> dict[int, int]:
    """Validation label -> training label, by the names of the classes; empty where only numbers are known. BadData, with both lists, for a
    name that training does not have."""
    if not rows:
        return {}
    labels = sorted({row[-1] for row in rows})
    if names_files:
        names = dict(enumerate(_names_in(root / names_files[0], labels[-1])))
        if tuple(names.values()) == tuple(classes):
            return {}
    else:
        names = _folders_of(rows)
        if how == "numbers" or not names or (how == "file" and not set(names.values()) <= set(classes)):
            return {}
    if len(set(classes)) < len(classes) or len(set(names.values())) < len(names):
        raise BadData(f"{root}: two classes have one name, so labels cannot be compared by name; give each class its own name.")
    numbers = {name: number for number, name in enumerate(classes)}
    strange = [names[label] for label in labels if names[label] not in numbers]
    if strange or how == "numbers":
        raise unknown_classes(str(root / (names_files[0] if names_files else rows[0][1])), strange or names.values(), classes)
    return {label: numbers[names[label]] for label in labels}


def _names_in(file: Path, most: int) -> tuple[str, ...]:
    """The names in a file, one a line; BadData when there are fewer than the labels need, or one twice."""
    names = tuple(line.strip() for line in file.read_text("utf-8-sig", errors="replace").splitlines() if line.strip())
    if most >= len(names):
        raise BadData(f"{file}: names {len(names)} classes and there is a label {most}; name every class, one a line.")
    return names


def _folders_of(rows: Rows) -> dict[int, str]:
    """Label -> the folder of its keys; empty where labels share a folder, or one label has several."""
    folders: dict[int, set[str]] = defaultdict(set)
    for key, *_, label in rows:
        folders[label].add(key.rpartition("/")[0].rpartition("/")[2])
    names = {label: next(iter(found)) for label, found in folders.items()}
    own = all(len(found) == 1 for found in folders.values()) and len(set(names.values())) == len(names) and all(names.values())
    return names if own else {}
