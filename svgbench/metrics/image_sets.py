"""Image sets made by other programs: a folder, a ``.zip`` or a ``.tar`` of image files, or an array in an ``.npz`` or ``.npy``.

Protocol: pixels are used as they are: never rounded, and resized only with ``resize``. Rounding and resizing change scores, so sets with
several image sizes and float images are refused. ``resize``: ADM's centre crop to one size, which the protocol records. Archives are read
in place: nothing is unpacked to disk, links inside are left out, and sizes are checked before a member is read. ``labels`` are the folders
of the files, or the array ``arr_1`` of the file. Limit: they may differ from the labels with which the images were sampled.
"""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svgbench.config.archives import DAMAGED, LARGE, checked
from svgbench.errors import BadData, NumericalError
from svgbench.images.crop import centre_crop
from svgbench.images.decode import UNREADABLE, UnsupportedImage, check_size, open_image, reason, to_rgb
from svgbench.images.listing import SUFFIXES
from svgbench.images.scan import SYSTEM_FOLDERS, Skipped, walk
from svgbench.machine.files import open_regular, sha256_of
from svgbench.machine.progress import tell_once
from svgbench.metrics.npz import GIVE, IMAGES, LABELS, mapped, members, stored
from svgbench.metrics.resampling import chosen

COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


class GivenImages(ABC):
    """Images of one size, uint8 [3, H, W] each."""

    path: Path
    """The folder or file."""
    shape: tuple[int, int, int, int]
    """[N, 3, H, W]"""
    dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """One image, uint8 [3, H, W]. Raises BadData when it cannot be read."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 of the images' files."""

    def labels(self) -> Sequence[Hashable] | None:
        """The class of each image; None if unknown."""
        return None

    def batch(self, indices: Iterable[int]) -> Tensor:
        """uint8 [B, 3, H, W]; images are read by several threads."""
        with ThreadPoolExecutor() as pool:
            return torch.from_numpy(np.stack(list(pool.map(self.__getitem__, map(int, indices)))))


class EncodedImages(GivenImages):
    """Image files in the order of their paths, of one size or ``resize``d to one."""

    def __init__(self, path: Path, names: Sequence[str], resize: int | None) -> None:
        """``names``: the files' paths below the folder or in the archive, sorted."""
        self.path, self.names, self._resize = path, names, resize
        if not names:
            raise BadData(f"{path}: holds no images ({', '.join(SUFFIXES)}); give {GIVE}.")
        if resize is not None:
            self.shape = (len(names), 3, resize, resize)
            return
        first: dict[tuple[int, int], str] = {}
        for index, name in enumerate(names):
            first.setdefault(self._size(index), name)
        if len(first) > 1:
            (one, a), (other, b) = list(first.items())[:2]
            raise BadData(
                f"{path}: images of {len(first)} sizes ({PurePosixPath(a).name} is {one[0]} x {one[1]} px, "
                f"{PurePosixPath(b).name} {other[0]} x {other[1]}); resize them to one size first (eval --resize N does), "
                "because how they are resized changes the number."
            )
        (width, height), _ = next(iter(first.items()))
        self.shape = (len(names), 3, height, width)

    @abstractmethod
    def content(self, index: int) -> Path | bytes:
        """The file or the bytes of one image. Raises one of ``DAMAGED`` when they cannot be read."""

    def _size(self, index: int) -> tuple[int, int]:
        try:
            with open_image(self.content(index)) as image:
                return image.size
        except (*UNREADABLE, *DAMAGED) as error:
            raise self._unreadable(index, error) from None

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            with open_image(self.content(index)) as image:
                if self._resize is not None:
                    check_size(image.size, self._resize)
                picture = to_rgb(image)
                pixels = np.asarray(picture) if self._resize is None else centre_crop(picture, self._resize)
                return np.ascontiguousarray(pixels.transpose(2, 0, 1))
        except (*UNREADABLE, *DAMAGED) as error:
            raise self._unreadable(index, error) from None

    def _unreadable(self, index: int, error: Exception) -> BadData:
        return BadData(f"{self.path / self.names[index]}: cannot be read as an image ({reason(error)}); remove it or make it again.")

    def labels(self) -> Sequence[Hashable] | None:
        """The folder of each file; None if all files are in the same folder."""
        folders = [name.rpartition("/")[0] for name in self.names]
        return folders if len(set(folders)) > 1 else None

    def digest(self) -> str:
        """sha256 of the files' contents in order: a folder and an archive of the same files have the same digest."""
        whole = hashlib.sha256()
        for index in range(len(self)):
            try:
                content = self.content(index)
            except DAMAGED as error:
                raise self._unreadable(index, error) from None
            whole.update(bytes.fromhex(sha256_of(content)) if isinstance(content, Path) else hashlib.sha256(content).digest())
        return whole.hexdigest()


