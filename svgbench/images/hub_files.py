"""The data files of Hugging Face datasets: their columns of images and labels, and the bytes of an image by its row. No torch.

Arrow files are memory-mapped and read at any row. Parquet is compressed in groups of rows, so the wanted images are laid out once in source
order, a flat file beside each parquet file's rows, while a store is packed. Both are validated before a row is read.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svgbench.errors import BadData
from svgbench.images.listing import Entry, Read
from svgbench.machine.files import failpoint, guarded, is_inside, need_space, read_regular, replacing

ROWS = 64
"""Parquet rows in memory at a time."""


@dataclass(frozen=True)
class Part:
    """One data file: its labels and names of images, and for arrow its mapped column of images."""

    file: Path
    image: str
    label: str
    names: tuple[str, ...] | None
    """Names of the classes, where the file's features have them."""
    labels: list[Any]
    paths: list[str | None]
    images: Any = None

    def name(self, row: int) -> str:
        """An image's file name, or its row where it has none."""
        path = self.paths[row]
        return path.replace("\\", "/").rsplit("/", 1)[-1] if path else f"{self.file.stem}-{row:08d}"


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadData("a Hugging Face dataset needs pyarrow: pip install 'svgbench[data]', or give class folders or shards.") from None
    return pyarrow


def open_arrow(file: Path) -> Part:
    """An arrow file of ``save_to_disk``, mapped and validated; BadData when it is damaged."""
    pa = _pyarrow()
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
        image, label, names = _columns(file, table.schema)
        table = table.select([image, label])
        table.validate(full=True)  # reading a row behind a damaged offset could end the process
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    column = table.column(image)
    paths = [p for chunk in column.chunks for p in chunk.field("path").to_pylist()] if _has(column.type, "path") else [None] * len(column)
    return Part(file, image, label, names, table.column(label).to_pylist(), paths, column)


def open_parquet(file: Path) -> Part:
    """Labels and image names of a parquet file; BadData when it is damaged. No image is read."""
    pa = _pyarrow()
    try:
        with pa.parquet.ParquetFile(file) as opened:
            image, label, names = _columns(file, opened.schema_arrow)
            named = _has(opened.schema_arrow.field(image).type, "path")
            table = opened.read(columns=[label, *([f"{image}.path"] if named else [])])
            table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    paths = [p for chunk in table.column(image).chunks for p in chunk.field("path").to_pylist()] if named else [None] * table.num_rows
    return Part(file, image, label, names, table.column(label).to_pylist(), paths)


def _unreadable(file: Path, error: Exception) -> BadData:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return BadData(f"{file}: cannot be read ({said}); fetch or save the dataset again.")


def _has(kind: Any, name: str) -> bool:
    """Whether an arrow type is a struct with a field."""
    return hasattr(kind, "fields") and name in [field.name for field in kind.fields]


def _columns(file: Path, schema: Any) -> tuple[str, str, tuple[str, ...] | None]:
    """The image and the label column, and the names of the classes where the features say them."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        features = {}
    features = features if isinstance(features, dict) else {}
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    chosen = []
    for kind, plain in (("Image", "image"), ("ClassLabel", "label")):
        name = next((name for name, found in kinds.items() if found == kind and name in schema.names), plain)
        if name not in schema.names:
            raise BadData(f"{file}: has no column '{plain}' among {', '.join(schema.names)}; give a dataset of images with labels.")
        chosen.append(name)
    _check_images(file, chosen[0], schema.field(chosen[0]).type)
    names = features.get(chosen[1], {}).get("names") if kinds.get(chosen[1]) == "ClassLabel" else None
    return chosen[0], chosen[1], tuple(names) if names else None


def _check_images(file: Path, column: str, kind: Any) -> None:
    """BadData unless a column of images holds bytes, or structs of bytes and, where they have it, a path."""
    types = _pyarrow().types

    def holds(kind: Any, *tests: Any) -> bool:
        return any(test(kind) for test in tests)

    fields = {field.name: field.type for field in kind.fields} if types.is_struct(kind) else {"bytes": kind}
    good = "bytes" in fields and holds(fields["bytes"], types.is_binary, types.is_large_binary, types.is_null)
    if not good or not holds(fields.get("path", _pyarrow().string()), types.is_string, types.is_large_string, types.is_null):
        raise BadData(f"{file}: the column '{column}' is of the type {kind}; images are bytes, or structs of bytes and a path.")


def reader(root: Path, files: Sequence[Path], parts: Sequence[Part], wanted: Sequence[Entry], scratch: Path) -> Read:
    """How to read the wanted images of these files; parquet's are laid out in ``scratch`` first."""
    if files[0].suffix == ".arrow":
        columns = [_Column(part.images) for part in parts]

        def read_row(entry: Entry) -> bytes:
            content = columns[entry.file].content(entry.at)
            return _named(root, parts[entry.file], entry.at) if content is None else content

        return read_row
    laid = _lay_out(parts, wanted, scratch)

    def read(entry: Entry) -> bytes:
        file, places = laid[entry.file]
        begin, end = places[entry.at].tolist()
        if begin < 0:
            return _named(root, parts[entry.file], entry.at)
        with file.open("rb") as opened:
            opened.seek(begin)
            return opened.read(end - begin)

    return read


