"""Picture files that PIL does not write: PNG of any depth and colour, TIFF of any kind of sample."""

from __future__ import annotations

import struct
import zlib

import numpy as np

GREY, COLOUR, INDEXED, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
"""Colour types of PNG."""


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(numbers: np.ndarray, depth: int, colour: int = GREY, *extra: bytes) -> bytes:
    """Numbers [H, W] or [H, W, C] in ``depth`` bits each."""
    height, width = numbers.shape[:2]
    rows = b""
    for row in numbers.reshape(height, -1):
        bits = "".join(f"{int(number):0{depth}b}" for number in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(numbers: np.ndarray, *, order: str = "<", bits: int = 0, white_is_zero: bool = False, planes: bool = False) -> bytes:
    """Numbers [H, W] or [H, W, C] of any type as a TIFF; ``bits`` 12 packs uint16 grey, ``planes`` writes channel by channel."""
    held = numbers if numbers.ndim == 3 else numbers[..., None]
    height, width, channels = held.shape
    kind = {"u": 1, "i": 2, "f": 3}[numbers.dtype.kind]
    if bits == 12:
        packed = "".join(f"{int(number):012b}" for number in numbers.ravel())
        data = int(packed, 2).to_bytes(len(packed) // 8, "big")
    else:
        data = (held.transpose(2, 0, 1) if planes else held).astype(held.dtype.newbyteorder(order)).tobytes()
    depth, parts = bits or 8 * numbers.dtype.itemsize, channels if planes else 1
    tags: list[tuple[int, str, list[int]]] = [
        (256, "H", [width]), (257, "H", [height]), (258, "H", [depth] * channels), (259, "H", [1]),
        (262, "H", [0 if white_is_zero else 1 if channels == 1 else 2]), (273, "I", [0] * parts), (277, "H", [channels]),
        (278, "H", [height]), (279, "I", [len(data) // parts] * parts), (284, "H", [2 if planes else 1]), (339, "H", [kind] * channels),
    ]  # fmt: skip
    if channels == 4:
        tags.insert(-1, (338, "H", [2]))
    tags.sort()
    start = 8 + 2 + 12 * len(tags) + 4
    long = sum(struct.calcsize(f"{order}{len(values)}{form}") for _, form, values in tags if struct.calcsize(form) * len(values) > 4)
    entries, outside = b"", b""
    for tag, form, values in tags:
        if tag == 273:
            values = [start + long + number * (len(data) // parts) for number in range(parts)]
        content = struct.pack(f"{order}{len(values)}{form}", *values)
        head = struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[form], len(values))
        if len(content) <= 4:
            entries += head + content.ljust(4, b"\0")
        else:
            entries += head + struct.pack(f"{order}I", start + len(outside))
            outside += content
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return magic + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + outside + data
