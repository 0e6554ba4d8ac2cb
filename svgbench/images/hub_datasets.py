"""Hugging Face datasets as a source of images: what ``save_to_disk`` wrote, or a folder of the hub's parquet files. No torch.

Read with pyarrow (extra ``data``), which writes these files: the package ``datasets`` would copy parquet files to a cache first. The image
column is the first of the feature ``Image`` (else ``image``), a struct of ``bytes`` and ``path`` or plain bytes; a ``path`` without bytes
names a file in the dataset's folder, from which it counts when it is relative, and no other. The label column is the first
``ClassLabel`` (else ``label``), numbers or strings. Each file's labels are understood by its own class names, so splits and files that
number the classes differently are brought together. Splits are found by the words of their names; without a validation or test split a
share of each class is held out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svgbench.errors import BadData
from svgbench.images import scan
from svgbench.images.decode import reason
from svgbench.images.hub_files import Part, open_arrow, open_parquet, reader
from svgbench.images.listing import LISTED, SUFFIXES, UNLABELLED, Collection, Entry, Files, check_classes, numbered, unknown_classes
from svgbench.images.scan import Found, Passed, named
from svgbench.images.splits import check_links, choose_splits, split_of
from svgbench.machine.files import read_regular
from svgbench.machine.progress import tell_once

PARQUET = (".parquet",)
ABOUT = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` writes beside the splits, or beside the data of one."""
JSON_BYTES = 1 << 26
"""A longer JSON file is none of a dataset's."""


def holds(root: Path) -> bool:
    """Whether a directory is such a dataset."""
    apart = any(split_of(name) == "train" for name in _saved_apart(root))
    if apart or any((root / name).is_file() for name in ABOUT):
        return True
    found = _parquet(root)
    beside = [name for name in scan.folders(root) if split_of(name) == "train"]  # of images, that a table lies beside
    return any(split_of(name) for name in found) or (bool(found) and not any(_first(root / name).endswith(SUFFIXES) for name in beside))


def files(root: Path, passed: Passed) -> tuple[Path, list[Found]]:
    """The folder that paths count from, the data files, those that say which they are, and image files, which rows may name."""
    split = _split(root, passed)
    data = [*split.train, *split.val]
    about = {f"{folder}/{name}".lstrip("/") for folder in ("", *(f.path.rpartition("/")[0] for f in data)) for name in ABOUT}
    about_files = [scan.stamped(root, name) for name in sorted(about) if (root / name).is_file()]
    return root, [*data, *about_files, *scan.walk(root, "", SUFFIXES, Passed(), links=False)]


def collect(root: Path) -> Collection:
    """The images of a dataset, by its label column and its images' names; no image is read."""
    split = _split(root, Passed())
    relative = tuple(file.path for file in (*split.train, *split.val))
    paths, count = [root / path for path in relative], len(split.train)
    parts = [open_arrow(path) if path.suffix == ".arrow" else open_parquet(path) for path in paths]
    names = _names(parts[:count])
    declared = any(part.names for part in parts[:count])
    numbers = [_numbers(part, names, declared=declared) for part in parts]
    train_numbers = [number for rows in numbers[:count] for number in rows]
    if not train_numbers:
        raise BadData(f"{root}: its training split holds no rows; give a dataset with images.")
    classes = names or numbered(root, train_numbers)

    def entries(name: str, places: range) -> list[Entry]:
        start = [name] if split.named else []
        return [
            Entry("/".join([*start, classes[label] if label < len(classes) else str(label), parts[place].name(row)]), label, 0, place, row)
            for place in places
            for row, label in enumerate(numbers[place])
        ]

    train = entries("train", range(count))
    val = entries("val", range(count, len(paths))) if split.val else None
    check_classes(root, classes, train, val)
    return Collection(root, classes, train, val, lambda wanted, scratch: reader(root, paths, parts, wanted, scratch), relative)


def _saved_apart(root: Path) -> list[str]:
    """Folders whose names mean a split and in which ``save_to_disk`` left one."""
    return [name for name in scan.folders(root) if split_of(name) and (root / name / ABOUT[1]).is_file()]


def _parquet(root: Path, passed: Passed | None = None) -> list[str]:
    """Parquet files, and folders of them whose names mean a split (with a slash behind): of a dataset's folder, else of its ``data``."""
    for under in ("", "data/"):
        inner = root / under
        if inner.is_dir():
            files = scan.own(inner, PARQUET, passed)
            folders = [name for name in scan.folders(inner) if split_of(name) and _holds_parquet(inner / name)]
            if files or any(split_of(name) == "train" for name in folders):
                return [*(f"{under}{name}" for name in files), *(f"{under}{name}/" for name in folders)]
    return []


def _holds_parquet(folder: Path) -> bool:
    """Whether the first data file below a folder is a parquet file and not an image."""
    return _first(folder).endswith(PARQUET)


def _first(folder: Path) -> str:
    """The first parquet file or image below a folder, in lower case; empty when there is none."""
    return scan.first(folder, PARQUET + SUFFIXES).lower()


