"""Webdataset shards as a source of images: plain ``*.tar`` files, read where they lie and never unpacked. No torch.

A member ``KEY.jpg`` (``png``, ``webp``, ...) is an image; ``KEY.cls`` (a whole number as text) or ``KEY.json`` (an object with ``label``)
is its label; a key ends at the first dot of its file name. Shards are split by their folders (``train/``, ``val/``) or by their names
(``*train*``, ``*val*``; others beside them are left out); without either, a share of each class is held out. ``classes.txt`` beside them
names the classes, one a line; without it a class is named by the folder its keys lie in, or by its number.
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from svgbench.errors import BadData
from svgbench.world.files import open_regular
from svgbench.world.listing import SUFFIXES, VALIDATION, Collection, Entry, Files, Read, check_classes, digest_of_files, numbered

LABEL_BYTES = 1 << 20
"""A longer label file is no label."""
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
    """Whether a directory holds shards; beside folders of other things (ImageNet unpacked where its archives lie) a tar file is not one."""
    if _tars(root / "train"):
        return True
    return bool(_tars(root)) and not any(p.is_dir() and not p.name.startswith(".") for p in root.iterdir())


def identity(root: Path) -> str:
    """Digest of the names and sizes of the shards and the names of the classes."""
    files, names = _split(root), root / "classes.txt"
    return digest_of_files(root, [*files.train, *files.val, *([names] if names.is_file() else [])])


def collect(root: Path) -> Collection:
    """The images of all shards, indexed by one pass over the tar headers (some 10,000 images a second)."""
    split = _split(root)
    shards, count = [*split.train, *split.val], len(split.train)
    labelled = [[(key, *image, _label(shard, key, labels)) for key, image, labels in _members(shard)] for shard in shards]
    classes = _classes(root, [row for rows in labelled[:count] for row in rows])

    def entries(name_of_split: str, numbers: range) -> list[Entry]:
        found = []
        for number in numbers:
            for _, name, size, offset, label in labelled[number]:
                kind = classes[label] if label < len(classes) else str(label)
                path = f"{kind}/{name}"
                found.append(Entry(f"{name_of_split}/{path}" if split.named else path, label, size, number, offset))
        return found

    train = entries("train", range(count))
    val = entries("val", range(count, len(shards))) if split.val else None
    check_classes(root, classes, train, val)
    files = tuple(shard.relative_to(root).as_posix() for shard in shards)
    return Collection(root, classes, train, val, lambda entries, scratch: _reader(shards), files)


def _reader(shards: Sequence[Path]) -> Read:
    def read(entry: Entry) -> bytes:
        with open_regular(shards[entry.file]) as file:
            file.seek(entry.at)
            return file.read(entry.size)

    return read


def _tars(directory: Path) -> list[Path]:
    return sorted(p for p in directory.glob("*.tar") if p.is_file() and not p.name.startswith("."))


def _split(root: Path) -> Files:
    """Shards for training and for validation."""
    if _tars(root / "train"):
        return Files(_tars(root / "train"), next((tars for name in VALIDATION if (tars := _tars(root / name))), []), True)
    shards = _tars(root)
    train = [shard for shard in shards if "train" in shard.name.lower()]
    val = [shard for shard in shards if "val" in shard.name.lower() and shard not in train]
    if val and not train:
        raise BadData(f"{root}: holds validation shards ({val[0].name}) and none with 'train' in its name; name the training shards so.")
    return Files(train, val, True) if train else Files(shards, [], False)


def _members(shard: Path) -> list[tuple[str, tuple[str, int, int], dict[str, bytes]]]:
    """Key, image (name, bytes, offset) and label files of every image of a shard, in its order."""
    found: defaultdict[str, _Member] = defaultdict(_Member)
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
            end = tar.offset
        with shard.open("rb") as file:  # tarfile takes a damaged header for the end
            file.seek(end)
            if file.read(BLOCK).strip(b"\0"):
                raise BadData(f"{shard}: is damaged at byte {end:,}; fetch the shard again.")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise BadData(f"{shard}: cannot be read as a plain tar file ({error}); fetch the shard again, uncompressed.") from None
    except OSError as error:
        raise BadData(f"{shard}: cannot be read ({error.strerror or error}); fetch the shard again.") from None
    return [(key, member.image, member.labels) for key, member in found.items() if member.image]


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
        text = (labels.get("cls") or labels["json"])[:40].decode("utf-8", "replace")
    if text is None:
        raise BadData(f"{shard}: the image '{key}' has no label; add '{key}.cls' (a whole number) or '{key}.json' (with 'label').")
    if not isinstance(text, int) or isinstance(text, bool) or text < 0:
        raise BadData(f"{shard}: the label of '{key}' is {text!r}; labels are whole numbers from 0.")
    return text


def _classes(root: Path, rows: Sequence[tuple[str, str, int, int, int]]) -> tuple[str, ...]:
    """The names of the classes: of ``classes.txt``, of the folders of the keys where each class has its own, or numbers."""
    if not rows:
        raise BadData(f"{root}: its training shards hold no images; give members like KEY.jpg ({', '.join(SUFFIXES)}) with KEY.cls.")
    labels = [row[-1] for row in rows]
    file = root / "classes.txt"
    if file.is_file():
        names = tuple(line.strip() for line in file.read_text("utf-8", errors="replace").splitlines() if line.strip())
        if max(labels) >= len(names):
            raise BadData(f"{file}: names {len(names)} classes and there is a label {max(labels)}; name every class, one a line.")
        return names
    numbers = numbered(root, labels)
    folders: dict[int, set[str]] = defaultdict(set)
    for key, *_, label in rows:
        folders[label].add(key.rpartition("/")[0].rpartition("/")[2])
    names = tuple(next(iter(folders[label])) for label in sorted(folders))
    own = all(len(found) == 1 for found in folders.values()) and len(set(names)) == len(numbers) and all(names)
    return names if own else numbers
