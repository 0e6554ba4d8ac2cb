"""A packed store of images: what ``images.json`` says of the files beside it, held against them; and such a store as a source. No torch.

A run on ``--data DIR`` where DIR is packed copies nothing: its own ``images.json`` names DIR, the digest of what DIR holds and how many
images of each split it takes from the front, which is the same choice as packing that many would have made. Where DIR was moved, the place
that a command used last is taken from the cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from svgbench.config.records import digest
from svgbench.config.schema import Data
from svgbench.errors import BadData, BrokenArtifact, SvgbenchError
from svgbench.images import catalogue, scan
from svgbench.machine.files import read_regular, write_atomic
from svgbench.machine.rows import mapped_array

FORMAT = 2
"""Of ``images.json``; 1 had no digests."""
NAME = "images.json"
NEEDED = ("counts", "resolution", "classes", "masks", "skipped")
"""Fields without which a store cannot be opened."""
SPLITS = ("train", "val")
NOTE_BYTES = 1 << 16
"""A longer file of the cache names no place."""
QUICK_BYTES = 1 << 30
"""Larger files of a store that was packed elsewhere are known by their size and the listed digest at first sight, and are read whole once
they change; ``data verify`` reads all."""


def holds(root: Path) -> bool:
    """Whether a directory is a packed store."""
    return (root / NAME).is_file()


def write(directory: Path, about: dict[str, Any]) -> None:
    """``images.json`` with its own digest; written last, it makes a directory a store."""
    content = {"format": FORMAT, **about}
    write_atomic(directory / NAME, (json.dumps({**content, "digest": digest(content)}, indent=1) + "\n").encode())


def read(directory: Path) -> dict[str, Any]:
    """What ``images.json`` says; BrokenArtifact when it is absent, cut, changed or of a newer format."""
    try:
        about = json.loads((directory / NAME).read_bytes())
        version, _ = int(about["format"]), [about[name] for name in NEEDED]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenArtifact(f"{directory}: is not a whole store of images ({error}); remove the directory and run again.") from None
    if version > FORMAT:
        raise BrokenArtifact(f"{directory}: was packed by a newer svgbench (format {version}, this one reads {FORMAT}); update svgbench.")
    if version > 1 and about.get("digest") != digest({k: v for k, v in about.items() if k != "digest"}):
        raise BrokenArtifact(f"{directory / NAME}: was changed after it was written; remove the directory and run again.")
    return about


def rows(about: Mapping[str, Any], split: str) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of a split's files, by name."""
    count, side = int(about["counts"][split]), int(about["resolution"])
    arrays: dict[str, tuple[tuple[int, ...], type]] = {
        f"{split}.images.npy": ((count, 3, side, side), np.uint8),
        f"{split}.labels.npy": ((count,), np.int64),
    }
    return arrays | ({f"{split}.masks.npy": ((count, side, side), np.uint8)} if about["masks"] else {})


def resolved(directory: Path) -> tuple[Path, dict[str, Any], dict[str, int]]:
    """Where a store's files lie, what their ``images.json`` says, and how many images of each split are meant: of the directory itself,
    or of the packed store that it names."""
    about = read(directory)
    if "packed" not in about:
        return directory, about, about["counts"]
    named = about["packed"]
    places = dict.fromkeys([Path(named["place"]), *_remembered(named.get("content", ""))])
    broken = []
    for place in places:
        try:
            if holds(place) and _is_named(whole := read(place), named):
                _confirm(place, whole)
                return place, whole, about["counts"]
        except BrokenArtifact as error:
            broken.append(error)
    if broken:
        raise broken[0]
    if not holds(place := Path(named["place"])):
        raise BrokenArtifact(
            f"{directory}: is of the packed images in {place}, which are gone; put them back, or run with --data and where they are now."
        )
    raise BrokenArtifact(f"{place}: was packed again since {directory} was made of it; remove {directory} and run again.")


def _is_named(about: Mapping[str, Any], named: Mapping[str, Any]) -> bool:
    """Whether a packed store is the one that a run's ``images.json`` names; earlier ones have no digest of its content."""
    return _content(about) == named["content"] if "content" in named else about.get("digest") == named["digest"]


def _content(about: Mapping[str, Any]) -> str:
    """Digest of what a packed store holds, wherever it is and whatever it was packed from; empty for a store of format 1."""
    facts = {name: about[name] for name in ("classes", "resolution", "counts", "masks")}
    return digest({**facts, "files": {name: file["sha256"] for name, file in about["files"].items()}}) if "files" in about else ""


def _note(content: str) -> Path:
    """The file of the cache that keeps where a packed store is."""
    return catalogue.cache_folder() / "packed" / f"{content}.txt"


@cache
def _places() -> dict[str, Path]:
    """Where packed stores are by their content, as this process learned it."""
    return {}


def _remember(content: str, place: Path) -> None:
    """Keeps where a packed store is, so that what was made of it finds it again once it was moved."""
    if _remembered(content) != [place]:
        _places()[content] = place
        with suppress(OSError, SvgbenchError):  # a cache that cannot be written is said by the catalogue
            write_atomic(_note(content), os.fsencode(place))


def _remembered(content: str) -> list[Path]:
    """Where a packed store was when a command last used it; empty when none did."""
    if content in _places():
        return [_places()[content]]
    try:
        return [Path(os.fsdecode(read_regular(_note(content), NOTE_BYTES)))]
    except (OSError, ValueError):
        return []


