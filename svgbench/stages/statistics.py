"""Per-channel mean and standard deviation of the training images' raw latents: what standardises them for SiT. float64, exact under any rank count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from svgbench.errors import BrokenArtifact
from svgbench.nets.latents import LatentMoments, LatentStats
from svgbench.stages.tokenizers import open_tokenizer, to_floats
from svgbench.world.files import write_atomic
from svgbench.world.images import open_images
from svgbench.world.runtime import Runtime

BLOCK = 256


def run(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes ``statistics.safetensors`` (mean, std, each [C] float64) and ``statistics.json``."""
    images = open_images(inputs["images"]).train
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    moments = LatentMoments(tokenizer.channels, device=runtime.torch_device)
    starts = range(0, len(images), BLOCK)
    with torch.no_grad(), runtime.progress("latent statistics", len(images)) as bar:
        for number in runtime.shard(len(starts)):
            indices = torch.arange(starts[number], min(starts[number] + BLOCK, len(images)))
            moments.add(tokenizer.encode(to_floats(images.batch(indices), runtime.torch_device)))
            bar.advance(len(indices) * runtime.world)
    for tensor in moments.tensors():
        runtime.all_reduce_(tensor)
    stats = moments.finish()
    if runtime.is_main:
        save_file({"mean": stats.mean.contiguous().cpu(), "std": stats.std.contiguous().cpu()}, out / "statistics.safetensors")
        write_atomic(out / "statistics.json", json.dumps({"images": len(images), "channels": tokenizer.channels}).encode())
    return {"images_seen": len(images)}


def open_statistics(place: Path, channels: int, runtime: Runtime) -> LatentStats:
    """The statistics of a finished artifact, checked against the tokenizer's channels."""
    tensors = load_file(place / "statistics.safetensors")
    if tensors["mean"].shape != (channels,):
        raise BrokenArtifact(f"{place}: statistics of {len(tensors['mean'])} channels, the latents have {channels}; remove the directory and run again.")
    return LatentStats(**{name: tensor.to(runtime.torch_device) for name, tensor in tensors.items()})
