"""Packing: a source of images becomes the pre-cropped store, in parallel, and goes on after a kill with the piece that was not finished.

    {train,val}.images.npy  uint8 [N, 3, H, W]     {train,val}.labels.npy  int64 [N]
    {train,val}.masks.npy   uint8 [N, H, W], 0 background, 1 + label on the object (``shapes`` only)
    images.json             classes, resolution, counts, skipped images and why, digests of files, source and listing; written last

``packing.jsonl`` and ``packing.laid/`` are there only while it is not finished. Threads crop the images: PIL releases the interpreter while
it decodes and resizes, and on two shared cores two threads made 138 images/s of 500 x 375 JPEG, two processes 133.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from svgbench.config.schema import Data
from svgbench.errors import BadConfig, BadData, Interrupted
from svgbench.images import packed, shapes, sources
from svgbench.images.crop import read_image
from svgbench.images.decode import reason
from svgbench.images.listing import Entry, Listing, Read
from svgbench.images.packed import SPLITS
from svgbench.machine.files import TEMPORARY, failpoint, guarded, need_space, sha256_of, sweep
from svgbench.machine.rows import Journal, Rows, npy_bytes
from svgbench.machine.runtime import Runtime
from svgbench.machine.signals import Stop

CHUNK = 128
"""Images of one piece; two pieces are in memory, one being written while the next is cropped."""
UNREADABLE_SHARE = 0.01
"""More unreadable images than this share is an error: the numbers would be of another data set."""
JOURNAL, LAID, LOCK = "packing.jsonl", "packing.laid", "packing.lock"
"""What is in a directory only while it is packed, besides the store's own files."""


class Piece(NamedTuple):
    """Some images on their way into the store."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    skipped: list[dict[str, str]]
    seen: int


@dataclass(frozen=True)
class _Source:
    """Where pieces come from: how many images each split has, and a way to walk them from a place on."""

    classes: Sequence[str]
    counts: dict[str, int]
    masks: bool
    identity: str
    listing: str
    pieces: Callable[[str, int], Generator[Piece, None, None]]


def pack(data: Data, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes the store of ``data`` into ``out``; gives what ``images.json`` says. Unreadable images are named, counted and left out.

    A killed or stopped packing goes on, with the same bytes in the end. Raises BadData for a source that cannot be used and for a directory
    that holds the beginning of another packing, Interrupted after a signal, StorageError when the disk fails.
    """
    with guarded(out):
        out.mkdir(parents=True, exist_ok=True)
        sweep(out)
    source = _shapes(data) if data.source == "shapes" else _listed(data, out, runtime)
    asked = _asked(data)
    with guarded(out):
        journal = Journal(out / JOURNAL, {"identity": source.identity, "listing": source.listing, **asked})
        if journal.other:
            raise BadData(f"{out}: holds the beginning of a packing of other images or settings; remove the directory, or give another.")
        if journal.begun and not _whole(journal, source, out, data.resolution):
            journal.begin_again()
        if not journal.begun:
            shutil.rmtree(out / LAID, ignore_errors=True)
        (out / packed.NAME).unlink(missing_ok=True)
    total = sum(source.counts.values())
    need_space(out, (total - journal.rows.total()) * data.resolution**2 * (4 if source.masks else 3))
    with Stop() as stop, runtime.progress("images", total, done=journal.seen.total()) as bar:
        for split in SPLITS:
            _write_split(split, source, out, data.resolution, journal, bar.advance, stop)
    if data.source != "shapes" and sources.identity(data.model_copy(update={"identity": source.identity})) != source.identity:
        (out / JOURNAL).unlink()  # nothing that was packed can be trusted
        raise BadData(f"{data.source}: its files changed while they were packed; run the same command again.")
    about: dict[str, Any] = {"source": data.source, "identity": source.identity, "listing": source.listing, "asked": asked}
    about |= {"resolution": data.resolution, "classes": list(source.classes), "masks": source.masks}
    about |= {"counts": {split: journal.rows[split] for split in SPLITS}, "skipped": journal.skipped}
    try:
        _judge(about, total, runtime)
    except BadData:
        (out / JOURNAL).unlink()  # the images will be mended: nothing that was said of them holds then
        raise
    return _finish(about, out)


def is_own(name: str) -> bool:
    """Whether a file of this name in a directory can be a packing's."""
    return name in (JOURNAL, LAID, LOCK, packed.NAME) or name.startswith(TEMPORARY) or name.endswith((".images.npy", ".labels.npy"))


def is_of(about: dict[str, Any], data: Data) -> bool:
    """Whether a finished store is what packing ``data`` makes."""
    return about.get("identity") == data.identity and about.get("asked") == _asked(data)


def _asked(data: Data) -> dict[str, Any]:
    """The settings of a packing."""
    return data.model_dump(mode="json", exclude={"source", "identity"})


def _finish(about: dict[str, Any], out: Path) -> dict[str, Any]:
    """Digests, ``images.json``, and away with what is only there while packing."""
    names = [name for split in SPLITS for name in packed.rows(about, split)]
    with guarded(out):
        with ThreadPoolExecutor(len(names)) as pool:
            found = list(pool.map(lambda name: {"sha256": sha256_of(out / name), "bytes": (out / name).stat().st_size}, names))
        about["files"] = dict(zip(names, found, strict=True))
        failpoint("images.digested")
        shutil.rmtree(out / LAID, ignore_errors=True)
        packed.write(out, about)
        (out / JOURNAL).unlink()
    return about


