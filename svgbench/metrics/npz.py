"""``.npz`` files of ADM's evaluator: sets of images, and reference statistics. No torch.

Protocol: uint8 images [N, H, W, 3] under ``arr_0``; ``mu`` [D] and ``sigma`` [D, D] of pooled features, ``mu_s`` and ``sigma_s`` of spatial
ones. If a file has ``mu`` and ``sigma``, these statistics are used. They were not computed from the images in the same file (10,000 in
ADM's files); those images are used for precision, recall and KID. A file does not state the extractor of its statistics; only their
dimension can be checked.
"""

from __future__ import annotations

import math
import stat
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError

import numpy as np

from svgbench.config.archives import checked, start_of
from svgbench.errors import BadData
from svgbench.machine.files import replacing

IMAGES = "arr_0"
LABELS = "arr_1"
GIVE = "a folder, .zip or .tar of images, an .npz or an .npy"
"""The accepted sets of images, for error sentences."""
STATISTICS = ("mu", "sigma")
SPATIAL = ("mu_s", "sigma_s")
UNREADABLE = (zipfile.BadZipFile, zlib.error, TokenError, RuntimeError, ValueError, OSError, EOFError, SyntaxError)
"""Exceptions from damaged archives and headers: wrong sizes and checksums, unknown compression, encryption (both RuntimeErrors), a header
that is not Python."""


def holds_statistics(path: Path) -> bool:
    """Whether an ``.npz`` has reference statistics."""
    return path.suffix.lower() not in (".tar", ".npy") and path.is_file() and set(STATISTICS) <= set(members(path))


def statistics_in(path: Path) -> dict[str, np.ndarray]:
    """``mu`` [D], ``sigma`` [D, D] and, if present, ``mu_s`` and ``sigma_s`` of an ``.npz``: float64 and finite. Raises BadData."""
    arrays: dict[str, np.ndarray] = {}
    for pair in (STATISTICS, SPATIAL):
        if pair is SPATIAL and not set(pair) <= set(members(path)):
            continue
        mean, covariance = (np.array(stored(path, name)) for name in pair)
        floats = {mean.dtype.kind, covariance.dtype.kind} == {"f"}
        if not floats or mean.ndim != 1 or not mean.size or covariance.shape != (len(mean), len(mean)):
            raise BadData(
                f"{path}: {pair[0]} is {mean.dtype} {list(mean.shape)} and {pair[1]} {covariance.dtype} {list(covariance.shape)}; "
                "they must be floats [D] and [D, D]; use the file as its authors publish it."
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise BadData(f"{path}: {pair[0]} or {pair[1]} holds NaN or infinity; compute the statistics again.")
        if not _is_covariance(covariance.astype(np.float64)):
            raise BadData(f"{path}: {pair[1]} is not a covariance (symmetric, without negative eigenvalues); compute the statistics again.")
        arrays |= dict(zip(pair, (mean.astype(np.float64), covariance.astype(np.float64)), strict=True))
    return arrays


def _is_covariance(matrix: np.ndarray) -> bool:
    """Whether a matrix is symmetric and positive semidefinite, up to float32 rounding."""
    trace = float(np.trace(matrix))
    if trace <= 0 or not np.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-6 * trace):
        return False
    try:
        np.linalg.cholesky((matrix + matrix.T) / 2 + 1e-6 * trace * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True


def stored(path: Path, name: str) -> np.ndarray:
    """One array of an ``.npz``, memory-mapped if it is stored uncompressed; never unpickled."""
    names = members(path)
    if name not in names:
        raise BadData(f"{path}: has no array '{name}', but {', '.join(names) or 'none'}; give an .npz of images or statistics.")
    try:
        entry = checked(path, BadData)[f"{name}.npy"]
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            form = np.lib.format
            read_header = form.read_array_header_1_0 if form.read_magic(member) == (1, 0) else form.read_array_header_2_0
            shape, fortran, kind = read_header(member)
            header = member.tell()
        bytes_ = math.prod(shape) * kind.itemsize
        if any(side < 0 for side in shape) or (not kind.hasobject and header + bytes_ != entry.size):
            raise BadData(
                f"{path}: '{name}' should be {kind} {list(shape)}, but it holds {entry.size - header:,} bytes; fetch the file again."
            )
        if kind.hasobject:
            raise BadData(f"{path}: '{name}' holds pickled objects, which could run code and are not read; save its numbers alone.")
        if entry.deflated or fortran or not bytes_:
            with np.load(path, allow_pickle=False) as content:
                return content[name]
        return np.memmap(path, dtype=kind, mode="r", offset=start_of(path, entry) + header, shape=shape)
    except (*UNREADABLE, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise BadData(f"{path}: cannot be read as arrays ({first_line(error)}); fetch it again.") from None


def mapped(path: Path) -> np.ndarray:
    """The array of an ``.npy``, memory-mapped; never unpickled."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (*UNREADABLE, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise BadData(f"{path}: cannot be read as an array ({first_line(error)}); fetch it again.") from None


def save_npz(path: Path, images: np.ndarray) -> None:
    """Writes uint8 images [N, 3, H, W] as the ``.npz`` that the ADM evaluator reads, one image at a time, so that memory does not grow."""
    shape = (len(images), *images.shape[2:], 3)
    with (
        replacing(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for image in images:
            member.write(np.ascontiguousarray(np.moveaxis(np.asarray(image), 0, -1)).tobytes())


def members(path: Path) -> list[str]:
    """Names of the arrays inside."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadData(f"{path}: is not a regular file; give {GIVE}.")
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except UNREADABLE as error:
        raise BadData(f"{path}: is neither a folder nor an .npz ({first_line(error)}); give {GIVE}.") from None


def first_line(error: BaseException) -> str:
    """The first line of an error, short enough for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
