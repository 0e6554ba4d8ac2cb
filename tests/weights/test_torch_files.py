"""Files of torch.save: tensors come out whole, everything else is inert, and sizes that cannot be are refused before memory is taken."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import operator
import os
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from svgbench.errors import BadWeights
from svgbench.weights import files as weights

FORMATS = ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4})


class Kept(enum.Enum):
    """A member of an enumeration is pickled by a call of its class."""

    ONE = 1


class Pair(list):
    """A list of another class."""


class Slots:
    """Pickled with a state that is a tuple."""

    __slots__ = ("one", "two")


class Outer:
    """Pickled by its name inside another class."""

    class Inner:
        """The inner one."""


def around() -> dict:
    """What trainings keep beside their tensors."""
    slots, pair = Slots(), Pair([1, 2, 3])
    slots.one, slots.two = 1, Kept.ONE
    return {
        "args": argparse.Namespace(lr=1e-4, path=Path("/data"), size=np.int64(3)),
        "array": np.arange(6).reshape(2, 3), "floats": [np.float64(2.1), np.float32(1)], "queue": collections.deque([1, 2], maxlen=3),
        "table": collections.defaultdict(list, {1: [2]}), "count": collections.Counter("abc"), "when": datetime.datetime(2026, 1, 2),
        "set": {1, 2}, "frozen": frozenset([3]), "pair": pair, "slots": slots, "kind": Kept.ONE, "dtype": torch.float16,
        "device": torch.device("cpu"), "random": torch.get_rng_state(), "numpy": np.random.default_rng(0).bit_generator.state,
        "inner": Outer.Inner(), "class": Outer, "complex": 1j, "bytes": bytearray(b"x"),
    }  # fmt: skip


def tensors() -> dict:
    """Tensors of every usual type and form."""
    base = torch.randn(4, 6)
    return {
        "a.weight": base, "a.slice": base[1:, 2:5], "a.turned": base.t(), "half": base.half(), "brain": base.bfloat16(),
        "long": torch.arange(3), "bytes": torch.arange(3, dtype=torch.uint8), "bool": torch.tensor(True), "none": torch.empty(0, 3),
        "double": base.double(), "parameter": torch.nn.Parameter(base[0].clone()), "complex": torch.randn(2, dtype=torch.complex64),
        "conjugated": torch.randn(2, dtype=torch.complex64).conj(), "negated": torch.randn(2, dtype=torch.complex64).conj().imag,
        "fp8": base[0].to(torch.float8_e4m3fn), "unsigned": torch.tensor([1, 2], dtype=torch.uint16), "wide": torch.ones(3, 1).expand(3, 4),
    }  # fmt: skip


@pytest.mark.parametrize("how", FORMATS)
def test_tensors_come_out_as_they_were_beside_any_objects(tmp_path, how):
    wanted, path = tensors(), tmp_path / "run.pt"
    torch.save({"model": wanted, **around()}, path, **how)
    found = weights.read(path)
    assert found.keys() == wanted.keys() and found.key == "model"
    for name, value in wanted.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        plain = (lambda x: x) if value.is_complex() else torch.Tensor.float
        assert torch.equal(plain(found[name]), plain(value.detach()))


def test_tensors_that_share_their_numbers_are_read_once(tmp_path):
    base = torch.randn(8)
    torch.save({"one": base[:4], "two": base}, tmp_path / "shared.pt")
    found = weights.read(tmp_path / "shared.pt")
    assert found["one"].data_ptr() == found["two"].data_ptr()


def test_what_is_not_taken_is_not_read(tmp_path):
    large = torch.zeros(2_000_000)
    torch.save({"model": {"weight": torch.ones(2, 3)}, "optimizer": {"state": {0: {"exp_avg": large}}}}, tmp_path / "run.pt")
    tracemalloc.start()
    weights.read(tmp_path / "run.pt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


class Call:
    """Its unpickling would call a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def payloads(marker):
    """Every way to run a command that would leave a file."""
    command = f"touch {marker}"
    return {
        "os.system": Call(os.system, command),
        "eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Call(exec, f"open({str(marker)!r}, 'w')"),
        "open": Call(open, str(marker), "w"),
        "Popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "methodcaller": Call(operator.methodcaller("write_text", "x"), Path(marker)),
        "a method": Call(Outer.__init__, command),
        "import": Call(__import__, "antigravity"),
        "mkdir of a path": Call(Path.mkdir, Path(marker)),
        "numpy": Call(np.save, str(marker), 1),
        "torch": Call(torch.save, 1, str(marker)),
        "write": Call(Path.write_text, Path(marker), "x"),
    }


@pytest.mark.parametrize("how", FORMATS[:2])
@pytest.mark.parametrize("place", ["root", "beside", "inside", "deep"])
@pytest.mark.parametrize("name", payloads("x"))
def test_nothing_in_a_file_runs_wherever_it_is(tmp_path, name, place, how):
    """Refused or passed over: the marker is never there, and the tensors that come out are those of the file."""
    marker, state = tmp_path / "ran", {"weight": torch.ones(2, 3)}
    payload = payloads(marker)[name]
    content = {"root": payload, "beside": {"model": state, "args": payload}, "inside": {"model": {**state, "extra": payload}},
               "deep": {"model": state, "args": {"list": [({"x": [payload]},)]}}}[place]  # fmt: skip
    torch.save(content, tmp_path / "hostile.pt", **how)
    try:
        found = weights.read(tmp_path / "hostile.pt")
    except BadWeights as error:
        assert str(error).count("\n") == 0 and str(error).endswith(".")
    else:
        assert place != "root" and torch.equal(found["weight"], state["weight"])
    assert not marker.exists() and not Path(f"{marker}.npy").exists()


