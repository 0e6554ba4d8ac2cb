"""Recognises a file by its first bytes, not by its name: readable weights, or another kind of file."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Literal

from svgbench.config.archives import DAMAGED, checked
from svgbench.config.file_state import check_regular
from svgbench.errors import BadWeights

Form = Literal["safetensors", "archive", "legacy"]
HEADER = 32 << 20
"""Largest size in bytes of the header of a safetensors file; headers of large models are much smaller."""
PADDING = 64 << 20
"""Largest size in bytes of an archive without its members."""
LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Pickled magic number at the start of files written by torch before 1.6, after the pickle protocol."""
AGAIN = "fetch the weights file itself"
SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights", "run `git lfs pull` where it was cloned, or download the file"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras or TensorFlow)", "give the PyTorch or safetensors weights"),
    (b"\x89PNG", "a picture (PNG)", AGAIN),
    (b"\xff\xd8\xff", "a picture (JPEG)", AGAIN),
    (b"GIF8", "a picture (GIF)", AGAIN),
    (b"BM", "a picture (BMP)", AGAIN),
    (b"II*\0", "a picture (TIFF)", AGAIN),
    (b"MM\0*", "a picture (TIFF)", AGAIN),
    (b"%PDF", "a PDF document", AGAIN),
    (b"GGUF", "a GGUF file (llama.cpp)", "give the PyTorch or safetensors weights"),
    (b"\x93NUMPY", "a NumPy array (.npy)", "give a state dict with named tensors"),
    (b"PAR1", "a Parquet table", AGAIN),
    (b"SQLite format 3", "an SQLite database", AGAIN),
    (b"\x7fELF", "a program", AGAIN),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it and give the weights inside"),
    (b"Rar!", "a RAR archive", "unpack it and give the weights inside"),
    (b"BZh", "a bzip2 archive", "unpack it and give the weights inside"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it and give the weights inside"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it and give the weights inside"),
)
"""First bytes of a file, its description, and advice."""
TEXTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<!doctype html", "<html", "<head", "<body"), "a web page (HTML), such as a server sends in place of a file"),
    (("<?xml", "<error", "<!doctype"), "an XML document, such as a server sends when it refuses a file"),
    (("{", "["), "JSON text, not weights"),
)


OLD_PICKLES = (b"(dp", b"(lp", b"ccollections\n", b"ccopy_reg\n", b"cposix\n", b"cos\n")
"""First bytes of pickles of protocol 0."""


def form_of(path: Path) -> Form:
    """The format of a weights file. For any other file, raises BadWeights with the kind of the file and advice."""
    regular(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4096)
            file.seek(max(0, size - 8))
            tail = file.read(8)
    except OSError as error:
        raise _unread(path, error) from None
    if not head:
        raise BadWeights(f"{path} is empty, so it is truncated or not a weights file; fetch it again.")
    if head.startswith(b"PK"):
        return _archive(path)
    if head[:1] == b"\x80" and head[2:].startswith(LEGACY):
        return "legacy"
    length = int.from_bytes(head[:8], "little")
    if size >= 8 and head[8:9] == b"{":
        if length > HEADER and (text := _text(head)):
            raise BadWeights(f"{path} is {text[0]}; {text[1]}.")
        if length > min(HEADER, size - 8):
            raise BadWeights(
                f"{path} is truncated or not a weights file: as safetensors its header would have {length:,} bytes and the whole file has "
                f"{size:,}; fetch it again."
            )
        _check_safetensors(path, length, size)
        return "safetensors"
    description = _other(path, head, tail)
    raise BadWeights(
        f"{path} is {description[0]}; {description[1]}." if description else f"{path} is truncated or not a weights file; fetch it again."
    )


def _check_safetensors(path: Path, length: int, size: int) -> None:
    """Raises BadWeights for a file whose header lists fewer or more bytes than there are, before any tensor is read."""
    with path.open("rb") as file:
        text = file.read(8 + length)[8:]
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(text).items() if name != "__metadata__"]
        stated = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        reason = "its header is not the JSON of a safetensors file"
        raise BadWeights(f"{path} is truncated or not a weights file ({reason}); fetch it again.") from None
    if stated != size:
        raise BadWeights(
            f"{path} is truncated or not a weights file: as safetensors it would have {stated:,} bytes, it has {size:,}; fetch it again."
        )


def regular(path: Path) -> None:
    """Raises BadWeights unless the path is a readable regular file."""
    try:
        check_regular(path)
    except OSError as error:
        raise _unread(path, error) from None


def _unread(path: Path, error: OSError) -> BadWeights:
    if isinstance(error, PermissionError):
        return BadWeights(f"{path} may not be read; change its permissions.")
    return BadWeights(f"{path} cannot be read ({error.strerror}); give the path of a weights file.")


