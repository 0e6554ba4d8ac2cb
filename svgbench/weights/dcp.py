"""Reads folders of ``torch.distributed.checkpoint`` (a pickle of metadata and files of tensors) without executing anything."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svgbench.config.file_types import regular
from svgbench.errors import BadWeights
from svgbench.weights.torch_files import DIMENSIONS, StandIn, Storage, Stored, contiguous, read_archive, read_pickle

MAX_METADATA_BYTES = 1 << 30
"""Largest size of the metadata in bytes."""


def read_dcp(folder: Path) -> dict[str, Any]:
    """The state dict in a folder, nested as it was saved, with tensors as ``Stored``, which are read later. Raises BadWeights when the
    folder cannot be read."""
    place = folder / ".metadata" if folder.is_dir() else folder
    regular(place)
    try:
        if place.stat().st_size > MAX_METADATA_BYTES:
            raise pickle.UnpicklingError("it is larger than any metadata")
        return _read(place)
    except (pickle.UnpicklingError, OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        advice = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR FILE"
        raise BadWeights(
            f"{place.parent} cannot be read as a folder of torch.distributed.checkpoint ({error}); make one file of it: {advice}."
        ) from None


def _read(place: Path) -> dict[str, Any]:
    metadata = read_pickle(place.read_bytes())
    state = _fields(metadata)
    pieces: dict[str, dict[tuple[int, ...], Mapping[str, Any]]] = {}
    for index, info in state["storage_data"].items():
        about, where = _fields(index), _fields(info)
        if about.get("offset") is not None:
            pieces.setdefault(about["fqn"], {})[tuple(about["offset"])] = where
    content: dict[str, Any] = {}
    for name, entry in state["state_dict_metadata"].items():
        about = _fields(entry) if getattr(entry, "state", None) else {}
        if "chunks" not in about:
            continue  # not a tensor
        tensor = _tensor(name, about, pieces.get(name, {}), place.parent)
        *parents, last = (state.get("planner_data") or {}).get(name) or (name,)
        inner = content
        for parent in parents:
            inner = inner.setdefault(str(parent), {})
        inner[str(last)] = tensor
    return content


def _tensor(name: str, about: Mapping[str, Any], pieces: Mapping[tuple[int, ...], Mapping[str, Any]], folder: Path) -> Stored:
    """A tensor that is assembled from its chunks when it is read."""
    size = tuple(about["size"])
    properties = about["properties"]
    kind = next((one for one in _all(properties) if isinstance(one, torch.dtype)), torch.float32)
    chunks = [(tuple(_fields(chunk)["offsets"]), tuple(_fields(chunk)["sizes"])) for chunk in about["chunks"]]
    files = {where["relative_path"] for where in pieces.values()}
    stored_bytes = sum((folder / file).stat().st_size for file in files if Path(file).name == file and (folder / file).is_file())
    if len(size) > DIMENSIONS or not all(type(side) is int and side >= 0 for side in size):
        raise ValueError(f"{name} has an invalid size")
    if math.prod(size) * kind.itemsize > stored_bytes:
        raise ValueError(f"{name} would be larger than its files")
    if sum(math.prod(sizes) for sizes in dict(chunks).values()) != math.prod(size):
        raise ValueError(f"the parts of {name} do not cover it")

    def read() -> Tensor:
        tensor = torch.empty(size, dtype=kind)
        for offsets, sizes in chunks:
            if offsets not in pieces:
                raise BadWeights(f"{folder} lacks a part of {name}; copy the whole folder again.")
            part = _piece(folder, pieces[offsets], name)
            view = tensor[tuple(slice(start, start + side) for start, side in zip(offsets, sizes, strict=True))]
            if view.shape != part.shape:
                raise BadWeights(f"{folder}: a part of {name} is {list(part.shape)} instead of {list(view.shape)}; copy it again.")
            view.copy_(part)
        return tensor.flatten()

    return Stored(Storage(read, math.prod(size)), 0, size, contiguous(size))


def _piece(folder: Path, where: Mapping[str, Any], name: str) -> Tensor:
    """One chunk, from its bytes in a file of the folder."""
    file, start, length = where["relative_path"], where["offset"], where["length"]
    if Path(file).name != file or where.get("transform_descriptors"):
        raise BadWeights(f"{folder} keeps {name} compressed or outside itself; make one file of it with torch's own dcp_to_torch.")
    path = folder / file
    if not path.is_file():
        raise BadWeights(f"{folder} lacks its file {file}, which holds {name}; copy the whole folder again.")
    with path.open("rb") as content:
        content.seek(start)
        data = content.read(min(length, path.stat().st_size - start))
    content_of_piece = read_archive(path, io.BytesIO(data))
    if not isinstance(content_of_piece, Stored):
        raise BadWeights(f"{path} holds {type(content_of_piece).__name__} in place of {name}; copy the folder again.")
    return content_of_piece.tensor()


def _fields(value: Any) -> Mapping[str, Any]:
    """The fields of a stand-in for a dataclass."""
    if not isinstance(value, StandIn) or not isinstance(value.state, Mapping):
        raise ValueError("its metadata has another layout")
    return value.state


def _all(value: Any) -> list[Any]:
    """All values in a stand-in, from its state (a mapping or tuple) and its constructor arguments."""
    state = value.state if isinstance(value, StandIn) else None
    held = state.values() if isinstance(state, Mapping) else state if isinstance(state, tuple) else ()
    return [*held, *(value.args if isinstance(value, StandIn) else ())]