class _Column:
    """A memory-mapped column of images, read by row."""

    def __init__(self, column: Any) -> None:
        self._chunks = column.chunks
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)]).tolist()
        self._bytes = [chunk.field("bytes") if _has(chunk.type, "bytes") else chunk for chunk in self._chunks]

    def content(self, row: int) -> bytes | None:
        """The bytes of one image; None where the row has none."""
        number = bisect_right(self._starts, row) - 1
        return self._bytes[number][row - self._starts[number]].as_py()


def _named(root: Path, part: Part, row: int) -> bytes:
    """The bytes of the file that a row without bytes names, none where it names no file. BadData for one outside the dataset's folder."""
    name = part.paths[row]
    if not name:
        return b""
    path = root / name
    if not is_inside(root, path):
        raise BadData(
            f"{part.file}: row {row} has no image but names the file {name}, which is outside {root}; "
            "only files in a dataset's own folder are read, so copy it there or save the dataset with its images."
        )
    return read_regular(path)


def _lay_out(parts: Sequence[Part], wanted: Sequence[Entry], scratch: Path) -> dict[int, tuple[Path, np.ndarray]]:
    """The wanted images of each parquet file in one flat file, and where each row's bytes are in it; what is laid out is used again."""
    rows: defaultdict[int, set[int]] = defaultdict(set)
    for entry in wanted:
        rows[entry.file].add(entry.at)
    laid = {}
    for number in sorted(rows):
        flat, places = scratch / f"{number:05d}.bytes", scratch / f"{number:05d}.places.npy"
        if not places.is_file():
            _lay_out_one(parts[number], rows[number], flat, places)
        laid[number] = (flat, np.load(places, allow_pickle=False))
    return laid


def _lay_out_one(part: Part, rows: set[int], flat: Path, places: Path) -> None:
    """``flat``: the bytes of some rows one after the other; ``places`` int64 [rows, 2], written last: where each row's bytes begin and end,
    -1 for a row without any."""
    pa = _pyarrow()
    with guarded(flat):
        flat.parent.mkdir(parents=True, exist_ok=True)
        need_space(flat.parent, part.file.stat().st_size * len(rows) // max(len(part.labels), 1))
    found = np.full((len(part.labels), 2), -1, np.int64)
    row = 0
    with guarded(flat), flat.open("wb") as file:
        try:
            with pa.parquet.ParquetFile(part.file) as opened:
                for batch in opened.iter_batches(batch_size=ROWS, columns=[part.image]):
                    batch.validate(full=True)
                    for value in batch.column(0):
                        if row in rows:
                            content = value.as_py()
                            image = content.get("bytes") if isinstance(content, dict) else content
                            if image is not None:
                                found[row] = file.tell(), file.tell() + len(image)
                                file.write(image)
                        row += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            if getattr(error, "errno", None) is not None:
                raise  # of the disk that is written to; pyarrow's own have no number
            raise _unreadable(part.file, error) from None
    with replacing(places) as file:
        np.save(file, found)
    failpoint("images.laid")