def _other(path: Path, head: bytes, tail: bytes) -> tuple[str, str] | None:
    """Description of a file without weights, and advice; None if its kind is unknown."""
    for start, says, advice in SIGNATURES:
        if head.startswith(start):
            return says, advice
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a picture (WebP)", AGAIN
    if head[4:8] == b"ftyp":
        return "a picture or video (MP4, AVIF or HEIC)", AGAIN
    if head.startswith(b"\x1f\x8b"):
        return _gzipped(head)
    if head[257:262] == b"ustar" or _is_tar(head):
        if b"sys_info" in head[:512] or head.startswith((b"storages\0", b"tensors\0", b"pickle\0")):
            return "a file of torch older than 0.1.10 (tar)", "open it with torch and save its state dict again"
        return "a tar archive", "unpack it and give the weights inside"
    if tail == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb":
        return "the index of a TensorFlow checkpoint", "give the PyTorch or safetensors weights"
    if head[:1] == b"\x08" and any(word in head[:256] for word in (b"onnx", b"pytorch", b"tf2onnx", b"keras2onnx")):
        return "an ONNX model", "give the PyTorch or safetensors weights"
    if path.name.endswith((".msgpack", ".data-00000-of-00001", ".pb", ".onnx", ".tflite", ".h5")):
        return f"a {path.suffix or path.name} file, not one of PyTorch", "give the PyTorch or safetensors weights"
    if (head[:1] == b"\x80" and head[1:2] <= b"\x05") or head.startswith(OLD_PICKLES):
        return (
            "a plain pickle, not one of torch.save; pickled objects could run code and are not read",
            "save the tensors alone, with torch.save or as safetensors",
        )
    return _text(head)


def _gzipped(head: bytes) -> tuple[str, str]:
    """Description of the content of a gzip file, from its first kilobytes."""
    try:
        inside = zlib.decompressobj(wbits=31).decompress(head, 4096)
    except zlib.error:
        inside = b""
    text = _text(inside)
    if text is not None and not text[0].startswith("plain text"):
        return f"gzipped: {text[0]}", text[1]
    if inside[257:262] == b"ustar":
        return "a tar.gz archive", "unpack it and give the weights inside"
    return "a gzip archive", "unpack it and give the weights inside"


def _text(head: bytes) -> tuple[str, str] | None:
    """Description of a text file."""
    coding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = head.decode(coding)
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else: the cut after the first kilobytes splits a character
            return None
        text = head[: error.start].decode(coding, errors="ignore")
    if any(ord(letter) < 32 and letter not in "\t\n\r\f\x1b" for letter in text):
        return None
    start = text.lstrip().lower()
    if start.startswith("<!--"):
        start = start.partition("-->")[2].lstrip()
    for beginnings, says in TEXTS:
        if start.startswith(beginnings):
            return says, AGAIN
    return "plain text, not weights", AGAIN


def _is_tar(head: bytes) -> bool:
    """Whether the file begins with an old tar header (without ``ustar``), by its checksum."""
    if len(head) < 512:
        return False
    try:
        wanted = int(head[148:156].strip(b"\0 ") or b"-1", 8)
    except ValueError:
        return False
    return wanted == sum(head[:148]) + 8 * 32 + sum(head[156:512])


def _archive(path: Path) -> Form:
    """The format of a ZIP archive of ``torch.save``; raises BadWeights for other archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except DAMAGED:
        raise BadWeights(f"{path} is truncated or not a weights file (an archive without its end); fetch it again.") from None
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise BadWeights(
            f"{path} is a TorchScript archive (torch.jit.save), a program with its weights, which svgbench does not run; "
            "open it with torch.jit.load yourself and save its state_dict()."
        )
    if any(name == ".data/version" or name.startswith(".data/extern_modules") for name in inner):
        raise BadWeights(f"{path} is a torch.package archive, which holds code; save its model's state dict alone.")
    if "archive_format" in inner or "archive_version" in inner:
        raise BadWeights(f"{path} is an exported program (torch.export), which svgbench does not run; save its state dict alone.")
    if "data.pkl" in inner or "data.pkl" in names:
        try:
            members = checked(path)
        except DAMAGED as error:
            raise BadWeights(f"{path} is truncated or not a weights file ({error}); fetch it again.") from None
        held, unpacked = path.stat().st_size, sum(member.size for member in members.values())
        if held > 2 * unpacked + PADDING:
            raise BadWeights(f"{path} has {held:,} bytes, but its archive needs only {unpacked:,}; fetch it again from its authors.")
        return "archive"
    if names and all(name.endswith(".npy") for name in names):
        raise BadWeights(f"{path} is an .npz of NumPy arrays, not weights; give a state dict saved by torch or as safetensors.")
    if "model.weights.h5" in names:
        raise BadWeights(f"{path} is a Keras model; give the PyTorch or safetensors weights.")
    about = f", which holds {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else ""
    raise BadWeights(f"{path} is a ZIP archive that torch did not save{about}; unpack it and give the weights inside.")
