"""Users' ZIP archives: their members, checked against the size of the file before any is opened. No torch."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from svgbench.errors import BadInput, BadWeights

RATIO = 50
"""An archive larger than ``LARGE`` when unpacked is refused if that is more than this many times its size: weights compress less."""
LARGE = 256 << 20
"""Total bytes of unpacked members up to which any compression ratio is accepted."""
MEMBERS = 1_000_000
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError, OSError, EOFError, OverflowError)
"""Exceptions that opening a damaged or unusual archive may raise."""


class Member(NamedTuple):
    """One file of an archive."""

    name: str
    size: int
    """Unpacked size in bytes."""
    deflated: bool
    header: int
    """Offset of its local header in bytes."""


def checked(source: Path | io.BytesIO, error: type[BadInput] = BadWeights, named: Path | None = None) -> dict[str, Member]:
    """The members of an archive by name, in its order. Raises ``error`` for an archive that would unpack to far more than its size.
    ``named``: the name of an archive given as bytes, for the error."""
    held = source.stat().st_size if isinstance(source, Path) else len(source.getbuffer())
    with zipfile.ZipFile(source) as archive:
        entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > MEMBERS or (unpacked > LARGE and unpacked > RATIO * held):
        raise error(
            f"{named or source} has {held:,} bytes and would unpack to {unpacked:,}, more than {RATIO} times as many; no real file "
            "does, so it was not opened; fetch it again from its authors."
        )
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED
        if stored and (entry.file_size != entry.compress_size or entry.header_offset + entry.file_size > held):
            raise EOFError(f"{entry.filename} ends after the end of the file")
        if entry.flag_bits & 1:
            raise ValueError(f"{entry.filename} is encrypted")
    return {e.filename: Member(e.filename, e.file_size, e.compress_type != zipfile.ZIP_STORED, e.header_offset) for e in entries}


def start_of(source: Path | io.BytesIO, member: Member) -> int:
    """Offset of the first byte of an uncompressed member; its local header repeats the name and may have extra fields."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(member.header + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return member.header + 30 + name + extra
