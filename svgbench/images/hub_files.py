"""The data files of Hugging Face datasets: columns of images and labels, and the bytes of an image by its row. No torch.

Arrow files are memory-mapped and read at any row. Parquet files are compressed in groups of rows, so packing first extracts the images of
each file into a flat file with an index. Both formats are validated before a row is read.
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
from svgbench.images.listing import ImageEntry, Read
from svgbench.machine.files import failpoint, guarded, is_inside, need_space, read_regular, replacing

ROWS = 64
"""Parquet rows in memory at a time."""


@dataclass(frozen=True)
class DatasetFile:
    """One data file: labels and names of images, and for arrow the mapped column of images."""

    file: Path
    image: str
    label: str
    names: tuple[str, ...] | None
    """Names of the classes; None if the file has none."""
    labels: list[Any]
    paths: list[str | None]
    images: Any = None

    def name(self, row: int) -> str:
        """The file name of an image, or a name made of its row if it has none."""
        path = self.paths[row]
        return path.replace("\\", "/").rsplit("/", 1)[-1] if path else f"{self.file.stem}-{row:08d}"


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadData("a Hugging Face dataset needs pyarrow: pip install 'svgbench[data]', or give class folders or shards.") from None
    return pyarrow


def open_arrow(file: Path) -> DatasetFile:
    """Maps and validates an arrow file of ``save_to_disk``. Raises BadData when it is damaged."""
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
    return DatasetFile(file, image, label, names, table.column(label).to_pylist(), paths, column)


def open_parquet(file: Path) -> DatasetFile:
    """Labels and image names of a parquet file; reads no image. Raises BadData when it is damaged."""
    pa = _pyarrow()
    try:
        with pa.parquet.ParquetFile(file) as opened:
            image, label, names = _columns(file, opened.schema_arrow)
            has_paths = _has(opened.schema_arrow.field(image).type, "path")
            table = opened.read(columns=[label, *([f"{image}.path"] if has_paths else [])])
            table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    paths = [p for chunk in table.column(image).chunks for p in chunk.field("path").to_pylist()] if has_paths else [None] * table.num_rows
    return DatasetFile(file, image, label, names, table.column(label).to_pylist(), paths)


def _unreadable(file: Path, error: Exception) -> BadData:
    message = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return BadData(f"{file}: cannot be read ({message}); fetch or save the dataset again.")


def _has(kind: Any, name: str) -> bool:
    """Whether an arrow type is a struct with a field."""
    return hasattr(kind, "fields") and name in [field.name for field in kind.fields]


def _columns(file: Path, schema: Any) -> tuple[str, str, tuple[str, ...] | None]:
    """Names of the image and label columns, and the names of the classes if the features have them."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        features = {}
    features = features if isinstance(features, dict) else {}
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    chosen = []
    for kind, plain in (("Image", "image"), ("ClassLabel", "label")):
        name = next((name for name, type_ in kinds.items() if type_ == kind and name in schema.names), plain)
        if name not in schema.names:
            raise BadData(f"{file}: has no column '{plain}' among {', '.join(schema.names)}; give a dataset of images with labels.")
        chosen.append(name)
    _check_images(file, chosen[0], schema.field(chosen[0]).type)
    names = features.get(chosen[1], {}).get("names") if kinds.get(chosen[1]) == "ClassLabel" else None
    return chosen[0], chosen[1], tuple(names) if names else None


def _check_images(file: Path, column: str, kind: Any) -> None:
    """Raises BadData unless the column has bytes, or structs of bytes with an optional path."""
    types = _pyarrow().types

    def holds(kind: Any, *tests: Any) -> bool:
        return any(test(kind) for test in tests)

    fields = {field.name: field.type for field in kind.fields} if types.is_struct(kind) else {"bytes": kind}
    good = "bytes" in fields and holds(fields["bytes"], types.is_binary, types.is_large_binary, types.is_null)
    if not good or not holds(fields.get("path", _pyarrow().string()), types.is_string, types.is_large_string, types.is_null):
        raise BadData(f"{file}: the column '{column}' has the type {kind}; images must be bytes, or structs of bytes and a path.")


def reader(root: Path, files: Sequence[Path], parts: Sequence[DatasetFile], entries: Sequence[ImageEntry], scratch: Path) -> Read:
    """Returns a function that reads the images ``entries`` of these files; parquet files are first extracted into ``scratch``."""
    if files[0].suffix == ".arrow":
        columns = [_Column(part.images) for part in parts]

        def read_row(entry: ImageEntry) -> bytes:
            content = columns[entry.file].content(entry.at)
            return _linked_image(root, parts[entry.file], entry.at) if content is None else content

        return read_row
    extracted = _extract(parts, entries, scratch)

    def read(entry: ImageEntry) -> bytes:
        file, offsets = extracted[entry.file]
        begin, end = offsets[entry.at].tolist()
        if begin < 0:
            return _linked_image(root, parts[entry.file], entry.at)
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
        """The bytes of one image; None if the row has none."""
        number = bisect_right(self._starts, row) - 1
        return self._bytes[number][row - self._starts[number]].as_py()


def _linked_image(root: Path, part: DatasetFile, row: int) -> bytes:
    """The bytes of the file that a row names instead of an image; empty without a name. Raises BadData for a file outside the folder."""
    name = part.paths[row]
    if not name:
        return b""
    path = root / name
    if not is_inside(root, path):
        raise BadData(
            f"{part.file}: row {row} refers to the file {name}, which is outside {root}; "
            "only files in the dataset's folder are read, so copy it there or save the dataset with its images."
        )
    return read_regular(path)


def _extract(parts: Sequence[DatasetFile], entries: Sequence[ImageEntry], scratch: Path) -> dict[int, tuple[Path, np.ndarray]]:
    """Extracts the images of each parquet file into a flat file and returns file number -> (path of the flat file, index). Files of an
    earlier attempt are reused."""
    rows: defaultdict[int, set[int]] = defaultdict(set)
    for entry in entries:
        rows[entry.file].add(entry.at)
    extracted = {}
    for number in sorted(rows):
        data, index = scratch / f"{number:05d}.bytes", scratch / f"{number:05d}.places.npy"
        if not index.is_file():
            _extract_one(parts[number], rows[number], data, index)
        extracted[number] = (data, np.load(index, allow_pickle=False))
    return extracted


def _extract_one(part: DatasetFile, rows: set[int], data: Path, index: Path) -> None:
    """Writes ``data``, the concatenated bytes of some rows, then ``index``, int64 [rows, 2]: begin and end of each row, -1 without
    bytes."""
    pa = _pyarrow()
    with guarded(data):
        data.parent.mkdir(parents=True, exist_ok=True)
        need_space(data.parent, part.file.stat().st_size * len(rows) // max(len(part.labels), 1))
    offsets = np.full((len(part.labels), 2), -1, np.int64)
    row = 0
    with guarded(data), data.open("wb") as file:
        try:
            with pa.parquet.ParquetFile(part.file) as opened:
                for batch in opened.iter_batches(batch_size=ROWS, columns=[part.image]):
                    batch.validate(full=True)
                    for value in batch.column(0):
                        if row in rows:
                            content = value.as_py()
                            image = content.get("bytes") if isinstance(content, dict) else content
                            if image is not None:
                                offsets[row] = file.tell(), file.tell() + len(image)
                                file.write(image)
                        row += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            if getattr(error, "errno", None) is not None:
                raise  # an error of the disk written to; errors of pyarrow have no errno
            raise _unreadable(part.file, error) from None
    with replacing(index) as file:
        np.save(file, offsets)
    failpoint("images.laid")
