"""Packing: makes the pre-cropped store from a source of images, in parallel; a killed packing resumes at the first unfinished piece.

    {train,val}.images.npy  uint8 [N, 3, H, W]     {train,val}.labels.npy  int64 [N]
    {train,val}.masks.npy   uint8 [N, H, W], 0 background, 1 + label on the object (drawn images only)
    images.json             classes, resolution, counts, skipped images with reasons, digests of files, source and listing; written last

``packing.jsonl`` and ``packing.laid/`` exist only until packing is finished. Threads crop the images, because PIL releases the interpreter
while it decodes and resizes: on two shared cores, two threads packed 138 images/s of 500 x 375 JPEG, two processes 133.
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
from svgbench.images import packed, sources
from svgbench.images.crop import read_image
from svgbench.images.decode import reason
from svgbench.images.listing import ImageEntry, Listing, Read
from svgbench.images.packed import SPLITS
from svgbench.machine.files import TEMPORARY, failpoint, guarded, need_space, sha256_of, sweep
from svgbench.machine.rows import Journal, RowFile, npy_bytes
from svgbench.machine.runtime import Runtime
from svgbench.machine.signals import Stop

CHUNK = 128
"""Images in a piece. Two pieces are in memory: one is written while the next is cropped."""
UNREADABLE_SHARE = 0.01
"""A larger share of unreadable images is an error, because scores would belong to a different data set."""
JOURNAL, LAID, LOCK = "packing.jsonl", "packing.laid", "packing.lock"
"""Files that exist in a directory only during packing."""


class Piece(NamedTuple):
    """Consecutive images, ready to be written."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    skipped: list[dict[str, str]]
    seen: int


@dataclass(frozen=True)
class _Source:
    """A source to pack: the size of each split, and ``pieces(split, begin)``, which yields its images from index ``begin`` on."""

    classes: Sequence[str]
    counts: dict[str, int]
    masks: bool
    identity: str
    listing: str
    pieces: Callable[[str, int], Generator[Piece, None, None]]


