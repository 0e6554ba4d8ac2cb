"""Sets of images that were made elsewhere: a folder of image files, or an ``.npz`` as the ADM evaluator reads and papers publish it.

Protocol: pixels as they are, never resized and never rounded: both are part of how images were made, so a set of several sizes and images
in floats are refused. What a set cannot tell: which labels it was made for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svgbench.errors import BadData, NumericalError
from svgbench.images.decode import UNREADABLE, open_image, reason, to_rgb
from svgbench.images.listing import SUFFIXES
from svgbench.images.scan import Skipped, walk
from svgbench.machine.files import sha256_of
from svgbench.machine.progress import tell_once
from svgbench.metrics.npz import IMAGES, stored


class ImageFiles:
    """The image files below a folder in the order of their paths (the first ``most``), all of one size; linked folders are followed, and
    what is skipped is reported."""

    def __init__(self, folder: Path, most: int | None = None) -> None:
        skipped = Skipped()
        self.paths = sorted(folder / file.path for file in walk(folder, "", SUFFIXES, skipped))[:most]
        if sentence := skipped.sentence(folder):
            tell_once(sentence)
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
            with open_image(path) as image:
                return image.size
        except UNREADABLE as error:
            raise BadData(f"{path}: cannot be read as an image ({reason(error)}); remove it or make it again.") from None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """One image, uint8 [3, H, W]."""
        try:
            with open_image(self.paths[index]) as image:
                return np.ascontiguousarray(np.asarray(to_rgb(image)).transpose(2, 0, 1))
        except UNREADABLE as error:
            raise BadData(f"{self.paths[index]}: cannot be read as an image ({reason(error)}); remove it or make it again.") from None

    def batch(self, indices: Iterable[int]) -> Tensor:
        """uint8 [B, 3, H, W]; files are decoded side by side."""
        with ThreadPoolExecutor() as pool:
            return torch.from_numpy(np.stack(list(pool.map(self.__getitem__, map(int, indices)))))

    def digest(self) -> str:
        """sha256 of the files' contents in order."""
        whole = hashlib.sha256()
        for path in self.paths:
            whole.update(bytes.fromhex(sha256_of(path)))
        return whole.hexdigest()


class ImageArray:
    """The images ``arr_0`` (the first ``most``) of an ``.npz``, read where they lie when the file stores them as they are, as numpy's
    ``savez`` does."""

    def __init__(self, path: Path, most: int | None = None) -> None:
        self.path = path
        found = stored(path, IMAGES)
        shape, kind = found.shape, found.dtype
        if kind.kind == "f" and not all(np.isfinite(part).all() for part in np.atleast_1d(found)):
            raise NumericalError(f"{path}: {IMAGES} holds NaN or infinity; look at the model that made the images.")
        if kind != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise BadData(f"{path}: {IMAGES} is {kind} {list(shape)}; save images as uint8 [N, H, W, 3], rounded by those who made them.")
        self._images = found[:most]
        self.shape, self.dtype = (len(self._images), 3, shape[1], shape[2]), kind

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


def open_set(path: Path, most: int | None = None) -> ImageFiles | ImageArray:
    """The images of a folder or of an ``.npz``, or the first ``most`` of them."""
    if path.is_dir():
        return ImageFiles(path, most)
    if not path.exists():
        raise BadData(f"{path} does not exist; give a folder of images or an .npz.")
    if not path.is_file():
        raise BadData(f"{path} is not a regular file; give a folder of images or an .npz.")
    return ImageArray(path, most)
