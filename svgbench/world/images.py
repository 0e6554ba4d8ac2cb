"""The pre-cropped image store: every split as uint8 ``.npy`` files that any encoder reads, written once and memory-mapped.

    {train,val}.images.npy  uint8 [N, 3, H, W]     {train,val}.labels.npy  int64 [N]
    {train,val}.masks.npy   uint8 [N, H, W], 0 background, 1 + label on the object (``shapes`` only)
    images.json             classes, resolution, counts, skipped files, source; written last
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from svgbench.config.schema import Data
from svgbench.errors import BadConfig, BadData, BrokenArtifact
from svgbench.world import arrays, folders, shapes
from svgbench.world.files import failpoint, guarded, need_space, write_atomic
from svgbench.world.runtime import Runtime

CHUNK = 256
"""Images held in memory while packing."""
SPLITS = ("train", "val")


class Piece(NamedTuple):
    """Some images on their way into the store."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    skipped: list[dict[str, str]]
    seen: int


@dataclass(frozen=True)
class ImageSet:
    """One split, memory-mapped and read-only."""

    images: Tensor
    """uint8 [N, 3, H, W]"""
    labels: Tensor
    """int64 [N]"""
    masks: Tensor | None
    """uint8 [N, H, W]: 0 background, 1 + label on the object; None where the source has no masks."""

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Images uint8 [B, 3, H, W] in the order of ``indices`` [B]; a copy."""
        return self.images[torch.as_tensor(indices, dtype=torch.int64)]


@dataclass(frozen=True)
class Images:
    """A store of pre-cropped images."""

    train: ImageSet
    val: ImageSet
    classes: tuple[str, ...]
    resolution: int
    skipped: tuple[str, ...]
    """Unreadable files that were left out."""


def pack(data: Data, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes the store of ``data`` into ``out``; gives what ``images.json`` says. Unreadable images are named, counted and left out."""
    with guarded(out):
        out.mkdir(parents=True, exist_ok=True)
    source = _shapes(data) if data.source == "shapes" else _folder(data, runtime)
    pixels = data.resolution**2
    need_space(out, sum(source.counts.values()) * pixels * (4 if source.masks else 3))
    about: dict[str, Any] = {"format": 1, "source": data.source, "identity": data.identity, "resolution": data.resolution}
    about |= {"classes": list(source.classes), "masks": source.masks, "counts": {}, "skipped": []}
    total = sum(source.counts.values())
    with runtime.progress("images", total) as bar:
        for split in SPLITS:
            about["counts"][split] = _write_split(split, source, out, data.resolution, about["skipped"], bar.advance)
    _judge(about, total, runtime)
    write_atomic(out / "images.json", (json.dumps(about, indent=1) + "\n").encode())
    return about