def digests(directory: Path) -> dict[str, str]:
    """Digests of a store's files by name; empty for a store of format 1."""
    return {name: facts["sha256"] for name, facts in resolved(directory)[1].get("files", {}).items()}


def confirmed(directory: Path) -> dict[str, str]:
    """``digests``, after the files were compared with them; BrokenArtifact when one is not what is listed."""
    place, about, _ = resolved(directory)
    _confirm(place, about)
    return digests(directory)


def identity(root: Path, data: Data) -> str:
    """Digest of what a packed store holds, wherever it lies and whatever it was packed from; BadData when a run cannot use it."""
    about = _usable(root, data)
    _confirm(root, about)
    content = _content(about)
    _remember(content, root.resolve())
    return content


def counts(root: Path, data: Data) -> dict[str, int]:
    """How many images of each split a run takes from the front of a packed store; BadData when it cannot be used."""
    return {split: data.at_most(split, count) for split, count in _usable(root, data)["counts"].items()}


def adopt(data: Data, out: Path) -> None:
    """An ``images.json`` in ``out`` that names the packed store ``data.source``; its files are checked first."""
    place = Path(data.source).expanduser().resolve()
    about = _usable(place, data)
    for _ in damages(place, about, whole=False):
        pass
    if data.identity and identity(place, data) != data.identity:
        raise BadData(f"{place}: was packed again after this run was planned; run the same command again.")
    kept = {name: about[name] for name in ("source", "identity", "resolution", "classes", "masks", "skipped")}
    write(out, {**kept, "counts": counts(place, data), "packed": {"place": str(place), "content": _content(about)}})


def damages(directory: Path, about: Mapping[str, Any], *, whole: bool = True) -> Iterator[tuple[str, int]]:
    """Name and bytes of one file after the other as it is found whole; BrokenArtifact at the first that is not: absent, of another size,
    shape or type, of another digest, or with a label that no class has. ``whole``: all bytes are read, not only those of files that may
    have changed since they were last read."""
    for split in SPLITS:
        for name, (shape, kind) in rows(about, split).items():
            array = mapped_array(_sized(directory, about, name), shape, kind)
            _confirm(directory, about, [name], whole=whole)
            if name.endswith("labels.npy") and len(array) and not 0 <= array.min() <= array.max() < len(about["classes"]):
                path = directory / name
                raise BrokenArtifact(f"{path}: holds a label outside 0 to {len(about['classes']) - 1}; pack the images again.")
            yield name, about["files"][name]["bytes"]


def record(directory: Path, about: Mapping[str, Any]) -> None:
    """Notes the files of a store that was just packed, so that a later change of one of them is seen without reading it."""
    for name, facts in about["files"].items():
        catalogue.record(directory, {name: facts["sha256"]}, [scan.stamped(directory, name)], _purpose(name))


def _confirm(directory: Path, about: Mapping[str, Any], names: Iterable[str] | None = None, *, whole: bool = False) -> None:
    """BrokenArtifact when a file is not the one that ``images.json`` lists. Labels are always read; images when their size, times or inode
    are not those of the last reading, or when they were never read here and are not larger than ``QUICK_BYTES``."""
    if names is None:
        names = [name for split in SPLITS for name in rows(about, split)] if "files" in about else []  # a store of format 1 has none
    for name in names:
        file = scan.stamped(directory, _sized(directory, about, name).name)
        listed = about["files"][name]["sha256"]
        given = {name: listed} if file.size > QUICK_BYTES else {}
        every = whole or name.endswith("labels.npy")
        if catalogue.read(directory, [file], _purpose(name), whole=every, given=given, say=False).digests[name] != listed:
            raise BrokenArtifact(f"{directory / name}: its bytes are not those that were packed; pack the images again.")


def _sized(directory: Path, about: Mapping[str, Any], name: str) -> Path:
    """A file of a store; BrokenArtifact when it is absent or of another size than listed."""
    path, wanted = directory / name, about["files"].get(name, {}).get("bytes")
    if not path.is_file():
        raise BrokenArtifact(f"{path}: is missing; pack the images again.")
    if path.stat().st_size != wanted:
        raise BrokenArtifact(f"{path}: has {path.stat().st_size} bytes, not {wanted} as listed; pack the images again.")
    return path


def _purpose(name: str) -> str:
    return f"packed {name}"


def _wanted(data: Data, split: str) -> int | None:
    return data.train_images if split == "train" else data.val_images


def _usable(root: Path, data: Data) -> dict[str, Any]:
    """What ``images.json`` says, when a run of ``data`` can use the store; BadData when not."""
    about = read(root)
    if "packed" in about or "files" not in about:
        raise BadData(f"{root}: is the images stage of a run, not a packed directory; give what 'svgbench data pack' made.")
    if about["resolution"] != data.resolution:
        raise BadData(
            f"{root}: is packed at {about['resolution']} px and the run asks for {data.resolution}; "
            f"give --set data.resolution={about['resolution']}, or pack the images again at {data.resolution}."
        )
    for split in SPLITS:
        most, has = _wanted(data, split), about["counts"][split]
        if most is not None and most > has:
            raise BadData(f"{root}: has {has} images for data.{split}_images, which asks for {most}; lower it or leave it empty.")
    return about
