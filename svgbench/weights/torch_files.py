"""Reads files of ``torch.save`` without running code from them: tensors are loaded, every other object becomes an inert stand-in.

``torch.load`` imports the classes that a file names. With ``weights_only`` it rejects the file because of one such class, and
``safe_globals`` needs to know the classes beforehand; neither reads ``pickle_protocol=4``, subclasses of dict and list, ``defaultdict`` and
``deque``, files of torch before 1.6, or the metadata of ``torch.distributed.checkpoint``. This module never imports a name from a file: it
implements the few functions that rebuild tensors, and replaces all other names by empty classes. Tensors are read from the disk only when
needed, so an optimiser's state beside the weights uses no memory.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from svgbench.config.archives import Member, checked, start_of
from svgbench.errors import BadWeights

OPERATIONS = 2_000_000
"""Largest number of operations in one pickle; large checkpoints have far fewer."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first number in files of torch before 1.6."""
NAMES = 20_000
"""Largest number of different classes and functions in one pickle; each uses a kilobyte of memory."""
NESTED = 500
"""Deepest nesting of tuples. Python hashes tuples recursively, so deeper ones could crash the process."""
DIMENSIONS = 64
"""Largest number of dimensions of a tensor in torch."""
INFLATED = 1 << 20
"""A tensor with strides of 0 may have more elements than its storage, but at most this many."""
HOSTILE_MODULES = (
    "os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "ctypes", "socket", "pty", "webbrowser", "commands", "code",
)  # fmt: skip
HOSTILE_BUILTINS = ("eval", "exec", "compile", "open", "__import__", "input", "breakpoint", "execfile")
"""Names that no checkpoint needs and malicious pickles use: such a file is rejected, although nothing would be executed."""
STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64,
    "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool, "Untyped": torch.uint8,
    "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64,
}  # fmt: skip
"""``torch.FloatStorage`` and similar classes -> the type of their elements."""


class Hostile(pickle.UnpicklingError):
    """The pickle names functions that run code."""


class StandIn(dict):
    """Replaces an object of an unknown class: stores its content and does nothing. It is a mapping if the class was one
    (``defaultdict``, ``EasyDict``)."""

    foreign = ""
    """Module and name of the class or function it stands for."""
    args: tuple[Any, ...]
    """Arguments of the constructor."""
    state: Any
    """State set after construction (``__setstate__``)."""

    def __new__(cls, *args: Any, **words: Any) -> StandIn:
        made = dict.__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any, **words: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **words: Any) -> StandIn:
        return StandIn(*args)

    def append(self, item: Any) -> None:
        """Ignores an item of a list of another class."""

    def extend(self, items: Any) -> None:
        """Ignores items of a list of another class."""

    def add(self, item: Any) -> None:
        """Ignores an item of a set of another class."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


class OrderedStandIn(StandIn):
    """Replaces ``collections.OrderedDict``, which old pickles build from a list of pairs."""

    def __init__(self, pairs: Any = (), **words: Any) -> None:
        super().__init__()
        self.update(pairs)


class _Checked:
    """An object that was checked when it was created; the file cannot set its state afterwards."""

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("the state of a tensor is set a second time")


@dataclass(frozen=True)
class Storage(_Checked):
    """A storage in the file: ``read`` returns its elements, one-dimensional."""

    read: Callable[[], Tensor]
    count: int


@dataclass(frozen=True)
class Stored(_Checked):
    """A tensor in the file, not read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype | None = None
    conjugated: bool = False
    negated: bool = False

    def tensor(self) -> Tensor:
        """The tensor, read from the file."""
        flat = self.storage.read()
        tensor_view = (flat if self.dtype is None else flat.view(self.dtype)).as_strided(self.shape, self.stride, self.offset)
        tensor_view = tensor_view.conj().resolve_conj() if self.conjugated else tensor_view
        return -tensor_view if self.negated else tensor_view