def open_images(directory: Path) -> Images:
    """The store in a directory; BrokenArtifact when files are missing or are not what ``images.json`` says."""
    try:
        about = json.loads((directory / "images.json").read_bytes())
        counts, side, classes = about["counts"], int(about["resolution"]), tuple(about["classes"])
        sets = {}
        for split in SPLITS:
            count = int(counts[split])
            sets[split] = ImageSet(
                arrays.open_mapped(directory / f"{split}.images.npy", (count, 3, side, side), np.uint8),
                arrays.open_mapped(directory / f"{split}.labels.npy", (count,), np.int64),
                arrays.open_mapped(directory / f"{split}.masks.npy", (count, side, side), np.uint8) if about["masks"] else None,
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BrokenArtifact(f"{directory}: is not a whole store of images ({error}); remove the directory and run again.") from None
    return Images(sets["train"], sets["val"], classes, side, tuple(entry["path"] for entry in about["skipped"]))


@dataclass(frozen=True)
class _Source:
    """Where pieces come from: images of each split, and a way to walk them."""

    classes: Sequence[str]
    counts: dict[str, int]
    masks: bool
    pieces: Callable[[str], Iterator[Piece]]


def _shapes(data: Data) -> _Source:
    """Drawn images."""
    for field in ("train_images", "val_images"):
        if getattr(data, field) is None:
            raise BadConfig(f"data.{field} is empty and 'shapes' can be drawn without end; give a number.")
    counts = {"train": int(data.train_images or 0), "val": int(data.val_images or 0)}

    def pieces(split: str) -> Iterator[Piece]:
        for start in range(0, counts[split], CHUNK):
            indices = np.arange(start, min(start + CHUNK, counts[split]))
            drawn = shapes.draw(indices, seed=data.seed, resolution=data.resolution, split=split)
            yield Piece(drawn.images, drawn.labels, drawn.masks, [], len(indices))

    return _Source(shapes.CLASSES, counts, True, pieces)


def _folder(data: Data, runtime: Runtime) -> _Source:
    """Images of a folder, decoded by ``runtime.workers`` threads (PIL releases the interpreter while it decodes)."""
    if data.identity and folders.identity(data) != data.identity:
        raise BadData(f"{data.source}: its files changed after this run was planned; run the same command again.")
    listing = folders.list_folder(data)
    entries = {"train": listing.train, "val": listing.val}

    def pieces(split: str) -> Iterator[Piece]:
        read = partial(folders.read_image, resolution=data.resolution)
        with ThreadPoolExecutor(max_workers=max(runtime.workers, 1)) as pool:
            for start in range(0, len(entries[split]), CHUNK):
                chunk = entries[split][start : start + CHUNK]
                results = list(pool.map(read, [listing.root / entry.path for entry in chunk]))
                good = [(r, e.label) for r, e in zip(results, chunk, strict=True) if not isinstance(r, str)]
                bad = [{"path": e.path, "reason": r} for r, e in zip(results, chunk, strict=True) if isinstance(r, str)]
                images = np.stack([r for r, _ in good]) if good else np.empty((0, 3, data.resolution, data.resolution), np.uint8)
                yield Piece(images, np.array([label for _, label in good], np.int64), None, bad, len(chunk))

    return _Source(listing.classes, {split: len(entries[split]) for split in SPLITS}, False, pieces)


def _write_split(
    split: str, source: _Source, out: Path, resolution: int, skipped: list[dict[str, str]], advance: Callable[[int], None]
) -> int:
    """Streams one split into its files; gives how many images it holds. Plain writes: on a full disk a memory map kills its process."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(guarded(out))
        images = stack.enter_context(_Rows(out / f"{split}.images.npy", (3, resolution, resolution), np.uint8))
        labels = stack.enter_context(_Rows(out / f"{split}.labels.npy", (), np.int64))
        masks = stack.enter_context(_Rows(out / f"{split}.masks.npy", (resolution, resolution), np.uint8)) if source.masks else None
        for piece in source.pieces(split):
            images.append(piece.images)
            labels.append(piece.labels)
            if masks is not None and piece.masks is not None:
                masks.append(piece.masks)
            skipped.extend(piece.skipped)
            advance(piece.seen)
            if len(skipped) > folders.UNREADABLE_SHARE * sum(source.counts.values()):
                break  # it will be refused; do not read the other million first
            failpoint("images.chunk")
        return labels.count


def _judge(about: dict[str, Any], total: int, runtime: Runtime) -> None:
    """Names what was left out; BadData when it is more than the allowed share or empties a split."""
    skipped = about["skipped"]
    if not skipped:
        return
    named = "; ".join(f"{entry['path']} ({entry['reason']})" for entry in skipped[:5]) + ("; ..." if len(skipped) > 5 else "")
    source = f"{about['source']}: {len(skipped)} of {total} images cannot be read"
    if len(skipped) > folders.UNREADABLE_SHARE * total:
        raise BadData(f"{source}, more than 1 %: {named}; mend or remove them and run again.")
    if not all(about["counts"].values()):
        raise BadData(f"{source}, and none is left of a split: {named}; mend or remove them and run again.")
    runtime.say(f"warning: {source} and are left out: {named}")


class _Rows(contextlib.AbstractContextManager["_Rows"]):
    """A ``.npy`` file written row by row: the header's count is filled in at the end (numpy pads it for that)."""

    def __init__(self, path: Path, shape: tuple[int, ...], kind: type) -> None:
        self._path, self._shape, self._kind = path, shape, np.dtype(kind)
        self.count = 0
        self._file: BinaryIO = path.open("wb")
        self._header()
        self._start = self._file.tell()

    def append(self, rows: np.ndarray) -> None:
        """More rows [n, *shape]."""
        if rows.shape[1:] != self._shape or rows.dtype != self._kind:
            raise ValueError(f"{self._path.name} takes {self._kind} rows {self._shape}, not {rows.dtype} {rows.shape[1:]}")
        self._file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                self._header()
                if self._file.tell() != self._start:
                    raise ValueError(f"{self._path.name}: numpy wrote a header of another length")
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _header(self) -> None:
        content = {"descr": np.lib.format.dtype_to_descr(self._kind), "fortran_order": False, "shape": (self.count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, content)
