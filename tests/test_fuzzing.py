"""Every loader on damaged files: it answers or raises one of our sentences, within 10 s and 1 GiB, whatever the bytes are.

``SVGBENCH_SOAK=hours`` raises the number of examples: 2,000 a loader and hour.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import struct
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measured import note
from PIL import Image
from safetensors.torch import save as safetensors_bytes

from svgbench.config.experiments import load_experiment
from svgbench.config.records import RUN_FORMAT, Manifest, key_of, seal
from svgbench.config.schema import Data
from svgbench.errors import SvgbenchError
from svgbench.images import packed, sources
from svgbench.images.crop import read_image
from svgbench.images.packing import pack
from svgbench.lab.store import Store
from svgbench.machine.runtime import Runtime
from svgbench.metrics import image_sets, npz
from svgbench.shelf import read_yaml
from svgbench.tables.collect import collect
from svgbench.weights import files as weights

EXAMPLES = 60 if "SVGBENCH_SOAK" not in os.environ else max(60, int(2000 * float(os.environ["SVGBENCH_SOAK"])))
SECONDS, BYTES = 10.0, 1 << 30
HUGE = (0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**63), 2**64)
WORDS = (b"\0" * 8, b"\xff" * 8, b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02c", b"{", b"}", b"[", b"&a *a", b"!!python/name:a.b", b"\x93N")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Address space of this process plus 1 GiB at most inside."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[str, float, Any]]:
    """Places (as shares of the file) and what happens there."""
    one = st.one_of(
        st.tuples(st.just("byte"), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(st.just("word"), st.floats(0, 1), st.sampled_from(WORDS)),
        st.tuples(st.just("number"), st.floats(0, 1), st.tuples(st.sampled_from(("<i", "<q", ">i")), st.sampled_from(HUGE))),
        st.tuples(st.just("cut"), st.floats(0, 1), st.none()),
        st.tuples(st.just("drop"), st.floats(0, 1), st.integers(1, 600)),
        st.tuples(st.just("twice"), st.floats(0, 1), st.integers(1, 600)),
        st.tuples(st.just("digits"), st.floats(0, 1), st.sampled_from([str(n).encode() for n in HUGE])),
    )
    return draw(st.lists(one, min_size=1, max_size=5))


def changed(content: bytes, how: list[tuple[str, float, Any]]) -> bytes:
    """The bytes after some edits."""
    found = bytearray(content)
    for kind, share, what in how:
        at = int(share * max(len(found) - 1, 0))
        if kind == "byte" and found:
            found[at] = what
        elif kind == "word":
            found[at : at + len(what)] = what
        elif kind == "number":
            size = struct.calcsize(what[0])
            found[at : at + size] = (what[1] % (1 << 8 * size)).to_bytes(size, "little" if what[0][0] == "<" else "big")
        elif kind == "cut":
            del found[at:]
        elif kind == "drop":
            del found[at : at + what]
        elif kind == "twice":
            found[at:at] = found[at : at + what]
        elif kind == "digits":  # the number in a text at or behind this place
            while at < len(found) and not chr(found[at]).isdigit():
                at += 1
            end = at
            while end < len(found) and chr(found[end]).isdigit():
                end += 1
            found[at:end] = what
    return bytes(found)


def saved(function: Callable[..., Any], *content: Any, **how: Any) -> bytes:
    with io.BytesIO() as file:
        function(file, *content, **how)
        return file.getvalue()


def picture(kind: str = "PNG", mode: str = "RGB", side: int = 24, **how: Any) -> bytes:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 255, (side, side, 3), np.uint8)).convert(mode)
    return saved(lambda file: image.save(file, kind, **how))


def shard() -> bytes:
    def write(file: io.BytesIO) -> None:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for n in range(6):
                for name, content in ((f"{n}.png", picture()), (f"{n}.cls", str(n % 2).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))

    return saved(write)


def table() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.table({"image": [{"bytes": picture(), "path": f"{n}.png"} for n in range(6)], "label": [n % 2 for n in range(6)]})
    return saved(lambda file: pq.write_table(rows, file))


def arrow() -> bytes:
    """The data file that ``save_to_disk`` writes."""
    import pyarrow as pa

    rows = pa.table({"image": [{"bytes": picture(), "path": f"{n}.png"} for n in range(6)], "label": [n % 2 for n in range(6)]})

    def write(file: io.BytesIO) -> None:
        with pa.ipc.new_stream(file, rows.schema) as stream:
            stream.write_table(rows)

    return saved(write)


def read_arrow(path: Path) -> None:
    (path.parent / "state.json").write_text(json.dumps({"_data_files": [{"filename": path.name}]}))
    read_folder(path)


KEY = key_of("stage", 1, {}, {})
TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3), "b.x": torch.ones(2, dtype=torch.float16)}
STATISTICS = {"mu": np.zeros(4), "sigma": np.eye(4)}
IMAGES = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)


def read_images(path: Path) -> None:
    """The set as eval opens it, every image of it."""
    found = image_sets.open_set(path)
    found.batch(range(len(found)))


def read_npz(path: Path) -> None:
    for name in npz.members(path):
        npz.stored(path, name)
    if npz.holds_statistics(path):
        npz.statistics_in(path)


def read_picture(path: Path) -> None:
    """One image as packing reads it: pixels, or a reason."""
    found = read_image(path.read_bytes(), 16)
    assert isinstance(found, str) or found.shape == (3, 16, 16)


def read_folder(path: Path) -> None:
    """A store of the source in a file's folder."""
    out = path.parent.parent / "out"
    pack(Data(source=str(path.parent), resolution=16), out, Runtime(device="cpu", quiet=True, workers=1))


