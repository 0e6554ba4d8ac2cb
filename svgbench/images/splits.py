"""Which names mean the training, the validation or the test split: one rule for folders, shards, parquet files and dense sets. No torch.

A name is split into words at whatever is no letter and where a small letter meets a capital: ``ILSVRC2012_img_train`` is for training,
``portrait-000.tar``, ``medieval`` and ``trainval`` are in no split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from svgbench.errors import BadData
from svgbench.images.scan import Passed, is_broken_link

Split = Literal["train", "val", "test"]
WORDS: dict[str, Split] = {
    "train": "train", "training": "train", "trainset": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val", "valset": "val", "validset": "val", "dev": "val",
    "test": "test", "testing": "test", "testset": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Words that name a split, in lower case."""


class Chosen(NamedTuple):
    """The names of the training and of the validation split."""

    train: list[str]
    val: list[str]
    """Empty where there is no validation split."""


def split_of(name: str) -> Split | None:
    """The split that a name means; None when it names none, or two."""
    found = {WORDS[word] for word in _words(name)}
    return found.pop() if len(found) == 1 else None


def is_bare(name: str) -> bool:
    """Whether a name is nothing but the word of a split: ``Train`` or ``train2017``, not ``train_station``."""
    return re.sub(r"[\W\d_]+", "", name).lower() in WORDS


def choose_splits(place: Path, names: Iterable[str], passed: Passed, *, single: bool = False) -> Chosen | None:
    """The names of each split; None when no name means a split. Without a validation split the test split is used for validation;
    ``passed`` notes that and what is left out. BadData when two names mean one split (``single``: when each name is a whole split;
    else when they mean it by different words), or when none is for training."""
    by_split: dict[Split | None, list[str]] = {}
    names = list(names)
    passed.notes += _incomplete(names)
    for name in names:
        by_split.setdefault(split_of(name), []).append(name)
    train, val, test = (sorted(by_split.get(split, [])) for split in ("train", "val", "test"))  # type: ignore[arg-type]
    if not (train or val or test):
        return None
    if not train:
        raise BadData(
            f"{place}: holds validation or test images ({', '.join((val or test)[:2])}) and none with 'train' in its name; "
            "name the training images so."
        )
    held = val or test
    for group in (train, held):
        other = next((name for name in group[1:] if single or _words(name) != _words(group[0])), None)
        if other is not None:
            one = group[0]
            raise BadData(f"{place}: '{one}' and '{other}' both mean the {split_of(one)} split; remove or rename one of them.")
    if test and not val:
        passed.notes.append(f"there is no validation split, so the test split ({test[0]}) is used for validation")
    if not held:
        passed.notes.append("there is no validation split, so a share of each class of the training images is held out")
    passed.others += [*(test if val else []), *by_split.get(None, [])]
    return Chosen(train, held)


def check_links(place: Path) -> None:
    """BadData when a link whose name means a split is broken (a disk that is not mounted): without it the splits would be others."""
    lost = sorted(path.name for path in place.iterdir() if split_of(path.name) and is_broken_link(path))
    if lost:
        raise BadData(f"{place / lost[0]}: is a broken symbolic link; mount what it points to, or remove it.")


def _incomplete(names: Iterable[str]) -> list[str]:
    """A note for each group of files (``train-00000-of-00004.parquet``) of which some are absent."""
    here: dict[tuple[str, str], set[str]] = {}
    for name in names:
        if part := re.search(r"^(.*?)(\d+)-of-(\d+)(?!\d)", name):
            here.setdefault((part[1], part[3]), set()).add(part[2])
    return [
        f"{len(found)} of the {int(total)} files {start}*-of-{total} {'is' if len(found) == 1 else 'are'} here"
        for (start, total), found in here.items()
        if len(found) < int(total)
    ]


def _words(name: str) -> list[str]:
    """The words of a name that mean a split."""
    found = []
    for part in re.findall(r"[^\W\d_]+", name):
        parts = [part] if part.lower() in WORDS else re.sub(r"([^A-Z])([A-Z])", r"\1 \2", part).split()
        found += [word for one in parts if (word := one.lower()) in WORDS]
    return found
