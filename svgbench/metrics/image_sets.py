"""Sets of images that were made elsewhere: a folder of image files, or an ``.npz`` as the ADM evaluator reads and papers publish it.

Protocol: pixels as they are, never resized: a resize is part of how images were made, and a set of several sizes is refused. An ``.npz``
holds uint8 images [N, H, W, 3] under ``arr_0``; where it also holds ``mu`` and ``sigma`` it is a reference by those statistics, and the
images beside them (10,000 in ADM's files) are not what the statistics are of. What a set cannot tell: which labels it was made for.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from svgbench.errors import BadData
from svgbench.world.files import sha256_of
from svgbench.world.listing import SUFFIXES

IMAGES = "arr_0"
STATISTICS = ("mu", "sigma")


class ImageFiles:
    """The image files below a folder in the order of their paths, all of one size."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not self.paths:
            raise BadData(f"{folder}: holds no images ({', '.join(SUFFIXES)}); give a folder of image files or an .npz.")
        first: dict[tuple[int, int], Path] = {}
        for path in self.paths:
            first.setdefault(self._size(path), path)
        if len(first) > 1:
            (one, a), (other, b) = list(first.items())[:2]
            raise BadData(
                f"{folder}: images of {len(first)} sizes ({a.name} is {one[0]} x {one[1]} px, {b.name} {other[0]} x {other[1]}); "
                "bring them to one size first, because how they are resized changes the number."
            )
        (width, height), _ = next(iter(first.items()))
        self.shape, self.dtype = (len(self.paths), 3, height, width), np.dtype(np.uint8)

    @staticmethod
    def _size(path: Path) -> tuple[int, int]:
        try:
            with Image.open(path) as image:
                return image.size
        except (UnidentifiedImageError, OSError) as error:
            raise BadData(f"{path}: cannot be read as an image ({_line(error)}); remove it or make it again.") from None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """One image, uint8 [3, H, W]."""
        try:
            with Image.open(self.paths[index]) as image:
                return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        except OSError as error:
            raise BadData(f"{self.paths[index]}: cannot be read as an image ({_line(error)}); remove it or make it again.") from None

    def batch(self, indices: Iterable[int]) -> Tensor:
        """uint8 [B, 3, H, W]."""
        return torch.from_numpy(np.stack([self[int(i)] for i in indices]))

    def digest(self) -> str:
        """sha256 of the files' contents in order."""
        whole = hashlib.sha256()
        for path in self.paths:
            whole.update(bytes.fromhex(sha256_of(path)))
        return whole.hexdigest()


class ImageArray:
    """The images ``arr_0`` of an ``.npz``, read where they lie when the file stores them as they are (numpy's ``savez`` does)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._images = stored(path, IMAGES)
        shape, kind = self._images.shape, self._images.dtype
        if kind != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise BadData(f"{path}: {IMAGES} is {kind} {list(shape)}; images are uint8 [N, H, W, 3].")
        self.shape, self.dtype = (shape[0], 3, shape[1], shape[2]), kind

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> np.ndarray:
        """One image, uint8 [3, H, W]."""
        return np.ascontiguousarray(self._images[index].transpose(2, 0, 1))

    def batch(self, indices: Iterable[int]) -> Tensor:
        """uint8 [B, 3, H, W]."""
        return torch.from_numpy(np.stack([self[int(i)] for i in indices]))

    def digest(self) -> str:
        """sha256 of the file."""
        return sha256_of(self.path)


def open_set(path: Path) -> ImageFiles | ImageArray:
    """The images of a folder or of an ``.npz``."""
    if path.is_dir():
        return ImageFiles(path)
    if not path.exists():
        raise BadData(f"{path} does not exist; give a folder of images or an .npz.")
    return ImageArray(path)


def holds_statistics(path: Path) -> bool:
    """Whether an ``.npz`` is a reference by its statistics."""
    return path.is_file() and set(STATISTICS) <= set(_members(path))


def stored(path: Path, name: str) -> np.ndarray:
    """One array of an ``.npz``, mapped from the disk where it lies there uncompressed; never by pickle."""
    if name not in _members(path):
        raise BadData(f"{path}: has no array '{name}', but {', '.join(_members(path)) or 'none'}; give an .npz of images.")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            form = np.lib.format
            read_header = form.read_array_header_1_0 if form.read_magic(member) == (1, 0) else form.read_array_header_2_0
            shape, fortran, kind = read_header(member)
            header = member.tell()
            entry = archive.getinfo(f"{name}.npy")
        if kind.hasobject:
            raise BadData(f"{path}: '{name}' holds pickled objects, which could run code and are not read; save its numbers alone.")
        if entry.compress_type != zipfile.ZIP_STORED or fortran:
            with np.load(path, allow_pickle=False) as content:
                return content[name]
        with path.open("rb") as file:  # a member's local header repeats its name and may have extra fields of its own
            file.seek(entry.header_offset + 26)
            lengths = np.frombuffer(file.read(4), dtype="<u2")
        start = entry.header_offset + 30 + int(lengths.sum()) + header
        return np.memmap(path, dtype=kind, mode="r", offset=start, shape=shape)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise BadData(f"{path}: cannot be read as arrays ({_line(error)}); fetch it again.") from None


def save_npz(path: Path, images: np.ndarray) -> None:
    """Writes uint8 images [N, 3, H, W] as the ``.npz`` that the ADM evaluator reads, an image at a time, so that memory does not grow."""
    shape = (len(images), *images.shape[2:], 3)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive, archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for image in images:
            member.write(np.ascontiguousarray(np.moveaxis(np.asarray(image), 0, -1)).tobytes())


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise BadData(f"{path}: is neither a folder nor an .npz ({_line(error)}); give a folder of images or an .npz.") from None


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