class _Function(_Checked):
    """Implements a function of torch that the file calls by name."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


def _rebuilt(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Stored:
    numbers = (offset, *shape, *stride)
    known = isinstance(storage, Storage) and len(shape) == len(stride) <= DIMENSIONS
    if not known or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise pickle.UnpicklingError("a tensor with invalid sizes")
    typed, *more = rest[2:] if len(rest) > 2 and isinstance(rest[2], torch.dtype) else (None, *rest[2:])  # v3 states the dtype
    bits = more[0] if more and isinstance(more[0], Mapping) else {}
    count = storage.count // (1 if typed is None else typed.itemsize)
    elements = math.prod(shape)
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if elements and (last >= count or elements > max(count, INFLATED)):
        raise pickle.UnpicklingError(f"a tensor of {elements} elements in a storage of {count}")
    return Stored(storage, offset, tuple(shape), tuple(stride), typed, bits.get("conj") is True, bits.get("neg") is True)


def _named(name: str) -> type[StandIn]:
    return type("StandIn", (StandIn,), {"foreign": name})


ATTRIBUTE = _named("an attribute")
FUNCTIONS: Mapping[str, Any] = {
    "torch._utils._rebuild_tensor": _Function(_rebuilt),
    "torch._utils._rebuild_tensor_v2": _Function(_rebuilt),
    "torch._utils._rebuild_tensor_v3": _Function(_rebuilt),
    "torch._utils._rebuild_parameter": _Function(lambda data, *rest: data),
    "torch._utils._rebuild_parameter_with_state": _Function(lambda data, *rest: data),
    "torch._tensor._rebuild_from_type_v2": _Function(lambda function, kind, args, state: function(*args)),
    "torch.Size": _Function(tuple),
    "collections.OrderedDict": OrderedStandIn,
    "builtins.getattr": _Function(lambda *args: ATTRIBUTE),
}
"""The only names in a file that do something; all others become stand-ins."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing."""

    def __init__(self, data: bytes, storage: Callable[[Any], Any]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._storage = storage
        self._classes: dict[str, type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The object that is used for a name in the file."""
        module = "builtins" if module == "__builtin__" else module
        if module in HOSTILE_MODULES or (module == "builtins" and name in HOSTILE_BUILTINS):
            raise Hostile(f"{module}.{name}")
        full = f"{module}.{name}"
        if full in FUNCTIONS:
            return FUNCTIONS[full]
        if module.startswith("torch") and name.endswith("Storage"):
            return STORAGES.get(name.removesuffix("Storage"), full)
        if module == "torch" and isinstance(found := vars(torch).get(name), torch.dtype):  # ``getattr`` could import a module
            return found
        if full not in self._classes:
            if len(self._classes) >= NAMES:
                raise pickle.UnpicklingError(f"more than {NAMES:,} names of classes and functions")
            self._classes[full] = _named(full)
        return self._classes[full]

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a tensor refers to."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or type(pid[4]) is not int or pid[4] < 0:
            raise pickle.UnpicklingError("a reference that is not to a storage")
        if not isinstance(pid[1], torch.dtype):
            return StandIn()
        return self._storage(pid)


def unpickled(data: bytes, storage: Callable[[Any], Any] = lambda pid: StandIn()) -> Any:
    """The object in a pickle that ``_length`` has checked."""
    try:
        return _Unpickler(data, storage).load()
    except (TypeError, AttributeError, IndexError, KeyError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise pickle.UnpicklingError(f"{type(error).__name__} while it was read") from None


def _length(source: Any) -> int:
    """Length in bytes of the pickle at ``source``'s position. Refuses one with too many operations, with a memo larger than itself, or with
    tuples that are nested too deeply."""
    start, largest = source.tell(), -1
    depths, marks, memo = [], [], {}  # type: ignore[var-annotated]  # depths: nesting of tuples in each object on the unpickler's stack
    for count, (operation, argument, _) in enumerate(pickletools.genops(source)):
        name = operation.name
        if name == "MARK":
            marks.append(len(depths))
        elif name == "POP" and marks and marks[-1] == len(depths):
            marks.pop()
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(memo) if argument is None else argument
            memo[place] = depths[-1] if depths else 0
            largest = max(largest, place)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            depths.append(memo.get(argument, 0))
        else:
            taken, marked, put, tuples = _EFFECTS[operation.code]
            cut = max(0, (marks.pop() if marked and marks else len(depths)) - taken)
            depth = max(depths[cut:], default=0) + tuples if taken or marked else tuples
            depths[cut:] = [depth] * put
            if depth > NESTED:
                raise pickle.UnpicklingError(f"more than {NESTED} tuples inside each other")
        if count >= OPERATIONS:
            raise pickle.UnpicklingError(f"more than {OPERATIONS:,} operations, which no checkpoint needs")
    if largest > count:
        raise pickle.UnpicklingError("a memo larger than the pickle")
    return source.tell() - start


def _effect(operation: pickletools.OpcodeInfo) -> tuple[int, bool, int, int]:
    """The effect of an operation on the stack: number of objects popped (without those above a mark), whether all above a mark are popped,
    number of objects pushed, and 1 if it wraps them in a tuple."""
    before = operation.stack_before
    marked = pickletools.markobject in before
    taken = before.index(pickletools.markobject) if marked else len(before)
    return taken, marked, len(operation.stack_after), int(operation.name.startswith("TUPLE"))


_EFFECTS = {operation.code: _effect(operation) for operation in pickletools.opcodes}


def read_pickle(data: bytes) -> Any:
    """The object in one pickle without tensors."""
    with io.BytesIO(data) as source:
        _length(source)
    return unpickled(data)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor of this shape."""
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def read_archive(path: Path, source: io.BytesIO | None = None) -> Any:
    """The content of a file of ``torch.save`` (a ZIP archive), read from ``source`` if given; its tensors are ``Stored``."""
    place: Path | io.BytesIO = path if source is None else source
    members = checked(place, named=path)
    pickles = [name for name in members if name == "data.pkl" or (name.endswith("/data.pkl") and name.count("/") == 1)]
    if len(pickles) != 1:
        raise pickle.UnpicklingError(f"it has {len(pickles)} members data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in members and _bytes(place, members[f"{root}byteorder"]).tobytes() == b"big":
        raise BadWeights(f"{path} was written on a big-endian machine; save it again on a little-endian one.")
    read: dict[str, Storage] = {}

    def storage(pid: Any) -> Storage:
        _, kind, key, _, count = pid[:5]
        name = f"{root}data/{key}"
        if name not in members or members[name].size < count * kind.itemsize:
            raise pickle.UnpicklingError(f"storage {key} is missing or too short")
        return read.setdefault(f"{key} {kind}", Storage(_once(lambda: _typed(_bytes(place, members[name]), kind, count)), count))

    data = _bytes(place, members[pickles[0]]).tobytes()
    with io.BytesIO(data) as operations:
        _length(operations)
    return unpickled(data, storage)


def read_legacy(path: Path) -> Any:
    """The content of a file of torch before 1.6, which consists of several pickles followed by the storages."""
    starts: dict[str, tuple[int, int]] = {}
    waiting: dict[str, Storage] = {}

    def storage(pid: Any) -> Storage:
        _, kind, key, _, count = pid[:5]
        view = pid[5] if len(pid) > 5 and isinstance(pid[5], tuple) and len(pid[5]) == 3 else (key, 0, count)
        _, offset, count = view

        def read() -> Tensor:
            start, stored = starts.get(str(key), (0, -1))
            if not (type(offset) is int and type(count) is int and offset >= 0 and offset + count <= stored):
                raise BadWeights(f"{path} is truncated or not a weights file (storage {key} is too short); fetch it again.")
            return _typed(_slice(path, start + offset * kind.itemsize, count * kind.itemsize), kind, count)

        sizes[str(key)] = kind.itemsize
        return waiting.setdefault(f"{view} {kind}", Storage(_once(read), count))

    sizes: dict[str, int] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:

        def following() -> bytes:
            start = content.tell()
            length = _length(content)
            return content[start : start + length]

        head = [unpickled(following()) for _ in range(3)]
        if head[0] != LEGACY_MAGIC:
            raise pickle.UnpicklingError("not a file of torch")
        content_found = unpickled(following(), storage)
        keys = unpickled(following())
        place = content.tell()
        for key in keys if isinstance(keys, list) else ():
            stored = int.from_bytes(content[place : place + 8], "little", signed=True)
            size = stored * sizes.get(str(key), 1)
            if stored < 0 or place + 8 + size > len(content):
                raise EOFError(f"storage {key} ends after the end of the file")
            starts[str(key)] = (place + 8, stored)
            place += 8 + size
    return content_found


def _once(read: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Caches the result of ``read``, so that tensors share a storage as in the file."""
    found: list[Tensor] = []

    def again() -> Tensor:
        if not found:
            found.append(read())
        return found[0]

    return again


def _bytes(path: Path | io.BytesIO, member: Member) -> np.ndarray:
    """A member's bytes. Checksums are not compared, because torch can write files without them."""
    if not member.deflated:
        return _slice(path, start_of(path, member), member.size)
    with zipfile.ZipFile(path) as archive, archive.open(member.name) as file:
        data = bytearray(file.read(member.size))
    if len(data) != member.size:
        raise EOFError(f"{member.name} is shorter than it should be")
    return np.frombuffer(data, dtype=np.uint8)


def _slice(path: Path | io.BytesIO, start: int, size: int) -> np.ndarray:
    if isinstance(path, Path):
        data = np.fromfile(path, dtype=np.uint8, count=size, offset=start)
    else:
        data = np.frombuffer(bytearray(path.getbuffer()[start : start + size]), dtype=np.uint8)
    if len(data) != size:
        raise EOFError("the file ends in the middle of a storage")
    return data


def _typed(data: np.ndarray, kind: torch.dtype, count: int) -> Tensor:
    """``count`` elements of a type from their bytes."""
    return torch.from_numpy(data[: count * kind.itemsize]).view(kind) if count else torch.empty(0, dtype=kind)
