"""What is not weights is named for what it is, whatever its name indicates, and nothing waits for ever or fills the memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import socket
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from svgbench.config.cards import digest_of
from svgbench.config.file_state import file_digest
from svgbench.errors import BadWeights
from svgbench.weights import files as weights


def picture(kind):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, kind)
    return file.getvalue()


def tar(*names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return file.getvalue()


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, arr_0=np.zeros(3))
    return file.getvalue()


PAGE = b"\n <!-- saved -->\n<!DOCTYPE html><html><body>Too many requests</body></html>"
FILES = {
    "a Git LFS pointer of another form": (b"version https://git-lfs.github.com/spec/v1\next-0-foo sha256:1\n", "a Git LFS pointer"),
    "a page behind a comment": (PAGE, "a web page (HTML)"),
    "a page with a mark of its coding": (b"\xef\xbb\xbf<HTML><head></head></HTML>", "a web page (HTML)"),
    "a page in UTF-16": ("<html>é</html>".encode("utf-16"), "a web page (HTML)"),
    "a gzipped page": (gzip.compress(PAGE * 50), "gzipped: a web page (HTML)"),
    "a server's refusal": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
    "an error in JSON": (json.dumps({"error": "Repository Not Found"}).encode(), "JSON text"),
    "an error in JSON that looks like a header": (b'{"code":{"error":"' + b"x" * 100 + b'"}}', "JSON text"),
    "a PNG": (picture("PNG"), "a picture (PNG)"),
    "a JPEG": (picture("JPEG"), "a picture (JPEG)"),
    "a WebP": (picture("WEBP"), "a picture (WebP)"),
    "a TIFF": (picture("TIFF"), "a picture (TIFF)"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "plain text": ("404: Größe nicht gefunden\n".encode() * 400, "plain text"),
    "YAML": (b"model:\n  target: ldm.models\n", "plain text"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file (Keras or TensorFlow)"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(100), "a GGUF file"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0" + bytes(50), "an ONNX model"),
    "an index of TensorFlow": (bytes(40) + struct.pack("<Q", 0xDB4775248B80FB57), "the index of a TensorFlow checkpoint"),
    "a tar": (tar("model/weights.bin"), "a tar archive"),
    "a tar.gz": (gzip.compress(tar("model/weights.bin")), "a tar.gz archive"),
    "torch's first form": (tar("sys_info", "pickle", "tensors", "storages"), "a file of torch older than 0.1.10 (tar)"),
    "a zip": (zipped(**{"model/config.json": "{}", "model/model.safetensors": "x"}), "a ZIP archive that torch did not save"),
    "an npz": (npz(), "an .npz of NumPy arrays"),
    "an npy": (b"\x93NUMPY\x01\0" + bytes(100), "a NumPy array"),
    "Keras": (zipped(**{"config.json": "{}", "metadata.json": "{}", "model.weights.h5": "x"}), "a Keras model"),
    "torch.package": (zipped(**{"m/.data/version": "6", "m/.data/extern_modules": "", "m/model.py": ""}), "a torch.package archive"),
    "torch.export": (zipped(**{"m/archive_format": "pt2", "m/archive_version": "0", "m/models/model.json": "{}"}), "an exported program"),
    "a plain pickle": (pickle.dumps({"a": 1}), "a plain pickle, not one of torch.save"),
    "a pickle of protocol 0": (pickle.dumps({"a": 1}, 0), "a plain pickle, not one of torch.save"),
    "nothing": (b"", "empty, so it is truncated or not a weights file"),
    "noise": (bytes(range(200, 256)) * 9, "truncated or not a weights file"),
    "a header of gigabytes": (struct.pack("<Q", 1 << 40) + b"{" + bytes(100), "truncated or not a weights file: as safetensors"),
    "a header longer than the file": (struct.pack("<Q", 5000) + b'{"a":' + bytes(100), "truncated or not a weights file: as safetensors"),
}


def refusal(path):
    with pytest.raises(BadWeights) as error:
        weights.read(path)
    said = str(error.value)
    assert said.count("\n") == 0 and said.endswith(".") and said.count("(") == said.count(")") and "fault of svgbench" not in said
    return said


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_weights_is_named_for_what_it_is(tmp_path, name, suffix):
    data, words = FILES[name]
    (tmp_path / f"w{suffix}").write_bytes(data)
    said = refusal(tmp_path / f"w{suffix}")
    assert f" is {words}" in said and "; " in said
    if "pickle" not in name:
        assert "could run code" not in said


def test_a_file_is_read_by_what_it_holds_and_not_by_its_name(tmp_path):
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(3)}
    torch.save(state, tmp_path / "pickle.safetensors")
    save_file(state, tmp_path / "safe.ckpt")
    torch.save(state, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        assert torch.equal(weights.read(path)["weight"], state["weight"])


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "offsets", [[[0, 4], [0, 4]], [[0, 4], [2, 6]], [[-4, 0], [0, 4]], [[0, 1 << 60], [4, 8]], [[4, 0], [4, 8]], [[0, 4], [4, 1 << 70]]]
)
def test_offsets_of_safetensors_that_overlap_or_leave_the_file_are_refused(tmp_path, offsets):
    entries = {name: {"dtype": "F32", "shape": [1], "data_offsets": ends} for name, ends in zip("ab", offsets, strict=True)}
    (tmp_path / "bad.safetensors").write_bytes(header(entries, bytes(8)))
    assert "truncated or not a weights file" in refusal(tmp_path / "bad.safetensors")


def test_what_is_no_regular_file_is_refused_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s.pt"))
    assert "is a named pipe, not a regular file" in refusal(tmp_path / "pipe.pt")
    assert "is a socket, not a regular file" in refusal(tmp_path / "s.pt")
    listener.close()
    with pytest.raises(BadWeights, match="not a regular file"):
        file_digest(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    assert "cannot be read" in refusal(tmp_path / "loop.pt")


def test_a_device_is_refused():
    assert "is a device, not a regular file" in refusal(Path(os.devnull))


def test_a_file_of_a_terabyte_is_refused_before_it_is_read(tmp_path):
    """Its holes are empty; the digest alone would take an hour."""
    save_file({"a": torch.zeros(3)}, tmp_path / "w.safetensors")
    (tmp_path / "zeros.pt").write_bytes(b"")
    torch.save({"a": torch.zeros(3)}, tmp_path / "w.pt")
    tail = (tmp_path / "w.pt").read_bytes()
    with (tmp_path / "w.pt").open("r+b") as file:
        file.seek(1 << 40)
        file.write(tail)
    for name in ("w.safetensors", "zeros.pt"):
        os.truncate(tmp_path / name, 1 << 40)
    for name in ("w.safetensors", "zeros.pt", "w.pt"):
        started = time.monotonic()
        with pytest.raises(BadWeights, match=name):
            digest_of(tmp_path / name, "x")
        refusal(tmp_path / name)
        assert time.monotonic() - started < 5
