"""Decodes image files: 8-bit RGB for images, the stored values for masks and depth maps. No torch.

Packing, dense sets, ``eval`` and references all read images here, so all use the same scale. The scale depends on the type of the file,
never on its content:

    8 bits        unchanged; the alpha channel is dropped, palettes, CMYK and YCbCr are converted by PIL
    16 bits       the upper byte (v >> 8), as PIL does for 16-bit colour; 12 bits: v >> 4
    PPM           more than 8 bits are rounded to 8, as PIL does for colour
    floats        0 to 1: round(255 v); other values are refused, because their scale is unknown
    others        refused: 32-bit and signed integers, complex numbers

Only the first frame of a file is read; EXIF rotation is not applied. The size is checked in the header before any pixel is decoded, and the
size after a resize before resizing.
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
"""Formats that are read, whatever the file's suffix. PIL's other readers start programs (EPS) or are not for photographs."""
MAX_SIDE, MAX_PIXELS, MAX_RATIO = 65_535, 2 * 89_478_485, 1_000
"""Largest side in pixels, number of pixels (PIL's limit for decompression bombs too), and ratio of long to short side."""
MAX_RESIZED_PIXELS = 2**25
"""Largest number of pixels after a resize."""
BITS, SAMPLE_FORMAT, PLANES, COLOURS = 258, 339, 284, 262
"""TIFF tags: bits per sample, sample format, planar configuration, photometric interpretation."""
UNSIGNED, WHITE_IS_ZERO = (1, 4), 0
"""Values of those tags; sample format 4 is undefined, which readers treat as unsigned."""
STRETCHED = {"L;2": 85, "L;4": 17}
"""PIL's raw modes of grey PNG with 2 and 4 bits -> the factor by which it multiplies their values."""


class UnsupportedImage(ValueError):
    """An image that PIL can open but that is not supported. The message follows the file's name: "is a TIFF with ..."."""


UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError, MemoryError, RuntimeError,
    AssertionError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""Exceptions that PIL raises for damaged files."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # PIL warns without the file's name; real problems are raised as errors


@contextmanager
def open_image(source: bytes | Path) -> Iterator[Image.Image]:
    """Opens an image without decoding it. Raises one of ``UNREADABLE``; UnsupportedImage for a size out of bounds."""
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file, Image.open(file, formats=_formats()) as image:
        check_size(image.size)
        yield image


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def check_size(size: tuple[int, int], short: int | None = None) -> None:
    """Raises UnsupportedImage when (width, height) is out of bounds, or would be after resizing the short side to ``short``."""
    width, height = size
    shorter, longer = min(size), max(size)
    if shorter < 1:
        raise UnsupportedImage("has no pixels")
    if longer > MAX_SIDE or width * height > MAX_PIXELS:
        raise UnsupportedImage(
            f"is {width} x {height} px; an image may have at most {MAX_SIDE:,} px per side and {MAX_PIXELS:,} px in total"
        )
    if longer > MAX_RATIO * shorter:
        raise UnsupportedImage(f"is {width} x {height} px; the long side may be at most {MAX_RATIO:,} times the short side")
    if short is not None and short * short * longer > MAX_RESIZED_PIXELS * shorter:
        raise UnsupportedImage(
            f"is {width} x {height} px; with a short side of {short} px it would have more than {MAX_RESIZED_PIXELS:,} px"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB, by the scale of its file type (see the module docstring). Raises UnsupportedImage if the scale is unknown."""
    depth = _tiff_depth(image)
    if image.mode == "F":
        return Image.fromarray(_of_floats(np.asarray(image), _white_is_zero(image))).convert("RGB")
    if image.mode.startswith("I"):
        return Image.fromarray(_of_integers(image, depth)).convert("RGB")
    if image.mode == "P":
        image.load()
        image.info.pop("transparency", None)  # dropped like alpha, because PIL would warn
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")


def read_values(image: Image.Image) -> np.ndarray:
    """The stored values of a mask or depth map (PNG or TIFF): [H, W] bool, uint8 (indices of a palette) or uint16; or other types and [H,
    W, C], if the file has them. Raises UnsupportedImage for lossy formats such as JPEG."""
    if image.format not in ("PNG", "TIFF"):
        raise UnsupportedImage(f"is a {image.format}, which may change the stored values; save it as a PNG")
    tiles = getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else None
    _tiff_depth(image)  # raises UnsupportedImage
    if _white_is_zero(image):
        raise UnsupportedImage("is a TIFF in which 0 is white; save it as a PNG")
    numbers = np.asarray(image)
    if raw in STRETCHED:
        return numbers // STRETCHED[raw]
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # the latter by older versions of PIL
    return numbers.astype(np.uint16) if is_16_bit else numbers


def _of_floats(values: np.ndarray, inverted: bool) -> np.ndarray:
    """Grey uint8 of floats from 0 to 1."""
    if not ((values >= 0) & (values <= 1)).all():  # also rejects NaN
        raise UnsupportedImage("has floats outside 0 to 1, whose scale is unknown; save it in 8 or 16 bits")
    return np.rint((1 - values if inverted else values) * 255).astype(np.uint8)


def _of_integers(image: Image.Image, depth: int) -> np.ndarray:
    """Grey uint8 of more than 8 bits. PIL opens 16-bit PNG as ``I`` or ``I;16``, depending on PIL's version, and PPM as ``I``, scaled to 16
    bits."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise UnsupportedImage("has signed or 32-bit integers, whose scale is unknown; save it in 8 or 16 bits")
    grey = np.asarray(image).astype(np.int64)
    if image.format == "PPM":
        return np.rint(grey * 255 / 65535).astype(np.uint8)
    return ((2**depth - 1 - grey if _white_is_zero(image) else grey) >> (depth - 8)).astype(np.uint8)


def _white_is_zero(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF; PIL inverts only 8-bit ones."""
    return _tag(image, COLOURS, 1) == WHITE_IS_ZERO


def _tiff_depth(image: Image.Image) -> int:
    """Bits per sample of a TIFF; 16 for other files, because PIL scales their deep samples to 16 bits. Raises UnsupportedImage for files
    that PIL decodes wrongly."""
    if image.format != "TIFF":
        return 16
    depths = _tags(image, BITS, 1)
    kinds = _tags(image, SAMPLE_FORMAT, 1)
    if image.mode != "F" and not set(kinds) <= set(UNSIGNED):
        raise UnsupportedImage("has signed integers, whose scale is unknown; save it in 8 or 16 bits")
    if max(depths) > 8 and _tag(image, PLANES, 1) != 1:
        raise UnsupportedImage("has channels of more than 8 bits in separate planes; save it with interleaved channels")
    return max(depths)


def _tags(image: Image.Image, tag: int, absent: int) -> tuple[int, ...]:
    """The values of a TIFF tag."""
    value = getattr(image, "tag_v2", {}).get(tag, absent)
    return tuple(value) if isinstance(value, tuple) else (value,)


def _tag(image: Image.Image, tag: int, absent: int) -> int:
    return _tags(image, tag, absent)[0]


def reason(error: Exception) -> str:
    """The first line of an error without the memory addresses that PIL includes; the name of its class if it has no message."""
    if isinstance(error, Image.DecompressionBombError):
        return "has more pixels than any photograph"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = re.sub(r" <_io\.[A-Za-z]+ (object at 0x[0-9a-f]+|name=.*)>", "", str(error)).strip()
    return message.splitlines()[0][:120] if message else type(error).__name__