def archive(path, pickled, storages=None, compression=zipfile.ZIP_STORED):
    """A file in the form of torch.save with this pickle and these storages."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        for name, data in (storages or {}).items():
            file.writestr(f"archive/data/{name}", data)


def tensor(count, size, stride, offset=0):
    """The pickle of {"weight": tensor, "bias": tensor} of one storage, with these numbers in it."""

    def tuple_(values):
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", v) for v in values) + b"t"

    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu\x8a\x08" + struct.pack("<q", count) + b"tQ"
    one = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"\x8a\x08" + struct.pack("<q", offset) + tuple_(size) + tuple_(stride)
    one += b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}(U\x06weight" + one + b"U\x04bias" + one + b"u."


def changed(field, value):
    """The pickle of a sound tensor whose checked numbers are set again afterwards."""
    name, sound = bytes([len(field)]) + field, tensor(2, [2], [1])
    return sound.replace(b"RtRU\x04bias", b"RtR}U" + name + value + b"sbU\x04bias")


BAD = {
    "a shape set after it was checked": (changed(b"shape", b"\x8a\x05\x00\x00\x00\x00\x01\x85"), {"0": b"12345678"}),
    "a reader set after it was checked": (changed(b"storage", b"cx\ny\n"), {"0": b"12345678"}),
    "thousands of dimensions": (tensor(2, [2**61] * 200_000, [0] * 200_000), {"0": b"12345678"}),
    "a key of a million tuples": (b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.", {}),
    "hidden tuples inside tuples": (b"\x80\x02})q\x00" + b"N\x86" * 200_000 + b"Ns.", {}),
    "a hundred thousand classes": (b"\x80\x02" + b"".join(b"cx\n%x\n0" % n for n in range(100_000)) + b"}.", {}),
    "a storage larger than its bytes": (tensor(10**12, [10**12], [1]), {"0": b"1234"}),
    "a tensor larger than its storage": (tensor(2, [10**9], [1]), {"0": b"12345678"}),
    "strides of 0 that blow it up": (tensor(2, [10**6, 10**6], [0, 0]), {"0": b"12345678"}),
    "a negative size": (tensor(2, [-2], [1]), {"0": b"12345678"}),
    "a negative offset": (tensor(2, [1], [1], offset=-1), {"0": b"12345678"}),
    "a negative stride": (tensor(2, [2], [-1], offset=1), {"0": b"12345678"}),
    "sizes that overflow": (tensor(2, [2**31, 2**31, 2**31], [1, 1, 1]), {"0": b"12345678"}),
    "a storage that is not there": (tensor(2, [2], [1]), {}),
    "a memo of gigabytes": (b"\x80\x02}r\xff\xff\xff\x7f.", {}),
    "a string longer than the file": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.", {}),
    "millions of operations": (b"\x80\x02" + b"N0" * 3_000_000 + b"}.", {}),
    "an operation that does not exist": (b"\x80\x02\xff.", {}),
    "a stack that is empty": (b"\x80\x02.", {}),
}


@pytest.mark.parametrize("name", BAD)
def test_sizes_that_cannot_be_are_refused_at_once(tmp_path, name):
    pickled, storages = BAD[name]
    archive(tmp_path / "bad.pt", pickled, storages)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadWeights, match=r"truncated or not a weights file \([^()]*\); fetch it again\.$"):
        weights.read(tmp_path / "bad.pt")
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_name_in_a_file_imports_nothing(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.delitem(vars(torch), "_dynamo", raising=False)
    archive(tmp_path / "names.pt", tensor(2, [2], [1]).replace(b"u.", b"U\x04argsctorch\n_dynamo\nu."), {"0": struct.pack("<ff", 1, 2)})
    assert weights.read(tmp_path / "names.pt")["bias"].tolist() == [1, 2]
    assert "torch._dynamo" not in sys.modules


def test_a_training_s_own_package_may_be_called_code(tmp_path):
    archive(tmp_path / "own.pt", tensor(2, [2], [1]).replace(b"u.", b"U\x04argsccode.models\nConfig\nu."), {"0": bytes(8)})
    assert len(weights.read(tmp_path / "own.pt")) == 2


def test_a_good_one_of_these_opens(tmp_path):
    archive(tmp_path / "good.pt", tensor(2, [2], [1]), {"0": struct.pack("<ff", 1, 2)})
    assert weights.read(tmp_path / "good.pt")["bias"].tolist() == [1, 2]


def test_an_archive_that_would_unpack_to_a_thousand_times_its_size_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("svgbench.config.archives.LARGE", 16 << 20)
    size = 30 << 20
    archive(tmp_path / "bomb.pt", tensor(size // 4, [size // 4], [1]), {"0": bytes(size)}, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(BadWeights, match=r"would unpack to 31,\d{3},\d{3}, more than 50 times as many"):
        weights.read(tmp_path / "bomb.pt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_an_archive_compressed_by_hand_opens(tmp_path):
    data = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    archive(tmp_path / "small.pt", tensor(1000, [10, 100], [100, 1]), {"0": data.tobytes()}, zipfile.ZIP_DEFLATED)
    assert np.array_equal(weights.read(tmp_path / "small.pt")["weight"].numpy().ravel(), data)


@pytest.mark.parametrize("how", FORMATS[:2])
def test_any_damage_is_a_sentence_or_harmless(tmp_path, how):
    """Bits turned at many places of a small file."""
    path = tmp_path / "run.pt"
    torch.save({"model": {"weight": torch.ones(2, 3), "bias": torch.ones(3)}, "args": argparse.Namespace(x=1)}, path, **how)
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    for place in random.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            weights.read(path)
        except BadWeights as error:
            assert str(error).count("\n") == 0 and str(error).endswith(".")