def _split(root: Path, passed: Passed) -> Files:
    """Data files for training and for validation."""
    check_links(root)
    if (root / ABOUT[0]).is_file():
        names = _json(root / ABOUT[0]).get("splits", [])
        if not isinstance(names, list) or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise BadData(f"{root / ABOUT[0]}: lists no splits; save the dataset again.")
        if not any(split_of(name) == "train" for name in names):
            raise BadData(f"{root}: has the splits {', '.join(names) or 'none'}; a split 'train' is needed.")
    elif (root / ABOUT[1]).is_file():
        return Files(_saved(root, ""), [], False)
    else:
        names = _saved_apart(root)
    if names:
        chosen = choose_splits(root, names, passed, single=True)
        return Files(*([file for name in part for file in _saved(root, name)] for part in chosen or ()), True)
    of = {name.rstrip("/").rpartition("/")[2]: name for name in _parquet(root, passed)}
    place = next(iter(of.values())).rstrip("/").rpartition("/")[0]
    check_links(root / place)
    beside = [name for name in scan.folders(root / place) if not split_of(name) and _holds_parquet(root / place / name)]
    chosen = choose_splits(root, [*of, *beside], passed, single=all(name.endswith("/") for name in of.values() if split_of(name)))
    if chosen is None:
        passed.others += beside
        return Files([scan.stamped(root, name) for name in of.values()], [], False)

    def found(name: str) -> list[Found]:
        path = of[name]
        return sorted(scan.walk(root, path.rstrip("/"), PARQUET, passed)) if path.endswith("/") else [scan.stamped(root, path)]

    return Files(*([file for name in part for file in found(name)] for part in chosen), True)


def _saved(root: Path, split: str) -> list[Found]:
    """The arrow files that ``save_to_disk`` lists for one split."""
    directory = root / split
    state = _json(directory / ABOUT[1])
    if any(value for key, value in state.items() if key.startswith("_indices")):
        raise BadData(f"{directory}: holds a selection of rows that was not flattened; call flatten_indices() before save_to_disk().")
    try:
        names = [Path(entry["filename"]).name for entry in state["_data_files"]]
    except (KeyError, TypeError):
        names = []
    absent = [directory / name for name in names if not (directory / name).is_file()]
    if absent or not names:
        raise BadData(f"{absent[0] if absent else directory / ABOUT[1]}: is missing or lists no data; save the dataset again.")
    return [scan.stamped(root, f"{split}/{name}" if split else name) for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path, JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(f"{path}: cannot be read ({reason(error)}); save the dataset again.") from None
    return content if isinstance(content, dict) else {}


def _names(parts: Sequence[Part]) -> tuple[str, ...]:
    """The names of the training classes: in the order of the first file that has them, then those that only others have; strings that are
    labels themselves by the alphabet. Empty where labels are numbers without names."""
    texts = sorted({value for part in parts for value in part.labels if isinstance(value, str)})
    declared = list(dict.fromkeys(part.names for part in parts if part.names))
    if len(declared) == 1 and not texts:
        return declared[0]
    return tuple(dict.fromkeys([*(name for names in declared for name in names), *texts]))


def _numbers(part: Part, classes: Sequence[str], *, declared: bool) -> list[int]:
    """Labels as numbers of the training classes, by name where the file has names; BadData at the first that is absent, out of range, or of
    a class that training does not have. ``declared``: the numbers of the training classes are the data set's own."""
    own = part.names or ()
    direct = own == classes if own else declared or not classes
    known = {name: number for number, name in enumerate(classes)}
    if not direct and (len(known) < len(classes) or len(set(own)) < len(own)):
        raise BadData(f"{part.file}: two classes have one name, so labels cannot be compared by name; give each class its own name.")
    if declared and not own and any(isinstance(value, int) for value in part.labels):
        tell_once(f"data: {part.file}: has no class names, so its labels are taken for the numbers that the training images use.")
    most = len(own or classes) or None

    def name_of(value: Any) -> str:
        return own[value] if own and isinstance(value, int) and 0 <= value < len(own) else str(value)

    found = []
    for row, value in enumerate(part.labels):
        if value is None or value == -1:
            raise BadData(f"{part.file}: row {row} has no label ({value!r}); correct or remove it, or {UNLABELLED}.")
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise BadData(f"{part.file}: row {row} has label {value!r}; labels are names, or whole numbers from 0.")
        if isinstance(value, int) and (value < 0 or (most and (own or direct) and value >= most)):
            raise BadData(f"{part.file}: row {row} has label {value!r}; labels are whole numbers from 0 below the number of classes.")
        if isinstance(value, int) and direct:
            found.append(value)
        elif (name := name_of(value)) in known:
            found.append(known[name])
        else:
            strange = {name_of(one) for one in part.labels} - known.keys()
            if not classes:
                raise BadData(
                    f"{part.file}: its classes have names ({named(sorted(strange), LISTED)}), and the training images have numbers alone; "
                    "give both splits the same class names."
                )
            raise unknown_classes(str(part.file), strange, classes)
    return found
