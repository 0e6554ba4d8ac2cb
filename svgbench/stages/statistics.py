"""Per-channel mean and standard deviation of the training images' raw latents: what standardises them for SiT. float64 sums of blocks of
images, added in the images' order whichever rank made them: the same bits under any rank count. Latents that are small enough are kept
beside them, so that the stages behind need not encode again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from svgbench.errors import BrokenArtifact
from svgbench.nets.latents import LatentMoments, LatentStats
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.stages.tokenizers import encoder_of, open_tokenizer, to_floats
from svgbench.world import arrays
from svgbench.world.files import write_atomic
from svgbench.world.images import Images, open_images
from svgbench.world.runtime import Runtime

BLOCK = 256
KEPT_BYTES = 1 << 30
"""Latents of all images up to this size are kept on disk; ImageNet's (250 to 500 GB) are encoded when read."""


def run(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes ``statistics.safetensors`` (mean, std, each [C] float64), ``statistics.json`` and, where they fit, the latents."""
    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    moments = LatentMoments(tokenizer.channels, device=runtime.torch_device)
    sums = moments.sums.repeat(math.ceil(len(collection.train) / BLOCK), 1)  # a row for each block
    stores = _stores(out, collection, tokenizer, runtime)
    for split, store in stores.items() if stores else [("train", None)]:
        images = getattr(collection, split)
        starts = range(0, len(images), BLOCK)
        with torch.no_grad(), runtime.progress(f"latents, {split}", len(images)) as bar:
            for number in runtime.shard(len(starts)):
                indices = torch.arange(starts[number], min(starts[number] + BLOCK, len(images)))
                latents = tokenizer.encode(to_floats(images.batch(indices), runtime.torch_device))
                if split == "train":
                    block = LatentMoments(tokenizer.channels, device=runtime.torch_device)
                    block.add(latents)
                    sums[number] = block.sums
                if store is not None:
                    store[indices.numpy()] = latents.cpu().numpy()
                bar.advance(len(indices) * runtime.world)
        if store is not None:
            store.flush()
    for row in runtime.all_reduce_(sums):  # each is one rank's, zero on all others
        moments.sums += row
    stats = moments.finish()
    if runtime.is_main:
        write(stats, out, autoencoder=inputs["autoencoder"], images=len(collection.train))
    return {"images_seen": len(collection.train)}


def write(stats: LatentStats, out: Path, *, autoencoder: Path, images: int) -> None:
    """The artifact's files; ``autoencoder``: the artifact whose latents these are the statistics of; ``images``: how many they were
    measured on, 0 for those of a release."""
    save_file({"mean": stats.mean.contiguous().cpu(), "std": stats.std.contiguous().cpu()}, out / "statistics.safetensors")
    name, identity = encoder_of(autoencoder)
    about = {"images": images, "channels": len(stats.mean), "encoder": name, "autoencoder": identity}
    write_atomic(out / "statistics.json", (json.dumps(about, indent=1) + "\n").encode())


def _stores(out: Path, collection: Images, tokenizer: Tokenizer | Codec, runtime: Runtime) -> dict[str, np.ndarray]:
    """``latents.train.npy`` and ``latents.val.npy`` float32 [N, C, h, w], open to every rank; empty when too large to keep."""
    side = collection.resolution // tokenizer.stride
    shapes = {split: (len(getattr(collection, split)), tokenizer.channels, side, side) for split in ("train", "val")}
    if sum(4 * math.prod(shape) for shape in shapes.values()) > KEPT_BYTES:
        return {}
    if runtime.is_main:
        for split, shape in shapes.items():
            arrays.create(out / f"latents.{split}.npy", np.float32, shape)
    runtime.barrier()
    return {split: arrays.open_rows(out / f"latents.{split}.npy") for split in shapes}


def open_statistics(place: Path, autoencoder: Path, channels: int, runtime: Runtime) -> LatentStats:
    """The statistics of a finished artifact, checked against the autoencoder artifact whose latents (of so many channels) they will
    standardise. Statistics from before they named their autoencoder are known by their key and their channels."""
    about = json.loads((place / "statistics.json").read_bytes())
    name, identity = encoder_of(autoencoder)
    if about.get("autoencoder", identity) != identity:
        whose = f"of '{about['encoder']}'" if about["encoder"] != name else f"of '{name}' with other weights"
        raise BrokenArtifact(
            f"{place}: statistics {whose}, the latents are of '{name}' as in {autoencoder}; remove the directory and run again."
        )
    tensors = load_file(place / "statistics.safetensors")
    if len(tensors["mean"]) != channels:
        raise BrokenArtifact(
            f"{place}: statistics of {len(tensors['mean'])} channels, the latents have {channels}; remove the directory and run again."
        )
    return LatentStats(**{name: tensor.to(runtime.torch_device) for name, tensor in tensors.items()})
