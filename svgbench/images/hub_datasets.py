"""Hugging Face datasets as a source of images: the output of ``save_to_disk``, or a folder of parquet files from the hub. No torch.

They are read with pyarrow (extra ``data``); the package ``datasets`` would copy parquet files to a cache first. The image column is the
first with the feature ``Image``, else the one named ``image``: a struct of ``bytes`` and ``path``, or plain bytes. A ``path`` without bytes
names a file in the dataset's folder. The label column is the first with the feature ``ClassLabel``, else the one named ``label``: numbers
or strings. Labels are matched by the class names of each file, so that splits and files may number the classes differently. Splits are
recognised by their names; without a validation or test split, a share of each class is held out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svgbench.errors import BadData
from svgbench.images import scan
from svgbench.images.decode import reason
from svgbench.images.hub_files import DatasetFile, open_arrow, open_parquet, reader
from svgbench.images.listing import MAX_NAMES, SUFFIXES, UNLABELLED, Collection, Files, ImageEntry, check_classes, numbered, unknown_classes
from svgbench.images.scan import ListedFile, Skipped, examples
from svgbench.images.splits import check_links, choose_splits, split_of
from svgbench.machine.files import read_regular
from svgbench.machine.progress import tell_once

PARQUET = (".parquet",)
METADATA = ("dataset_dict.json", "state.json")
"""Metadata files of ``save_to_disk``: of all splits, and of one split."""
JSON_BYTES = 1 << 26
"""Largest size of a metadata file."""


def holds(root: Path) -> bool:
    """Whether a directory is a Hugging Face dataset."""
    saved_splits = any(split_of(name) == "train" for name in _saved_apart(root))
    if saved_splits or any((root / name).is_file() for name in METADATA):
        return True
    parquet = _parquet(root)
    image_folders = [name for name in scan.folders(root) if split_of(name) == "train"]  # folders of images next to a parquet file
    return any(split_of(name) for name in parquet) or (
        bool(parquet) and not any(_first(root / name).endswith(SUFFIXES) for name in image_folders)
    )


def files(root: Path, skipped: Skipped) -> tuple[Path, list[ListedFile]]:
    """The folder that paths are relative to, and the files: data, metadata, and images that rows may name."""
    split = _split(root, skipped)
    data = [*split.train, *split.val]
    metadata = {f"{folder}/{name}".lstrip("/") for folder in ("", *(f.path.rpartition("/")[0] for f in data)) for name in METADATA}
    about_files = [scan.stat_file(root, name) for name in sorted(metadata) if (root / name).is_file()]
    return root, [*data, *about_files, *scan.walk(root, "", SUFFIXES, Skipped(), links=False)]


def collect(root: Path) -> Collection:
    """Lists the images of a dataset by labels and names; reads no image. Raises BadData when the dataset cannot be used."""
    split = _split(root, Skipped())
    relative = tuple(file.path for file in (*split.train, *split.val))
    paths, count = [root / path for path in relative], len(split.train)
    parts = [open_arrow(path) if path.suffix == ".arrow" else open_parquet(path) for path in paths]
    names = _names(parts[:count])
    declared = any(part.names for part in parts[:count])
    numbers = [_numbers(part, names, declared=declared) for part in parts]
    train_numbers = [number for rows in numbers[:count] for number in rows]
    if not train_numbers:
        raise BadData(f"{root}: its training split has no rows; give a dataset with images.")
    classes = names or numbered(root, train_numbers)

    def entries(name: str, places: range) -> list[ImageEntry]:
        start = [name] if split.has_splits else []
        return [
            ImageEntry(
                "/".join([*start, classes[label] if label < len(classes) else str(label), parts[place].name(row)]), label, 0, place, row
            )
            for place in places
            for row, label in enumerate(numbers[place])
        ]

    train = entries("train", range(count))
    val = entries("val", range(count, len(paths))) if split.val else None
    check_classes(root, classes, train, val)
    return Collection(root, classes, train, val, lambda wanted, scratch: reader(root, paths, parts, wanted, scratch), relative)


def _saved_apart(root: Path) -> list[str]:
    """Folders that ``save_to_disk`` wrote and that are named after a split."""
    return [name for name in scan.folders(root) if split_of(name) and (root / name / METADATA[1]).is_file()]


def _parquet(root: Path, skipped: Skipped | None = None) -> list[str]:
    """Parquet files, and folders of them named after a split (ending in a slash), in the dataset's folder or else in its ``data``."""
    for under in ("", "data/"):
        folder = root / under
        if folder.is_dir():
            files = scan.files_in(folder, PARQUET, skipped)
            folders = [name for name in scan.folders(folder) if split_of(name) and _holds_parquet(folder / name)]
            if files or any(split_of(name) == "train" for name in folders):
                return [*(f"{under}{name}" for name in files), *(f"{under}{name}/" for name in folders)]
    return []


def _holds_parquet(folder: Path) -> bool:
    """Whether the first data file below a folder is a parquet file and not an image."""
    return _first(folder).endswith(PARQUET)


def _first(folder: Path) -> str:
    """The first parquet file or image below a folder, in lower case; empty when there is none."""
    return scan.first_file(folder, PARQUET + SUFFIXES).lower()