def _whole(journal: Journal, source: _Source, out: Path, resolution: int) -> bool:
    """Whether the files hold what the journal says of them; only a power cut or another hand can make them shorter."""
    for split in SPLITS:
        about = {"counts": journal.rows, "resolution": resolution, "masks": source.masks}
        for name, (shape, kind) in packed.rows(about, split).items():
            if shape[0] and (not (out / name).is_file() or (out / name).stat().st_size < npy_bytes(shape, kind)):
                return False
    return True


def _shapes(data: Data) -> _Source:
    """Drawn images."""
    for field in ("train_images", "val_images"):
        if getattr(data, field) is None:
            raise BadConfig(f"data.{field} is empty and 'shapes' can be drawn without end; give a number.")
    counts = {"train": data.at_most("train", int(data.train_images or 0)), "val": data.at_most("val", int(data.val_images or 0))}

    def pieces(split: str, begin: int) -> Generator[Piece, None, None]:
        for start in range(begin, counts[split], CHUNK):
            indices = np.arange(start, min(start + CHUNK, counts[split]))
            drawn = shapes.draw(indices, seed=data.seed, resolution=data.resolution, split=split)
            yield Piece(drawn.images, drawn.labels, drawn.masks, [], len(indices))

    return _Source(shapes.CLASSES, counts, True, data.identity, "", pieces)


def _listed(data: Data, out: Path, runtime: Runtime) -> _Source:
    """Images of a source of files, cropped by ``runtime.cropping_threads`` threads."""
    identity = sources.identity(data)
    if data.identity and identity != data.identity:
        raise BadData(f"{data.source}: its files changed after this run was planned; run the same command again.")
    listing = sources.list_images(data)
    entries = {"train": listing.train, "val": listing.val}

    def pieces(split: str, begin: int) -> Generator[Piece, None, None]:
        read = listing.reader((*listing.train, *listing.val), out / LAID)
        crop = partial(_crop, read=read, resolution=data.resolution)
        pool = ThreadPoolExecutor(max_workers=runtime.cropping_threads)
        ahead: deque[tuple[Sequence[Entry], list[Future[np.ndarray | str]]]] = deque()
        try:
            for start in range(begin, len(entries[split]), CHUNK):
                chunk = entries[split][start : start + CHUNK]
                ahead.append((chunk, [pool.submit(crop, entry) for entry in chunk]))
                if len(ahead) > 1:
                    yield _piece(listing, *ahead.popleft(), data.resolution)
            while ahead:
                yield _piece(listing, *ahead.popleft(), data.resolution)
        finally:
            pool.shutdown(cancel_futures=True)

    counts = {split: len(entries[split]) for split in SPLITS}
    return _Source(listing.classes, counts, False, identity, listing.digest(), pieces)


def _crop(entry: Entry, *, read: Read, resolution: int) -> np.ndarray | str:
    """The image uint8 [3, H, W], or in words why it cannot be read."""
    try:
        content = read(entry)
    except FileNotFoundError:
        return "has vanished"
    except OSError as error:
        return reason(error)
    return read_image(content, resolution)


def _piece(listing: Listing, chunk: Sequence[Entry], futures: Sequence[Future[np.ndarray | str]], resolution: int) -> Piece:
    results = [(entry, future.result()) for entry, future in zip(chunk, futures, strict=True)]
    good = [(found, entry.label) for entry, found in results if not isinstance(found, str)]
    bad = [{"path": listing.where(entry), "reason": found} for entry, found in results if isinstance(found, str)]
    images = np.stack([found for found, _ in good]) if good else np.empty((0, 3, resolution, resolution), np.uint8)
    return Piece(images, np.array([label for _, label in good], np.int64), None, bad, len(chunk))


def _write_split(
    split: str, source: _Source, out: Path, resolution: int, journal: Journal, advance: Callable[[int], None], stop: Stop
) -> None:
    """Streams what is left of one split into its files; rows first, then their line in the journal."""
    count, total = journal.rows[split], sum(source.counts.values())
    about = {"counts": journal.rows, "resolution": resolution, "masks": source.masks}
    with contextlib.ExitStack() as stack:
        stack.enter_context(guarded(out))
        files = [stack.enter_context(Rows(out / n, s[1:], kind, count=count)) for n, (s, kind) in packed.rows(about, split).items()]
        for piece in stack.enter_context(contextlib.closing(source.pieces(split, journal.seen[split]))):
            arrays = (piece.images, piece.labels, piece.masks)
            for file, rows in zip(files, (a for a in arrays if a is not None), strict=True):
                file.append(rows)
                file.sync()
            failpoint("images.rows")
            journal.add(split, seen=piece.seen, rows=len(piece.images), skipped=piece.skipped)
            advance(piece.seen)
            stop.unit()
            failpoint("images.chunk")
            if len(journal.skipped) > UNREADABLE_SHARE * total:
                break  # it will be refused; do not read the other million first
            if stop.received:
                seen = f"{journal.seen.total():,} of {total:,}"
                raise Interrupted(f"images: stopped by {stop.name} after {seen}; run the same command again to go on.")


def _judge(about: dict[str, Any], total: int, runtime: Runtime) -> None:
    """Names what was left out; BadData when it is more than the allowed share or empties a split."""
    skipped = about["skipped"]
    if not skipped:
        return
    named = "; ".join(f"{entry['path']} ({entry['reason']})" for entry in skipped[:5]) + ("; ..." if len(skipped) > 5 else "")
    source = f"{about['source']}: {len(skipped)} of {total} images cannot be read"
    if len(skipped) > UNREADABLE_SHARE * total:
        raise BadData(f"{source}, more than 1 %: {named}; repair or remove them and run again.")
    if not all(about["counts"].values()):
        raise BadData(f"{source}, and none is left of a split: {named}; repair or remove them and run again.")
    runtime.say(f"warning: {source} and are left out: {named}")
