"""From a picture's file to its pixels: RGB of 8 bits for images, the stored numbers for masks and depth maps. No torch.

Every reader of pictures (packing, dense sets, ``eval``, references) comes through here, so all scale them alike. The scale follows from the
file's type and never from what is in the picture:

    8 bits        as they are; the alpha channel is dropped, palettes, CMYK and YCbCr are converted by PIL
    16 bits       the upper byte (v >> 8), which is also what PIL takes of 16-bit colour; 12 bits: v >> 4
    PPM           more than 8 bits are rounded to 8, as PIL rounds its colour
    floats        0 to 1: round(255 v); other values are refused, because nothing tells their scale
    others        refused: 32-bit and signed integers, complex numbers

A picture is the first frame of its file; EXIF rotation is not applied. Bounds on its sides are checked in the header, before any pixel is
decoded, and bounds on a resized picture before it is made.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from svgbench.machine.files import open_regular

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "PPM", "TIFF", "GIF", "JPEG2000", "AVIF")
"""What is read, whatever the file's suffix; PIL's other readers start programs (EPS) or are of no photographs."""
MOST_SIDE, MOST_PIXELS, MOST_RATIO = 65_535, 2 * 89_478_485, 1_000
"""Of a picture: pixels of a side, pixels (where PIL too takes a file for a decompression bomb), long side over short side."""
MOST_MADE = 2**25
"""Pixels of a picture after a resize."""
BITS, SAMPLE_FORMAT, PLANES, COLOURS = 258, 339, 284, 262
"""TIFF tags: bits per sample, sample format, planar configuration, photometric interpretation."""
UNSIGNED, WHITE_IS_ZERO = (1, 4), 0
"""Values of those tags; 4 is undefined, which readers take for unsigned."""
STRETCHED = {"L;2": 85, "L;4": 17}
"""PIL's names of grey PNG of 2 and 4 bits, and by what it multiplies their numbers."""


class Unfit(ValueError):
    """Why a picture that PIL can open is not taken, in words that follow its name."""


UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError, MemoryError, RuntimeError,
    AssertionError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What PIL raises on bad bytes."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata and large pictures, without the file's name; what matters is raised


@contextmanager
def opened(source: bytes | Path) -> Iterator[Image.Image]:
    """A picture, not yet decoded. Raises one of ``UNREADABLE``: Unfit where its sides are out of bounds."""
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file, Image.open(file, formats=_formats()) as image:
        check_size(image.size)
        yield image


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def check_size(size: tuple[int, int], short: int | None = None) -> None:
    """Unfit for a picture of (width, height) that no camera makes, or that would be too large with its short side resized to ``short``."""
    width, height = size
    least, most = min(size), max(size)
    if least < 1:
        raise Unfit("has no pixels")
    if most > MOST_SIDE or width * height > MOST_PIXELS:
        raise Unfit(f"is {width} x {height} px; a picture has at most {MOST_SIDE:,} px a side and {MOST_PIXELS:,} px in all")
    if most > MOST_RATIO * least:
        raise Unfit(f"is {width} x {height} px; a picture is at most {MOST_RATIO:,} times as long as it is wide")
    if short is not None and short * short * most > MOST_MADE * least:
        raise Unfit(f"is {width} x {height} px; with a short side of {short} px it would have more than {MOST_MADE:,} px")


def to_rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits, by the scale that the file's type has (see above). Raises Unfit where none is known."""
    depth = _tiff_depth(image)
    if image.mode == "F":
        return Image.fromarray(_of_floats(np.asarray(image), _white_is_zero(image))).convert("RGB")
    if image.mode.startswith("I"):
        return Image.fromarray(_of_integers(image, depth)).convert("RGB")
    if image.mode == "P":
        image.load()
        image.info.pop("transparency", None)  # dropped as alpha is; PIL would warn
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")


def stored(image: Image.Image) -> np.ndarray:
    """The numbers that a PNG or TIFF holds, of masks and depth maps: [H, W] bool, uint8 (a palette's indices) or uint16; other types and
    [H, W, C] where it holds such. Raises Unfit for files that keep no numbers, such as JPEG."""
    if image.format not in ("PNG", "TIFF"):
        raise Unfit(f"is a {image.format}, which may change the numbers that it is given; write a PNG")
    tiles = getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else None
    _tiff_depth(image)  # raises Unfit
    if _white_is_zero(image):
        raise Unfit("is a TIFF with white as 0; write a PNG")
    numbers = np.asarray(image)
    if raw in STRETCHED:
        return numbers // STRETCHED[raw]
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # the latter by older versions of PIL
    return numbers.astype(np.uint16) if deep else numbers


def _of_floats(values: np.ndarray, inverted: bool) -> np.ndarray:
    """Grey uint8 of floats from 0 to 1."""
    if not ((values >= 0) & (values <= 1)).all():  # also of NaN
        raise Unfit("holds floats outside 0 to 1, whose scale is unknown; save it in 8 or 16 bits")
    return np.rint((1 - values if inverted else values) * 255).astype(np.uint8)


def _of_integers(image: Image.Image, depth: int) -> np.ndarray:
    """Grey uint8 of more than 8 bits. PIL opens 16-bit PNG as ``I`` or ``I;16``, by its version, and PPM as ``I``, stretched to 16 bits."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise Unfit("holds signed or 32-bit numbers, whose scale is unknown; save it in 8 or 16 bits")
    grey = np.asarray(image).astype(np.int64)
    if image.format == "PPM":
        return np.rint(grey * 255 / 65535).astype(np.uint8)
    return ((2**depth - 1 - grey if _white_is_zero(image) else grey) >> (depth - 8)).astype(np.uint8)


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF counts from white, which PIL turns round for 8 bits alone."""
    return _tag(image, COLOURS, 1) == WHITE_IS_ZERO


def _tiff_depth(image: Image.Image) -> int:
    """Bits of a sample; 16 for files other than TIFF, of which PIL stretches deep ones to that. Raises Unfit for what PIL opens wrongly."""
    if image.format != "TIFF":
        return 16
    depths = _tags(image, BITS, 1)
    kinds = _tags(image, SAMPLE_FORMAT, 1)
    if image.mode != "F" and not set(kinds) <= set(UNSIGNED):
        raise Unfit("holds signed numbers, whose scale is unknown; save it in 8 or 16 bits")
    if max(depths) > 8 and _tag(image, PLANES, 1) != 1:
        raise Unfit("keeps channels of more than 8 bits in separate planes; save it with its channels together")
    return max(depths)


def _tags(image: Image.Image, tag: int, absent: int) -> tuple[int, ...]:
    """A TIFF tag's numbers."""
    found = getattr(image, "tag_v2", {}).get(tag, absent)
    return tuple(found) if isinstance(found, tuple) else (found,)


def _tag(image: Image.Image, tag: int, absent: int) -> int:
    return _tags(image, tag, absent)[0]


def reason(error: Exception) -> str:
    """An error's first line without the places in memory that PIL puts into it; its kind where it says nothing."""
    if isinstance(error, Image.DecompressionBombError):
        return "has more pixels than any photograph"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = re.sub(r" <_io\.[A-Za-z]+ (object at 0x[0-9a-f]+|name=.*)>", "", str(error)).strip()
    return said.splitlines()[0][:120] if said else type(error).__name__