def _split(root: Path, skipped: Skipped) -> Files:
    """Data files for training and for validation."""
    check_links(root)
    if (root / METADATA[0]).is_file():
        names = _json(root / METADATA[0]).get("splits", [])
        if not isinstance(names, list) or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise BadData(f"{root / METADATA[0]}: does not list the splits; save the dataset again.")
        if not any(split_of(name) == "train" for name in names):
            raise BadData(f"{root}: has the splits {', '.join(names) or 'none'}; a split 'train' is needed.")
    elif (root / METADATA[1]).is_file():
        return Files(_saved(root, ""), [], False)
    else:
        names = _saved_apart(root)
    if names:
        chosen = choose_splits(root, names, skipped, single=True)
        assert chosen is not None  # some name stands for a split
        train, val = ([file for name in part for file in _saved(root, name)] for part in chosen)
        return Files(train, val, True)
    by_name = {name.rstrip("/").rpartition("/")[2]: name for name in _parquet(root, skipped)}
    parent = next(iter(by_name.values())).rstrip("/").rpartition("/")[0]
    check_links(root / parent)
    unsplit = [name for name in scan.folders(root / parent) if not split_of(name) and _holds_parquet(root / parent / name)]
    chosen = choose_splits(
        root, [*by_name, *unsplit], skipped, single=all(name.endswith("/") for name in by_name.values() if split_of(name))
    )
    if chosen is None:
        skipped.others += unsplit
        return Files([scan.stat_file(root, name) for name in by_name.values()], [], False)

    def data_files(name: str) -> list[ListedFile]:
        path = by_name[name]
        return sorted(scan.walk(root, path.rstrip("/"), PARQUET, skipped)) if path.endswith("/") else [scan.stat_file(root, path)]

    train, val = ([file for name in part for file in data_files(name)] for part in chosen)
    return Files(train, val, True)


def _saved(root: Path, split: str) -> list[ListedFile]:
    """The arrow files that ``save_to_disk`` lists for one split."""
    directory = root / split
    state = _json(directory / METADATA[1])
    if any(value for key, value in state.items() if key.startswith("_indices")):
        raise BadData(f"{directory}: is a selection of rows that was not flattened; call flatten_indices() before save_to_disk().")
    try:
        names = [Path(entry["filename"]).name for entry in state["_data_files"]]
    except (KeyError, TypeError):
        names = []
    absent = [directory / name for name in names if not (directory / name).is_file()]
    if absent or not names:
        raise BadData(f"{absent[0] if absent else directory / METADATA[1]}: is missing or lists no data; save the dataset again.")
    return [scan.stat_file(root, f"{split}/{name}" if split else name) for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path, JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(f"{path}: cannot be read ({reason(error)}); save the dataset again.") from None
    return content if isinstance(content, dict) else {}


def _names(parts: Sequence[DatasetFile]) -> tuple[str, ...]:
    """Names of the training classes: in the order of the first file that declares them, then those only in other files, then labels that
    are strings, sorted. Empty if the labels are numbers without names."""
    texts = sorted({value for part in parts for value in part.labels if isinstance(value, str)})
    declared = list(dict.fromkeys(part.names for part in parts if part.names))
    if len(declared) == 1 and not texts:
        return declared[0]
    return tuple(dict.fromkeys([*(name for names in declared for name in names), *texts]))


def _numbers(part: DatasetFile, classes: Sequence[str], *, declared: bool) -> list[int]:
    """Labels of a file as numbers of the training classes, matched by name if the file has names.

    Raises BadData at the first label that is missing, out of range, or of a class without training images. ``declared``: whether the data
    set itself numbers the training classes."""
    class_names = part.names or ()
    direct = class_names == classes if class_names else declared or not classes
    known = {name: number for number, name in enumerate(classes)}
    if not direct and (len(known) < len(classes) or len(set(class_names)) < len(class_names)):
        raise BadData(f"{part.file}: two classes have the same name, so labels cannot be matched by name; give each class its own name.")
    if declared and not class_names and any(isinstance(value, int) for value in part.labels):
        tell_once(f"data: {part.file}: has no class names; its labels are assumed to number the classes as the training images do.")
    limit = len(class_names or classes) or None

    def name_of(value: Any) -> str:
        return class_names[value] if class_names and isinstance(value, int) and 0 <= value < len(class_names) else str(value)

    numbers = []
    for row, value in enumerate(part.labels):
        if value is None or value == -1:
            raise BadData(f"{part.file}: row {row} has no label ({value!r}); correct or remove it, or {UNLABELLED}.")
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise BadData(f"{part.file}: row {row} has label {value!r}; labels are names, or whole numbers from 0.")
        if isinstance(value, int) and (value < 0 or (limit and (class_names or direct) and value >= limit)):
            raise BadData(f"{part.file}: row {row} has label {value!r}; labels are whole numbers from 0 below the number of classes.")
        if isinstance(value, int) and direct:
            numbers.append(value)
        elif (name := name_of(value)) in known:
            numbers.append(known[name])
        else:
            unknown = {name_of(label) for label in part.labels} - known.keys()
            if not classes:
                raise BadData(
                    f"{part.file}: its classes have names ({examples(sorted(unknown), MAX_NAMES)}), "
                    "and the training images have only numbers; give both splits the same class names."
                )
            raise unknown_classes(str(part.file), unknown, classes)
    return numbers