def pack(data: Data, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes the store of ``data`` into ``out`` and returns the content of ``images.json``. Unreadable images are reported and left out.

    A killed or stopped packing resumes and gives the same bytes. Raises BadData for a source that cannot be used and for a directory with
    an unfinished packing of other data, Interrupted after a signal, StorageError when the disk fails.
    """
    with guarded(out):
        out.mkdir(parents=True, exist_ok=True)
        sweep(out)
    source = _drawn_source(data) if data.drawn else _file_source(data, out, runtime)
    settings = _settings(data)
    with guarded(out):
        journal = Journal(out / JOURNAL, {"identity": source.identity, "listing": source.listing, **settings})
        if journal.other:
            raise BadData(f"{out}: contains an unfinished packing of other images or settings; remove the directory, or give another.")
        if journal.begun and not _is_complete(journal, source, out, data.resolution):
            journal.begin_again()
        if not journal.begun:
            shutil.rmtree(out / LAID, ignore_errors=True)
        (out / packed.NAME).unlink(missing_ok=True)
    total = sum(source.counts.values())
    need_space(out, (total - journal.rows.total()) * data.resolution**2 * (4 if source.masks else 3))
    with Stop() as stop, runtime.progress("images", total, done=journal.seen.total()) as bar:
        for split in SPLITS:
            _write_split(split, source, out, data.resolution, journal, bar.advance, stop)
    if not data.drawn and sources.identity(data.model_copy(update={"identity": source.identity})) != source.identity:
        (out / JOURNAL).unlink()  # nothing that was packed can be trusted
        raise BadData(f"{data.source}: its files changed while they were packed; run the same command again.")
    about: dict[str, Any] = {"source": data.source, "identity": source.identity, "listing": source.listing, "asked": settings}
    about |= {"resolution": data.resolution, "classes": list(source.classes), "masks": source.masks}
    about |= {"counts": {split: journal.rows[split] for split in SPLITS}, "skipped": journal.skipped}
    try:
        _check_skipped(about, total, runtime)
    except BadData:
        (out / JOURNAL).unlink()  # the user will repair the images, so the journal no longer applies
        raise
    return _finish(about, out)


def is_own(name: str) -> bool:
    """Whether packing creates files of this name."""
    return name in (JOURNAL, LAID, LOCK, packed.NAME) or name.startswith(TEMPORARY) or name.endswith((".images.npy", ".labels.npy"))


def is_of(about: dict[str, Any], data: Data) -> bool:
    """Whether packing ``data`` would make this store."""
    return about.get("identity") == data.identity and about.get("asked") == _settings(data)


def _settings(data: Data) -> dict[str, Any]:
    """The settings that determine the packed images."""
    return data.model_dump(mode="json", exclude={"source", "identity"})


def _finish(about: dict[str, Any], out: Path) -> dict[str, Any]:
    """Writes ``images.json`` with the digests of the files, and removes temporary files."""
    names = [name for split in SPLITS for name in packed.rows(about, split)]
    with guarded(out):
        with ThreadPoolExecutor(len(names)) as pool:
            files = list(pool.map(lambda name: {"sha256": sha256_of(out / name), "bytes": (out / name).stat().st_size}, names))
        about["files"] = dict(zip(names, files, strict=True))
        failpoint("images.digested")
        shutil.rmtree(out / LAID, ignore_errors=True)
        packed.write(out, about)
        (out / JOURNAL).unlink()
    return about


def _is_complete(journal: Journal, source: _Source, out: Path, resolution: int) -> bool:
    """Whether the files have all rows of the journal; they can lack some after a power failure or an outside change."""
    for split in SPLITS:
        about = {"counts": journal.rows, "resolution": resolution, "masks": source.masks}
        for name, (shape, kind) in packed.rows(about, split).items():
            if shape[0] and (not (out / name).is_file() or (out / name).stat().st_size < npy_bytes(shape, kind)):
                return False
    return True


def _drawn_source(data: Data) -> _Source:
    """Drawn images."""
    world = sources.drawer(data.source)
    for field in ("train_images", "val_images"):
        if getattr(data, field) is None:
            raise BadConfig(f"data.{field} is empty, but '{data.source}' has no fixed number of images; set it.")
    counts = {"train": data.at_most("train", int(data.train_images or 0)), "val": data.at_most("val", int(data.val_images or 0))}

    def pieces(split: str, begin: int) -> Generator[Piece, None, None]:
        for start in range(begin, counts[split], CHUNK):
            indices = np.arange(start, min(start + CHUNK, counts[split]))
            drawn = world.draw(indices, seed=data.seed, resolution=data.resolution, split=split)
            yield Piece(drawn.images, drawn.labels, drawn.masks, [], len(indices))

    return _Source(world.CLASSES, counts, True, data.identity, "", pieces)


def _file_source(data: Data, out: Path, runtime: Runtime) -> _Source:
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
        ahead: deque[tuple[Sequence[ImageEntry], list[Future[np.ndarray | str]]]] = deque()
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


def _crop(entry: ImageEntry, *, read: Read, resolution: int) -> np.ndarray | str:
    """The image, uint8 [3, H, W], or the reason (a string) why it cannot be read."""
    try:
        content = read(entry)
    except FileNotFoundError:
        return "no longer exists"
    except OSError as error:
        return reason(error)
    return read_image(content, resolution)


def _piece(listing: Listing, chunk: Sequence[ImageEntry], futures: Sequence[Future[np.ndarray | str]], resolution: int) -> Piece:
    results = [(entry, future.result()) for entry, future in zip(chunk, futures, strict=True)]
    good = [(image, entry.label) for entry, image in results if not isinstance(image, str)]
    bad = [{"path": listing.where(entry), "reason": image} for entry, image in results if isinstance(image, str)]
    images = np.stack([image for image, _ in good]) if good else np.empty((0, 3, resolution, resolution), np.uint8)
    return Piece(images, np.array([label for _, label in good], np.int64), None, bad, len(chunk))


def _write_split(
    split: str, source: _Source, out: Path, resolution: int, journal: Journal, advance: Callable[[int], None], stop: Stop
) -> None:
    """Writes the remaining images of a split; the rows of a piece are flushed to disk before its line in the journal is written."""
    count, total = journal.rows[split], sum(source.counts.values())
    about = {"counts": journal.rows, "resolution": resolution, "masks": source.masks}
    with contextlib.ExitStack() as stack:
        stack.enter_context(guarded(out))
        files = [
            stack.enter_context(RowFile(out / name, shape[1:], kind, count=count))
            for name, (shape, kind) in packed.rows(about, split).items()
        ]
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
                break  # packing will fail: do not read the rest first
            if stop.received:
                seen = f"{journal.seen.total():,} of {total:,}"
                raise Interrupted(f"images: stopped by {stop.name} after {seen}; run the same command again to resume.")


def _check_skipped(about: dict[str, Any], total: int, runtime: Runtime) -> None:
    """Warns about images that were left out. Raises BadData when they are too many or when a split is empty without them."""
    skipped = about["skipped"]
    if not skipped:
        return
    named = "; ".join(f"{entry['path']} ({entry['reason']})" for entry in skipped[:5]) + ("; ..." if len(skipped) > 5 else "")
    source = f"{about['source']}: {len(skipped)} of {total} images cannot be read"
    if len(skipped) > UNREADABLE_SHARE * total:
        raise BadData(f"{source}, more than 1 %: {named}; repair or remove them and run again.")
    if not all(about["counts"].values()):
        raise BadData(f"{source}, which leaves a split empty: {named}; repair or remove them and run again.")
    runtime.notify(f"warning: {source} and are left out: {named}")
