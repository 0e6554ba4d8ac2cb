"""The files of a weights path: the file itself, or the weights in a directory as libraries write them. No torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

from svgbench.errors import BadWeights

WEIGHTS_FILES = (
    "model.safetensors", "model.safetensors.index.json", "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.bin.index.json",
)  # fmt: skip
"""Names of weights in a directory of Hugging Face, diffusers or open_clip; the first that exists is used."""
AVERAGED = {"ema", "emas", "averaged", "average", "avg", "shadow", "swa", "polyak", "modelema", "emamodel", "netema", "emanet"}
"""Words in the key or the file name of a moving average; ``teacher`` counts if there is also a ``student``."""
TENSORS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Endings of the names of weights files."""
VARIANTS = ("fp16", "bf16", "non_ema")
"""Words in the names of variants of the usual weights, in order of preference."""
SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.safetensors|\.bin)$")
INDEX_BYTES = 64 << 20
"""Largest size of an index in bytes."""
OTHERS = (
    (("mp_rank_00_model_states.pt", "zero_to_fp32.py", "global_step*", "*zero_pp_rank_*"),
     "is a checkpoint of DeepSpeed; make one file of it with its own script: python zero_to_fp32.py DIR FILE"),
    (("*/.metadata",), "holds a checkpoint of torch.distributed.checkpoint in {found}; give that folder"),
    (("snapshots/*/*",), "is a repository in the cache of Hugging Face; give its folder {found}"),
    (("*.distcp",), "holds {found} of torch.distributed.checkpoint without its .metadata; copy the whole folder"),
    (("saved_model.pb", "*.data-00000-of-*", "tf_model.h5"), "holds TensorFlow weights; give the PyTorch or safetensors weights"),
    (("flax_model.msgpack", "*.msgpack"), "holds Flax weights; give the PyTorch or safetensors weights"),
    (("*.onnx",), "holds an ONNX model; give the PyTorch or safetensors weights"),
    (("*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.bin"), "holds weights under another name ({found}); give that file itself"),
    (("*/model*.safetensors*", "*/diffusion_pytorch_model*", "*/pytorch_model*"), "holds weights in {found}; give that folder"),
)  # fmt: skip
"""Files in a directory without weights of the usual names -> what it is and what to do."""


def is_average(key: str) -> bool:
    """Whether a key is one of the usual names of a moving average: ``ema``, ``model_ema1``, ``state_dict_ema``, ``EMACallback``, ..."""
    return any(word.lower() in AVERAGED for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", key))


def weights_files(path: Path) -> list[Path]:
    """The files of a weights path: the file itself and the other shards of its set; the weights in a directory (or in its ``vae``), of one
    variant, in full precision if available; every part that an index lists; the metadata and files of torch.distributed.checkpoint."""
    path = path.expanduser()
    if path.is_dir():
        if (path / ".metadata").is_file():
            return [path / ".metadata", *sorted(path.glob("*.distcp"))]
        return _in_directory(path)
    if path.name.endswith(".index.json") or re.search(r"\.index\.[a-z0-9_]+\.json$", path.name):
        return _indexed(path)
    if path.suffix == ".distcp":
        raise BadWeights(f"{path} is one file of torch.distributed.checkpoint; give its folder {path.parent}.")
    return _shards(path) if SHARD.match(path.name) else [path]


def _in_directory(folder: Path) -> list[Path]:
    for variant in ("", *VARIANTS):
        for place in (folder, folder / "vae"):
            for name in WEIGHTS_FILES:
                candidate = place / _variant(name, variant)
                if candidate.is_file():
                    return _alone(weights_files(candidate), place)
            for file in sorted(place.glob("*-of-*")):
                if (match := SHARD.match(file.name)) and match["stem"] in _stems(variant):
                    return _alone(_shards(file), place)
    for patterns, says in OTHERS:
        first = next((file for pattern in patterns for file in sorted(folder.glob(pattern))), None)
        if first is not None:
            listed = ", ".join(WEIGHTS_FILES[:3])
            inside = first.name if first.parent == folder else str(first.parent.relative_to(folder))
            raise BadWeights(f"the directory {folder} holds none of {listed}, ...: it {says.format(found=inside)}.")
    raise BadWeights(f"the directory {folder} holds none of {', '.join(WEIGHTS_FILES)}; give the weights file itself.")


def _alone(parts: list[Path], place: Path) -> list[Path]:
    """These files, unless another file next to them has the name of a moving average."""
    averages = [
        file for file in sorted(place.iterdir())
        if file.suffix in TENSORS and file not in parts and is_average(file.stem) and "non_ema" not in file.stem and file.is_file()
    ]  # fmt: skip
    if averages:
        raise BadWeights(
            f"the directory {place} holds {parts[0].name} and, by its name, an average of such weights, {averages[0].name}; give the "
            "file to use."
        )
    return parts


def _variant(name: str, variant: str) -> str:
    """``model.fp16.safetensors``, ``model.safetensors.index.fp16.json``."""
    if not variant:
        return name
    stem, dot, ending = name.rpartition(".")
    return f"{stem}.{variant}{dot}{ending}"


def _stems(variant: str) -> set[str]:
    """Beginnings of the names of shards."""
    stems = {re.sub(r"\.(safetensors|bin)(\.index\.json)?$", "", name) for name in WEIGHTS_FILES}
    return {f"{stem}.{variant}" if variant else stem for stem in stems}


def _shards(path: Path) -> list[Path]:
    """Every file of the set that ``name-00001-of-00003.safetensors`` belongs to."""
    match = SHARD.match(path.name)
    assert match is not None
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= 10_000:
        return [path]
    names = [f"{match['stem']}-{number:05d}-of-{match['count']}{match['suffix']}" for number in range(1, count + 1)]
    _refuse_missing(f"{path} is one of {count} files", path.parent, names)
    return [path.parent / name for name in names]


def _indexed(path: Path) -> list[Path]:
    """The files that an index lists."""
    try:
        if path.stat().st_size > INDEX_BYTES:
            raise ValueError
        if path.read_bytes().startswith(b"version https://git-lfs"):
            raise BadWeights(f"{path} is a Git LFS pointer, not the index; run `git lfs pull` where it was cloned, or download the file.")
        parts = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        if not parts or any(Path(part).name != part for part in parts):
            raise ValueError
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise BadWeights(f"{path} is not an index of weights files; fetch it again.") from None
    _refuse_missing(f"{path} lists {len(parts)} files", path.parent, parts)
    return [path.parent / part for part in parts]


def _refuse_missing(opening: str, folder: Path, parts: list[str]) -> None:
    missing = [part for part in parts if not (folder / part).is_file()]
    if missing:
        raise BadWeights(f"{opening}, of which {len(missing)} are missing ({missing[0]}); fetch them too.")
