"""A packed store of images: its metadata ``images.json``, verification of its files, and its use as a source. No torch.

If DIR is packed, a run on ``--data DIR`` copies no images: its own ``images.json`` refers to DIR, with the digest of DIR's content and the
number of images of each split. The run uses the first images of each split, the same that packing this number would select. When DIR has
moved, its last known location is read from the cache.
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
"""Version of ``images.json``; version 1 had no digests."""
NAME = "images.json"
NEEDED = ("counts", "resolution", "classes", "masks", "skipped")
"""Required fields of ``images.json``."""
SPLITS = ("train", "val")
LOCATION_BYTES = 1 << 16
"""Largest size of a file in the cache that records the location of a store."""
QUICK_BYTES = 1 << 30
"""Larger files of a store packed elsewhere are trusted by their size until they change; ``data verify`` reads all files."""


def holds(root: Path) -> bool:
    """Whether a directory is a packed store."""
    return (root / NAME).is_file()


def write(directory: Path, about: dict[str, Any]) -> None:
    """Writes ``images.json`` with its own digest. It is written last: a directory with it is a complete store."""
    content = {"format": FORMAT, **about}
    write_atomic(directory / NAME, (json.dumps({**content, "digest": digest(content)}, indent=1) + "\n").encode())


def read(directory: Path) -> dict[str, Any]:
    """The content of ``images.json``. Raises BrokenArtifact when it is missing, damaged, changed or of a newer format."""
    try:
        about = json.loads((directory / NAME).read_bytes())
        version, _ = int(about["format"]), [about[name] for name in NEEDED]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenArtifact(f"{directory}: is not a complete store of images ({error}); remove the directory and run again.") from None
    if version > FORMAT:
        raise BrokenArtifact(f"{directory}: was packed by a newer svgbench (format {version}, this one reads {FORMAT}); update svgbench.")
    if version > 1 and about.get("digest") != digest({k: v for k, v in about.items() if k != "digest"}):
        raise BrokenArtifact(f"{directory / NAME}: was changed after it was written; remove the directory and run again.")
    return about


def rows(about: Mapping[str, Any], split: str) -> dict[str, tuple[tuple[int, ...], type]]:
    """File name -> shape and dtype, for the files of a split."""
    count, side = int(about["counts"][split]), int(about["resolution"])
    arrays: dict[str, tuple[tuple[int, ...], type]] = {
        f"{split}.images.npy": ((count, 3, side, side), np.uint8),
        f"{split}.labels.npy": ((count,), np.int64),
    }
    return arrays | ({f"{split}.masks.npy": ((count, side, side), np.uint8)} if about["masks"] else {})


def resolved(directory: Path) -> tuple[Path, dict[str, Any], dict[str, int]]:
    """The directory that has the files (``directory`` itself, or the packed store that it refers to), its ``images.json``, and the number
    of images of each split to use. Raises BrokenArtifact when the packed store is missing or has changed."""
    about = read(directory)
    if "packed" not in about:
        return directory, about, about["counts"]
    reference = about["packed"]
    places = dict.fromkeys([Path(reference["place"]), *_remembered_locations(reference.get("content", ""))])
    errors = []
    for place in places:
        try:
            if holds(place) and _matches(metadata := read(place), reference):
                _confirm(place, metadata)
                return place, metadata, about["counts"]
        except BrokenArtifact as error:
            errors.append(error)
    if errors:
        raise errors[0]
    if not holds(place := Path(reference["place"])):
        raise BrokenArtifact(
            f"{directory}: refers to the packed images in {place}, which are missing; restore them, or give --data their new location."
        )
    raise BrokenArtifact(f"{place}: was packed again after {directory} was made from it; remove {directory} and run again.")


def _matches(about: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Whether a packed store is the one that a run's ``images.json`` refers to; older references have no digest of the content."""
    return _content(about) == reference["content"] if "content" in reference else about.get("digest") == reference["digest"]


def _content(about: Mapping[str, Any]) -> str:
    """Digest of the content of a packed store, independent of its location and source; empty for a store of format 1."""
    facts = {name: about[name] for name in ("classes", "resolution", "counts", "masks")}
    return digest({**facts, "files": {name: file["sha256"] for name, file in about["files"].items()}}) if "files" in about else ""


def _location_file(content: str) -> Path:
    """The file in the cache that records the location of a packed store."""
    return catalogue.cache_folder() / "packed" / f"{content}.txt"


@cache
def _known_locations() -> dict[str, Path]:
    """Content -> location of a packed store, for this process."""
    return {}


def _remember_location(content: str, place: Path) -> None:
    """Records the location of a packed store, so that runs that refer to it find it after it has moved."""
    if _remembered_locations(content) != [place]:
        _known_locations()[content] = place
        with suppress(OSError, SvgbenchError):  # the catalogue warns about a cache that cannot be written
            write_atomic(_location_file(content), os.fsencode(place))


def _remembered_locations(content: str) -> list[Path]:
    """The last known location of a packed store, in a list; empty without one."""
    if content in _known_locations():
        return [_known_locations()[content]]
    try:
        return [Path(os.fsdecode(read_regular(_location_file(content), LOCATION_BYTES)))]
    except (OSError, ValueError):
        return []


