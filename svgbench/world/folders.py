"""A folder of class folders as a list of images, and the ADM centre crop. No torch.

``DIR/class/*.jpg`` (a share of each class is held out), or ``DIR/train/class/*`` with ``DIR/val/class/*``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from svgbench.config.schema import Data
from svgbench.errors import BadData

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
"""What is taken for an image, in lower case."""
UNREADABLE_SHARE = 0.01
"""More unreadable images than this share is an error: the numbers would be of another data set."""


class Entry(NamedTuple):
    """One image: path below the folder with forward slashes, class number, bytes."""

    path: str
    label: int
    size: int


@dataclass(frozen=True)
class Listing:
    """The images of a folder; in both splits labels walk the classes in turn, so that every beginning is balanced."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[Entry, ...]
    val: tuple[Entry, ...]


def list_folder(data: Data) -> Listing:
    """The images ``data`` asks for; BadData when the folder is missing, empty, of one class or too small."""
    root, train_root, val_root = _roots(data.source)
    classes = tuple(sorted(name for name in _folders(train_root)))
    train = _images(root, train_root, classes)
    if not train:
        raise BadData(f"{train_root}: holds no images below class folders; give a folder like DIR/class/image.jpg ({', '.join(SUFFIXES)}).")
    full = {entry.label for entry in train}
    if len(full) < len(classes):
        empty = next(name for number, name in enumerate(classes) if number not in full)
        raise BadData(f"{train_root / empty}: holds no images; remove the folder or fill it.")
    if len(classes) < 2:
        raise BadData(f"{train_root}: holds one class, '{classes[0]}', and two are needed; give the folder above your class folders.")
    if val_root is None:
        train, val = _hold_out(train, share=data.val_share, seed=data.seed)
    else:
        strange = sorted(set(_folders(val_root)) - set(classes))
        if strange:
            raise BadData(f"{val_root / strange[0]}: is a class that {train_root} does not have; give both the same class folders.")
        val = _images(root, val_root, classes)
    if not val or not train:
        raise BadData(f"{root}: leaves {len(train)} training and {len(val)} validation images; add images or change data.val_share.")
    return Listing(
        root,
        classes,
        _limited(train, data.train_images, seed=data.seed, field="data.train_images", root=root),
        _limited(val, data.val_images, seed=data.seed, field="data.val_images", root=root),
    )


def identity(data: Data) -> str:
    """Digest of what the source holds: relative paths and sizes of a folder's files, some drawn images of ``shapes``."""
    digest = hashlib.sha256()
    if data.source == "shapes":
        from svgbench.world import shapes

        drawn = shapes.draw(np.arange(2 * len(shapes.CLASSES)), seed=0, resolution=32, split="train")
        for array in drawn[:3]:
            digest.update(np.ascontiguousarray(array).tobytes())
    else:
        root, train_root, val_root = _roots(data.source)
        for split in (train_root, val_root):
            if split is not None:
                entries = _images(root, split, tuple(sorted(_folders(split))))
                digest.update("".join(f"{e.path}\0{e.size}\n" for e in sorted(entries)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def centre_crop(image: Image.Image, resolution: int) -> np.ndarray:
    """ADM's crop, uint8 [H, W, 3]: halve by boxes while the short side is twice too long, bicubic to ``resolution``, cut the middle.

    The protocol of guided-diffusion, DiT and SiT; EXIF rotation is not applied there, so it is not here.
    """
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), resample=Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), resample=Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - resolution) // 2, (pixels.shape[1] - resolution) // 2
    return pixels[top : top + resolution, left : left + resolution]


def read_image(path: Path, resolution: int) -> np.ndarray | str:
    """The cropped image uint8 [3, H, W], or in words why it cannot be read."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16-bit grey: PIL's own conversion would clip it to white
                grey = np.asarray(image).astype(np.int64)
                image_rgb = Image.fromarray((grey >> 8 if grey.max() > 255 else grey).clip(0, 255).astype(np.uint8)).convert("RGB")
            else:
                image_rgb = image.convert("RGB")
        return np.ascontiguousarray(centre_crop(image_rgb, resolution).transpose(2, 0, 1))
    except Image.DecompressionBombError:
        return "has more pixels than any photograph"
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, MemoryError) as error:  # PIL raises them on bad bytes
        if isinstance(error, FileNotFoundError):
            return "has vanished"
        return str(error).replace(f" {str(path)!r}", "").splitlines()[0][:120] if str(error) else type(error).__name__


def _roots(source: str) -> tuple[Path, Path, Path | None]:
    """The folder, where its training classes are, and where its validation classes are if it has its own."""
    root = Path(source).expanduser()
    if not root.exists():
        raise BadData(f"{root} does not exist; give --data a folder of class folders, or 'shapes'.")
    if not root.is_dir():
        raise BadData(f"{root} is a file; give --data a folder of class folders, or 'shapes'.")
    try:
        names = set(_folders(root))
    except OSError as error:
        raise BadData(f"{root} cannot be read ({error.strerror}); give --data another folder.") from None
    if not names:
        raise BadData(f"{root}: holds no class folders; give a folder like DIR/class/image.jpg, or 'shapes'.")
    if "train" in names and _folders(root / "train"):
        return root, root / "train", root / "val" if "val" in names else None
    return root, root, None


def _folders(directory: Path) -> list[str]:
    """Names of the folders in a directory, hidden ones left out."""
    return [entry.name for entry in os.scandir(directory) if entry.is_dir() and not entry.name.startswith(".")]


def _images(root: Path, split: Path, classes: Sequence[str]) -> list[Entry]:
    """All images below the class folders of a split, in order of label and path."""
    found = []
    for label, name in enumerate(classes):
        for place, folders, files in os.walk(split / name):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for file in files:
                if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                    path = os.path.join(place, file)
                    size = os.stat(path).st_size if os.path.exists(path) else 0  # a dangling link is listed, then named as unreadable
                    found.append(Entry(Path(path).relative_to(root).as_posix(), label, size))
    return sorted(found, key=lambda entry: (entry.label, entry.path))


def _hold_out(entries: Iterable[Entry], *, share: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Training and validation images: of each class the ``share`` whose paths hash lowest, and at least one of two or more."""
    train: list[Entry] = []
    val: list[Entry] = []
    for group in _by_class(entries, seed=seed):
        count = min(max(round(share * len(group)), 1), len(group) - 1)
        val += group[:count]
        train += group[count:]
    return train, val


def _limited(entries: Sequence[Entry], most: int | None, *, seed: int, field: str, root: Path) -> tuple[Entry, ...]:
    """``most`` images (all when None), one class after the other in turn, in an order fixed by the hash of the path."""
    if most is not None and most > len(entries):
        raise BadData(f"{root}: has {len(entries)} images for {field}, which asks for {most}; lower it or leave it empty.")
    groups = _by_class(entries, seed=seed)
    ranked = sorted((place, number) for number, group in enumerate(groups) for place in range(len(group)))
    return tuple(groups[number][place] for place, number in ranked[:most])


def _by_class(entries: Iterable[Entry], *, seed: int) -> list[list[Entry]]:
    """The entries of each class, by the hash of seed and path."""
    groups: dict[int, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.label, []).append(entry)
    return [sorted(groups[label], key=lambda e: _rank(e.path, seed)) for label in sorted(groups)]


def _rank(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{path}".encode("utf-8", "surrogateescape")).digest()
