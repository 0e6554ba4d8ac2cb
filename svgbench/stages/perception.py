"""Probes on pooled latents: all ranks pool them once into memory-mapped files, then the probes are fitted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from svgbench.config import scoring
from svgbench.config.records import Score
from svgbench.errors import BrokenArtifact
from svgbench.images.store import ImageSet, open_images
from svgbench.machine import arrays
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.checkpoints import FOLDER, Steps
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.metrics.probe import pool, probe_scores
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.vectors import check_finite
from svgbench.nets.tokenizer import channel_parts
from svgbench.stages.results import probe_groups, write_scores
from svgbench.stages.tokenizers import kept_latents, open_tokenizer, to_floats

BLOCK = 256
"""Number of images encoded at once."""
KINDS = {"fp32": np.float32, "bf16": np.uint16}
"""Precision -> type in the file; NumPy has no bfloat16, so its bits are stored as uint16."""


class Pooled(NamedTuple):
    """A finished artifact of ``pooled``, memory-mapped."""

    vectors: dict[str, Tensor]
    """train, val -> [N, C], float32 or bfloat16"""
    labels: dict[str, Tensor]
    """train, val -> int64 [N]"""
    features: int
    """Number of leading channels that are the frozen encoder's; the rest are residual."""


def pooled(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes ``train.npy`` and ``val.npy`` ([N, C] float32, or uint16: bfloat16's bits), ``*.labels.npy`` int64 and ``pooled.json``.

    Ranks share the blocks. Raw latents are read if the statistics stage stored them, else encoded.
    """
    part = slice_["scores"]["probe"]
    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    counts = {"train": min(part["train_images"] or len(collection.train), len(collection.train)), "val": len(collection.val)}
    kind = KINDS[part["precision"]]
    if runtime.is_main:
        for split, count in counts.items():
            arrays.create(out / f"{split}.labels.npy", np.int64, (count,))
            labels = arrays.open_rows(out / f"{split}.labels.npy")
            labels[:] = getattr(collection, split).labels[:count].numpy()
            labels.flush()
    runtime.barrier()
    for split, count in counts.items():
        latents = _latents(split, getattr(collection, split), tokenizer.encode, inputs["statistics"], runtime)
        _fill(Array(out / f"{split}.npy", kind, (tokenizer.channels,)), split, count, latents, runtime)
    if runtime.is_main:
        about = {
            "precision": part["precision"], "stored": f"{np.dtype(kind).name}{' (the bits of bfloat16)' if kind is np.uint16 else ''}",
            "channels": tokenizer.channels, "features": tokenizer.feature_channels, **counts,
        }  # fmt: skip
        write_atomic(out / "pooled.json", (json.dumps(about, indent=1) + "\n").encode())
    return {"images_seen": sum(counts.values())}


def _latents(
    split: str, images: ImageSet, encode: Callable[[Tensor], Tensor], statistics: Path, runtime: Runtime
) -> Callable[[Tensor], Tensor]:
    """Indices [B] -> raw latents [B, C, h, w] on the device: memory-mapped from the statistics artifact if stored there, else encoded."""
    kept = kept_latents(statistics, split)
    if kept is not None:
        return lambda indices: torch.from_numpy(kept[indices.numpy()]).to(runtime.torch_device)
    return lambda indices: encode(to_floats(images.batch(indices), runtime.torch_device))


def _fill(file: Array, split: str, count: int, latents: Callable[[Tensor], Tensor], runtime: Runtime) -> None:
    """Computes and writes the rows of a file; ranks share the blocks."""

    @torch.no_grad()
    def rows(items: range) -> tuple[np.ndarray]:
        vectors = pool(latents(torch.tensor(items)))
        check_finite(vectors, f"{split} image", vectors.device, first=items.start)
        return (stored(vectors, np.dtype(file.kind)),)

    journal = file.path.parent / FOLDER / split
    Blocks(journal, [file], count=count, size=BLOCK, runtime=runtime, label=f"pooled latents, {split}").run(rows)


def stored(vectors: Tensor, kind: np.dtype) -> np.ndarray:
    """Float32 vectors [N, C] converted to the type of the file: unchanged, or the bits of the nearest bfloat16."""
    return (vectors.cpu() if kind == np.float32 else vectors.bfloat16().cpu().view(torch.uint16)).numpy()


def open_pooled(place: Path) -> Pooled:
    """The memory-mapped vectors and labels of a finished artifact. Raises BrokenArtifact for a missing or damaged file."""
    try:
        about = json.loads((place / "pooled.json").read_bytes())
        kind, vectors, labels = KINDS[about["precision"]], {}, {}
        for split in ("train", "val"):
            count = about[split]
            vectors[split] = arrays.open_mapped(place / f"{split}.npy", (count, about["channels"]), kind)
            labels[split] = arrays.open_mapped(place / f"{split}.labels.npy", (count,), np.int64)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BrokenArtifact(f"{place}: does not hold complete pooled latents ({error}); remove the directory and run again.") from None
    if kind is np.uint16:
        vectors = {split: bits.view(torch.bfloat16) for split, bits in vectors.items()}
    return Pooled(vectors, labels, about["features"])


def probe(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Linear probe, kNN and logistic regression of mean-pooled latents: features, residual, both. Ranks share these three parts; the main
    rank then reads the saved results of all."""
    part = slice_["scores"]
    settings = scoring.Probe.model_validate(part["probe"])
    collection, (vectors, labels, features) = open_images(inputs["images"]), open_pooled(inputs["pooled-latents"])
    parts = channel_parts(features, vectors["train"].shape[1])
    groups = probe_groups(inputs, collection, len(labels["train"]))
    steps = Steps(out / FOLDER, runtime.notify)

    def of(name: str, done: Callable[[int], None]) -> list[Score]:
        channels = parts[name]
        return probe_scores(
            vectors["train"][:, channels], labels["train"], vectors["val"][:, channels], labels["val"], settings=settings, latents=name,
            classes=len(collection.classes), seed=slice_["seed"], device=runtime.torch_device, done=done,
            resampling=Resampling(resamples=part["resamples"], seed=slice_["seed"]), steps=steps.part(name), **groups,
        )  # fmt: skip

    mine, error = [list(parts)[number] for number in runtime.shard(len(parts))], None
    with runtime.progress("probes", 3 * len(mine), unit="probes") as bar:
        try:
            scores = {name: of(name, bar.advance) for name in mine}
        except Exception as caught:
            error = caught
    runtime.raise_together(error, "the probes failed", patient=True)  # one part may take far longer than another
    if not runtime.is_main:
        return {}
    return write_scores(out, [score for name in parts for score in scores.get(name) or of(name, lambda probes: None)], slice_)