class ImageFiles(EncodedImages):
    """The image files below a folder; linked folders are followed, and skipped entries are reported."""

    def __init__(self, folder: Path, resize: int | None = None) -> None:
        skipped = Skipped()
        self.paths = sorted(folder / file.path for file in walk(folder, "", SUFFIXES, skipped))
        if sentence := skipped.sentence(folder):
            tell_once(sentence)
        super().__init__(folder, [path.relative_to(folder).as_posix() for path in self.paths], resize)

    def content(self, index: int) -> Path:
        """One image's file."""
        return self.paths[index]


class ZippedImages(EncodedImages):
    """The image files in a ``.zip``, read in place."""

    def __init__(self, path: Path, resize: int | None = None) -> None:
        try:
            packed = checked(path, BadData)
            self._archive = zipfile.ZipFile(path)
            listed = self._archive.namelist()
        except DAMAGED as error:
            raise BadData(f"{path}: cannot be read as a zip ({reason(error)}); fetch it again.") from None
        if twice := next((name for name in packed if listed.count(name) > 1), None) if len(listed) > len(packed) else None:
            raise BadData(f"{path}: holds two files of the name '{twice}'; make the archive again.")
        super().__init__(path, _images_among({name: member.size for name, member in packed.items()}, path), resize)

    def content(self, index: int) -> bytes:
        """One image's bytes; zipfile reads at most the size in the archive's directory."""
        return self._archive.read(self.names[index])


class TarredImages(EncodedImages):
    """The image files in a plain ``.tar``, read in place."""

    def __init__(self, path: Path, resize: int | None = None) -> None:
        places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for info in archive:
                    if info.isreg() and not info.issparse():
                        if info.name in places:
                            raise BadData(f"{path}: holds two files of the name '{info.name}'; make the archive again.")
                        places[info.name] = (info.offset_data, info.size)
                end = archive.offset
            with open_regular(path) as file:  # tarfile treats a damaged header as the end
                file.seek(end)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise BadData(f"{path}: is damaged at byte {end:,}; fetch it again.")
        except (tarfile.TarError, *DAMAGED) as error:
            raise BadData(f"{path}: cannot be read as a plain tar ({reason(error)}); fetch it again.") from None
        if cut := next((name for name, (start, size) in places.items() if start + size > path.stat().st_size), None):
            raise BadData(f"{path}: '{cut}' ends after the end of the file; fetch it again.")
        self._places = places
        super().__init__(path, _images_among({name: size for name, (_, size) in places.items()}, path), resize)

    def content(self, index: int) -> bytes:
        """One image's bytes."""
        start, size = self._places[self.names[index]]
        with open_regular(self.path) as file:
            file.seek(start)
            return file.read(size)


def _images_among(sizes: dict[str, int], path: Path) -> list[str]:
    """Names of the image files in an archive, in the order in which a folder of the same files is read; hidden files are left out."""
    names = [name for name in sizes if name.lower().endswith(SUFFIXES) and not _is_hidden(name)]
    if huge := next((name for name in names if sizes[name] > LARGE), None):
        raise BadData(f"{path}: '{huge}' has {sizes[huge]:,} bytes, more than any image; remove it.")
    return sorted(names, key=PurePosixPath)


def _is_hidden(name: str) -> bool:
    return any(part in SYSTEM_FOLDERS or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))


