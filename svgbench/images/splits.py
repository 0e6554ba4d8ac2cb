"""Recognises training, validation and test splits by name, for folders, shards, parquet files and dense sets. No torch.

A name is divided into words at characters that are not letters and between a lower-case and an upper-case letter. ``ILSVRC2012_img_train``
is for training; ``portrait-000.tar``, ``medieval`` and ``trainval`` are in no split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from svgbench.errors import BadData
from svgbench.images.scan import Skipped, is_broken_link

Split = Literal["train", "val", "test"]
WORDS: dict[str, Split] = {
    "train": "train", "training": "train", "trainset": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val", "valset": "val", "validset": "val", "dev": "val",
    "test": "test", "testing": "test", "testset": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Words in a file or folder name, in lower case -> the split that they stand for."""


class Chosen(NamedTuple):
    """Names (folders or files) of the training and of the validation split."""

    train: list[str]
    val: list[str]
    """Empty if there is no validation split."""


def split_of(name: str) -> Split | None:
    """The split that a name stands for; None when it stands for none or for two."""
    splits = {WORDS[word] for word in _words(name)}
    return splits.pop() if len(splits) == 1 else None


def is_bare(name: str) -> bool:
    """Whether a name is only the word for a split: ``Train`` or ``train2017``, not ``train_station``."""
    return re.sub(r"[\W\d_]+", "", name).lower() in WORDS


def choose_splits(place: Path, names: Iterable[str], skipped: Skipped, *, single: bool = False) -> Chosen | None:
    """The names of each split; None when no name stands for a split.

    Without a validation split the test split is used for validation; ``skipped`` records this and the names left out. Raises BadData when
    no name is for training, or when two names stand for the same split (always if ``single``, else if they use different words for it).
    """
    by_split: dict[Split | None, list[str]] = {}
    names = list(names)
    skipped.notes += _incomplete(names)
    for name in names:
        by_split.setdefault(split_of(name), []).append(name)
    train, val, test = (sorted(by_split.get(split, [])) for split in ("train", "val", "test"))
    if not (train or val or test):
        return None
    if not train:
        raise BadData(
            f"{place}: has validation or test images ({', '.join((val or test)[:2])}), but no name contains 'train'; "
            "rename the training images so that it does."
        )
    validation = val or test
    for group in (train, validation):
        second = next((name for name in group[1:] if single or _words(name) != _words(group[0])), None)
        if second is not None:
            first = group[0]
            raise BadData(
                f"{place}: '{first}' and '{second}' are both named like the {split_of(first)} split; remove or rename one of them."
            )
    if test and not val:
        skipped.notes.append(f"there is no validation split, so the test split ({test[0]}) is used for validation")
    if not validation:
        skipped.notes.append("there is no validation split, so a share of each class of the training images is held out")
    skipped.others += [*(test if val else []), *by_split.get(None, [])]
    return Chosen(train, validation)


def check_links(place: Path) -> None:
    """Raises BadData for a broken link named after a split (perhaps a disk that is not mounted): ignoring it would change the splits."""
    broken = sorted(path.name for path in place.iterdir() if split_of(path.name) and is_broken_link(path))
    if broken:
        raise BadData(f"{place / broken[0]}: is a broken symbolic link; mount what it points to, or remove it.")


def _incomplete(names: Iterable[str]) -> list[str]:
    """A note for each incomplete group of files (``train-00000-of-00004.parquet``)."""
    groups: dict[tuple[str, str], set[str]] = {}
    for name in names:
        if part := re.search(r"^(.*?)(\d+)-of-(\d+)(?!\d)", name):
            groups.setdefault((part[1], part[3]), set()).add(part[2])
    return [
        f"{len(numbers)} of the {int(total)} files {start}*-of-{total} {'is' if len(numbers) == 1 else 'are'} here"
        for (start, total), numbers in groups.items()
        if len(numbers) < int(total)
    ]


def _words(name: str) -> list[str]:
    """The words in a name that stand for a split."""
    words = []
    for part in re.findall(r"[^\W\d_]+", name):
        parts = [part] if part.lower() in WORDS else re.sub(r"([^A-Z])([A-Z])", r"\1 \2", part).split()
        words += [word for one in parts if (word := one.lower()) in WORDS]
    return words
