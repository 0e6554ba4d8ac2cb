"""One small set of images in every form that a source may have: class folders, shards, saved datasets, parquet."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def content(label: int, place: int, split: int = 0) -> bytes:
    """A small JPEG that no other image of the set equals."""
    rows = np.random.default_rng([label, place, split]).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rows).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def images(each: int = 6) -> dict[str, list[tuple[str, int, bytes]]]:
    """Name, label and bytes of the images of each split."""
    sizes = {"train": each, "val": 2}
    return {
        split: [(f"{split}-{c}-{i:03d}.jpg", c, content(c, i, number)) for c in range(len(CLASSES)) for i in range(sizes[split])]
        for number, split in enumerate(sizes)
    }


def as_folders(root: Path, held: dict) -> Path:
    """``train/ant/x.jpg``."""
    for split, rows in held.items():
        for name, label, data in rows:
            path = root / split / CLASSES[label] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


def write_shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar file of named contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def members_of(rows: list[tuple[str, int, bytes]], *, kind: str = "cls") -> list[tuple[str, bytes]]:
    """Images and labels as members of a shard."""
    members = []
    for name, label, data in rows:
        text = str(label) if kind == "cls" else f'{{"label": {label}}}'
        members += [(f"{name.split('.')[0]}.{kind}", text.encode()), (name, data)]
    return members


def as_shards(root: Path, held: dict, *, kind: str = "cls", names: bool = True) -> Path:
    """``set-train-0.tar`` ..., the images of a split dealt out over two shards."""
    root.mkdir(parents=True, exist_ok=True)
    for split, rows in held.items():
        for number in range(2):
            write_shard(root / f"set-{split}-{number}.tar", members_of(rows[number::2], kind=kind))
    if names:
        (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def as_datasets(held: dict):
    """A ``datasets.DatasetDict`` with the features of an image folder of the hub."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    splits = {}
    for split, rows in held.items():
        table = {"image": [{"bytes": data, "path": name} for name, _, data in rows], "label": [label for _, label, _ in rows]}
        splits["validation" if split == "val" else split] = datasets.Dataset.from_dict(table, features=features)
    return datasets.DatasetDict(splits)


def as_saved(root: Path, held: dict) -> Path:
    """What ``save_to_disk`` writes, the training images in two arrow files."""
    made = as_datasets(held)
    made.save_to_disk(str(root), num_shards={split: 2 if split == "train" else 1 for split in made})
    return root


def as_parquet(root: Path, held: dict) -> Path:
    """``data/train-00000-of-00002.parquet`` ... as the hub lays a dataset out, in groups of four rows."""
    (root / "data").mkdir(parents=True)
    for split, part in as_datasets(held).items():
        shards = 2 if split == "train" else 1
        for number in range(shards):
            place = root / "data" / f"{split}-{number:05d}-of-{shards:05d}.parquet"
            part.shard(shards, number, contiguous=True).to_parquet(str(place), batch_size=4)
    return root


FORMS = {"folders": as_folders, "shards": as_shards, "saved": as_saved, "parquet": as_parquet}