class ImageArray(GivenImages):
    """The images ``arr_0`` [N, H, W, 3] of an ``.npz``, or an ``.npy`` of that shape or [N, 3, H, W]; read in place if they are stored
    uncompressed, as by numpy's ``save`` and ``savez``."""

    def __init__(self, path: Path, resize: int | None = None) -> None:
        self.path, self._resize = path, resize
        single = path.suffix.lower() == ".npy"
        images = mapped(path) if single else stored(path, IMAGES)
        name, shape, kind = "the array" if single else IMAGES, images.shape, images.dtype
        if kind.kind == "f" and not all(np.isfinite(part).all() for part in np.atleast_1d(images)):
            raise NumericalError(f"{path}: {name} holds NaN or infinity; look at the model that made the images.")
        if single and len(shape) == 4 and shape[1] == 3 and shape[3] != 3:  # the layout of svgbench's own samples
            images, shape = images.transpose(0, 2, 3, 1), (shape[0], *shape[2:], 3)
        if kind != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise BadData(f"{path}: {name} is {kind} {list(shape)}; save images as uint8 [N, H, W, 3], rounded by their program.")
        self._images = images
        self.shape = (shape[0], 3, *((shape[1], shape[2]) if resize is None else (resize, resize)))

    def __getitem__(self, index: int) -> np.ndarray:
        pixels = self._images[index]
        if self._resize is not None:
            try:
                check_size((pixels.shape[1], pixels.shape[0]), self._resize)
            except UnsupportedImage as error:
                raise BadData(f"{self.path}: an image {error}; resize the images.") from None
            pixels = centre_crop(Image.fromarray(np.ascontiguousarray(pixels)), self._resize)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def labels(self) -> Sequence[Hashable] | None:
        """The integers ``arr_1`` [N] of an ``.npz``, as the samplers of ADM and DiT write them; None if there are none."""
        if self.path.suffix.lower() == ".npy" or LABELS not in members(self.path):
            return None
        labels = stored(self.path, LABELS)
        return labels.tolist() if labels.dtype.kind in "iu" and labels.shape == (len(self),) else None

    def digest(self) -> str:
        """sha256 of the file."""
        return sha256_of(self.path)


class ImagesInMemory(GivenImages):
    """Images in memory."""

    def __init__(self, images: np.ndarray | Tensor) -> None:
        """``images``: uint8 [N, 3, H, W]; BadData for any other type or shape."""
        array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] != 3:
            raise BadData(f"the images are {array.dtype} {list(array.shape)}; give uint8 [N, 3, H, W], rounded from floats in [0, 1].")
        self.path, self._images, self.shape = Path("images in memory"), array, array.shape

    def __getitem__(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self._images[index])

    def digest(self) -> str:
        """sha256 of the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self._images).data).hexdigest()


class SomeImages(GivenImages):
    """A subset of an image set, in the given order."""

    def __init__(self, whole: GivenImages, places: Sequence[int]) -> None:
        self._whole, self._places = whole, places
        self.path, self.shape = whole.path, (len(places), *whole.shape[1:])

    def __getitem__(self, index: int) -> np.ndarray:
        return self._whole[int(self._places[index])]

    def digest(self) -> str:
        """sha256 of their pixels in order."""
        whole = hashlib.sha256()
        for index in range(len(self)):
            whole.update(self[index].tobytes())
        return whole.hexdigest()


def open_set(path: Path | GivenImages, resize: int | None = None) -> GivenImages:
    """A set (returned unchanged), or the images of a folder, a ``.zip``, a ``.tar``, an ``.npz`` or an ``.npy``. ``resize``: side in pixels
    to which they are resized.

    Raises BadData when they cannot be read, are not uint8, or have several sizes without ``resize``.
    """
    if isinstance(path, GivenImages):
        return path
    if path.is_dir():
        return ImageFiles(path, resize)
    if not path.exists():
        raise BadData(f"{path} does not exist; give {GIVE}.")
    if not path.is_file():
        raise BadData(f"{path} is not a regular file; give {GIVE}.")
    name = path.name.lower()
    if name.endswith(COMPRESSED_TAR):
        raise BadData(f"{path}: a compressed tar cannot be read in place; decompress it to a .tar, or give {GIVE}.")
    kinds = {".zip": ZippedImages, ".tar": TarredImages}
    return kinds.get(path.suffix.lower(), ImageArray)(path, resize)


def drawn_evenly(images: GivenImages, count: int) -> GivenImages:
    """``count`` images of a set, evenly over the classes if these are known. The choice is always the same; a set of at most ``count``
    images is returned unchanged."""
    if count >= len(images):
        return images
    return SomeImages(images, even_places(count, len(images), images.labels()))


def even_places(count: int, total: int, labels: Sequence[Hashable] | None) -> list[int]:
    """``count`` of ``total`` indices in ascending order, evenly over the classes (counts differ by at most one; smaller classes contribute
    all their images)."""
    if labels is None:
        return chosen(count, total).tolist()
    groups: dict[Hashable, list[int]] = {}
    for place, label in enumerate(labels):
        groups.setdefault(label, []).append(place)
    quotas, left = dict.fromkeys(groups, 0), count
    while left:
        open_ = [label for label, group in groups.items() if quotas[label] < len(group)]
        for place in chosen(left, len(open_)).tolist():
            quotas[open_[place]] += 1
        left -= min(left, len(open_))
    return sorted(group[place] for label, group in groups.items() for place in chosen(quotas[label], len(group)).tolist())