def shipped(name: str) -> bytes:
    from svgbench.shelf import folder

    return (folder("ablations") / name).read_bytes()


def manifest() -> bytes:
    """Of an artifact with one file."""
    files, sizes = {"x": "0" * 64}, {"x": 3}
    return Manifest(stage="stage", version=1, key=KEY, slice={}, inputs={}, files=files, sizes=sizes, seconds=1.0, finished="now").written()


def read_manifest(path: Path) -> None:
    (path.parent / "x").write_bytes(b"xyz")
    Store(path.parents[2]).manifest("stage", KEY)


def run_record() -> bytes:
    about = {"run": "r", "encoder": "e", "family": "f", "kind": "features", "stages": [], "failures": {}, "config": "0", "scores": "0"}
    return seal({"format": RUN_FORMAT, **about})


def read_record(path: Path) -> None:
    (path.parent / "scores.json").write_text("[]")
    (path.parent / "config.yaml").write_text("seed: 0\n")
    for record in collect(path.parents[1]):
        record.config()


def images_json() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        about = {"counts": {"train": 0, "val": 0}, "resolution": 16, "classes": ["a", "b"], "masks": False, "skipped": []}
        packed.write(Path(place), about)
        return (Path(place) / packed.NAME).read_bytes()


def loaders() -> dict[str, tuple[str, bytes, Callable[[Path], Any]]]:
    """Name -> file name, a valid file, and what reads it."""
    pictures = {
        "png": picture(), "jpg": picture("JPEG"), "tif": picture("TIFF"), "webp": picture("WEBP"), "bmp": picture("BMP"),
    }  # fmt: skip
    found = {f"picture {kind}": (f"0.{kind}", content, read_picture) for kind, content in pictures.items()}
    found |= {f"eval {kind}": (f"data/0.{kind}", content, lambda path: read_images(path.parent)) for kind, content in pictures.items()}
    return found | {
        "npz statistics": ("s.npz", saved(np.savez, **STATISTICS), read_npz),
        "npz compressed": ("s.npz", saved(np.savez_compressed, **STATISTICS), read_npz),
        "npz images": ("s.npz", saved(np.savez, IMAGES), read_images),
        "safetensors": ("w.safetensors", safetensors_bytes(TENSORS), weights.read),
        "torch": ("w.pt", saved(lambda file: torch.save({"model": TENSORS, "epoch": 3}, file)), weights.read),
        "torch, old format": (
            "w.pt", saved(lambda file: torch.save(TENSORS, file, _use_new_zipfile_serialization=False)), weights.read
        ),
        "yaml": ("e.yaml", yaml.safe_dump({"a": {"b": [1, 2, {"c": "d"}]}}).encode(), read_yaml),
        "experiment": ("e.yaml", shipped("recipes.yaml"), load_experiment),
        "preset": ("e.yaml", shipped("preset-tiny.yaml"), load_experiment),
        "manifest": (f"stage/{KEY[:32]}/manifest.json", manifest(), read_manifest),
        "run record": ("r/run.json", run_record(), read_record),
        "packed store": (packed.NAME, images_json(), lambda path: packed.read(path.parent)),
        "shard": ("data/train-0.tar", shard(), lambda path: sources.list_images(Data(source=str(path.parent), resolution=16))),
        "arrow": ("data/data.arrow", arrow(), read_arrow),
        "parquet": ("data/train-0.parquet", table(), read_folder),
    }  # fmt: skip


LOADERS = loaders()


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_answers_or_says_what_is_wrong_whatever_the_bytes(name, tmp_path, monkeypatch):
    file, content, read = LOADERS[name]
    path, worst, count = tmp_path / file, [0.0], [0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    read(path)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize="SVGBENCH_SOAK" not in os.environ)
    @given(edits())
    def damaged(how: list[tuple[str, float, Any]]) -> None:
        path.write_bytes(changed(content, how))
        count[0] += 1
        began = time.monotonic()
        with bounded(), contextlib.suppress(SvgbenchError):
            read(path)
        worst[0] = max(worst[0], time.monotonic() - began)
        assert worst[0] < SECONDS

    damaged()
    note("SVGBENCH_RELIABILITY", fault="fuzzing", what=name, trials=count[0], violations=0, seconds=round(worst[0], 2))