def digests(directory: Path) -> dict[str, str]:
    """File name -> SHA-256, for the files of a store; empty for a store of format 1."""
    return {name: facts["sha256"] for name, facts in resolved(directory)[1].get("files", {}).items()}


def verified_digests(directory: Path) -> dict[str, str]:
    """``digests``, after checking the files. Raises BrokenArtifact when a file does not have its digest."""
    place, about, _ = resolved(directory)
    _confirm(place, about)
    return digests(directory)


def identity(root: Path, data: Data) -> str:
    """Digest of the content of a packed store, independent of its location and source. Raises BadData when a run cannot use it."""
    about = _usable_metadata(root, data)
    _confirm(root, about)
    content = _content(about)
    _remember_location(content, root.resolve())
    return content


def counts(root: Path, data: Data) -> dict[str, int]:
    """Split -> number of images of a packed store that a run uses. Raises BadData when the store cannot be used."""
    return {split: data.at_most(split, count) for split, count in _usable_metadata(root, data)["counts"].items()}


def adopt(data: Data, out: Path) -> None:
    """Checks the files of the packed store ``data.source`` and writes an ``images.json`` into ``out`` that refers to it."""
    place = Path(data.source).expanduser().resolve()
    about = _usable_metadata(place, data)
    for _ in verify(place, about, reread=False):
        pass
    if data.identity and identity(place, data) != data.identity:
        raise BadData(f"{place}: was packed again after this run was planned; run the same command again.")
    fields = {name: about[name] for name in ("source", "identity", "resolution", "classes", "masks", "skipped")}
    write(out, {**fields, "counts": counts(place, data), "packed": {"place": str(place), "content": _content(about)}})


def verify(directory: Path, about: Mapping[str, Any], *, reread: bool = True) -> Iterator[tuple[str, int]]:
    """Checks the files of a store one by one and yields name and size in bytes of each.

    Raises BrokenArtifact at the first file that is missing, has another size, shape, dtype or digest than listed, or a label out of range.
    ``reread``: reads all bytes, not only those of files that may have changed since they were last read.
    """
    for split in SPLITS:
        for name, (shape, kind) in rows(about, split).items():
            array = mapped_array(_checked_size(directory, about, name), shape, kind)
            _confirm(directory, about, [name], reread=reread)
            if name.endswith("labels.npy") and len(array) and not 0 <= array.min() <= array.max() < len(about["classes"]):
                path = directory / name
                raise BrokenArtifact(f"{path}: holds a label outside 0 to {len(about['classes']) - 1}; pack the images again.")
            yield name, about["files"][name]["bytes"]


def record(directory: Path, about: Mapping[str, Any]) -> None:
    """Adds the files of a store that was just packed to the catalogue, so that later changes are noticed without reading them."""
    for name, facts in about["files"].items():
        catalogue.record(directory, {name: facts["sha256"]}, [scan.stat_file(directory, name)], _purpose(name))


def _confirm(directory: Path, about: Mapping[str, Any], names: Iterable[str] | None = None, *, reread: bool = False) -> None:
    """Raises BrokenArtifact when a file does not have its digest. Labels are always read; images only when their size, times or inode have
    changed, or when they were never read on this machine and are at most ``QUICK_BYTES`` large."""
    if names is None:
        names = [name for split in SPLITS for name in rows(about, split)] if "files" in about else []  # a store of format 1 has none
    for name in names:
        file = scan.stat_file(directory, _checked_size(directory, about, name).name)
        listed = about["files"][name]["sha256"]
        assumed = {name: listed} if file.size > QUICK_BYTES else {}
        reread_this = reread or name.endswith("labels.npy")
        if catalogue.read(directory, [file], _purpose(name), reread=reread_this, assumed=assumed, report=False).digests[name] != listed:
            raise BrokenArtifact(f"{directory / name}: its bytes are not those that were packed; pack the images again.")


def _checked_size(directory: Path, about: Mapping[str, Any], name: str) -> Path:
    """The path of a store's file. Raises BrokenArtifact when it is missing or has another size than listed."""
    path, expected = directory / name, about["files"].get(name, {}).get("bytes")
    if not path.is_file():
        raise BrokenArtifact(f"{path}: is missing; pack the images again.")
    if path.stat().st_size != expected:
        raise BrokenArtifact(f"{path}: has {path.stat().st_size} bytes, not {expected} as listed; pack the images again.")
    return path


def _purpose(name: str) -> str:
    return f"packed {name}"


def _requested(data: Data, split: str) -> int | None:
    return data.train_images if split == "train" else data.val_images


def _usable_metadata(root: Path, data: Data) -> dict[str, Any]:
    """The content of ``images.json``. Raises BadData when a run of ``data`` cannot use the store."""
    about = read(root)
    if "packed" in about or "files" not in about:
        raise BadData(f"{root}: is the images stage of a run, not a packed directory; give the output of 'svgbench data pack'.")
    if about["resolution"] != data.resolution:
        raise BadData(
            f"{root}: is packed at {about['resolution']} px, but the run asks for {data.resolution}; "
            f"give --set data.resolution={about['resolution']}, or pack the images again at {data.resolution}."
        )
    for split in SPLITS:
        requested, available = _requested(data, split), about["counts"][split]
        if requested is not None and requested > available:
            raise BadData(f"{root}: has {available} images, but data.{split}_images asks for {requested}; lower it or leave it empty.")
    return about
