"""Mean and standard deviation of each channel of the training images' raw latents, and the statistics that standardise them for SiT. Sums
of blocks of images are computed in float64 and added in the order of the images, so that they are bit-equal for any number of ranks.
If the latents are small enough, they are stored too, so that later stages need not encode again."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from svgbench.config.choices import KEPT_BYTES
from svgbench.errors import BrokenArtifact
from svgbench.images.store import Images, ImageSet, open_images
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.nets.latents import LatentMoments, LatentStats, standardised_by
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.stages.tokenizers import encoder_of, open_tokenizer, to_floats

BLOCK = 256


def run(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes ``statistics.safetensors`` (mean, std, each [C] float64), ``statistics.json`` and, if they are small enough, the latents."""
    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stores, sums = _stores(out, collection, tokenizer), out / FOLDER / "sums.npy"
    for split in ("train", "val"):
        files = [Array(sums, np.float64, (2 * tokenizer.channels + 1,), by_block=True)] if split == "train" else []
        files += [stores[split]] if stores else []
        if files:
            _fill(split, getattr(collection, split), files, tokenizer, out, runtime)
    moments = LatentMoments(tokenizer.channels, device=runtime.torch_device)
    for row in torch.from_numpy(np.load(sums)).to(runtime.torch_device):
        moments.sums += row
    stats = moments.finish()
    if runtime.is_main:
        write(stats, out, autoencoder=inputs["autoencoder"], images=len(collection.train))
    return {"images_seen": len(collection.train)}


def standardise(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The statistics for ``latents.standardise``, computed from those of each channel; stored latents are linked."""
    tokenizer, measured = open_tokenizer(inputs["autoencoder"], runtime), inputs["statistics"]
    stats = open_statistics(measured, inputs["autoencoder"], tokenizer.channels, runtime)
    stats = standardised_by(slice_["latents"]["standardise"], stats, tokenizer.feature_channels)
    images = json.loads((measured / "statistics.json").read_bytes())["images"]
    write(stats, out, autoencoder=inputs["autoencoder"], images=images)
    for file in sorted(measured.glob("latents.*.npy")):
        _linked(file, out / file.name)
    return {}


def _linked(file: Path, to: Path) -> None:
    """A hard link to the file, or a copy if the file system has no links."""
    to.unlink(missing_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def write(stats: LatentStats, out: Path, *, autoencoder: Path, images: int) -> None:
    """Writes the artifact's files. ``autoencoder``: the artifact that encodes the latents; ``images``: number of images that were measured,
    0 for a release's statistics."""
    save_file({"mean": stats.mean.contiguous().cpu(), "std": stats.std.contiguous().cpu()}, out / "statistics.safetensors")
    name, identity = encoder_of(autoencoder)
    about = {"images": images, "channels": len(stats.mean), "encoder": name, "autoencoder": identity}
    write_atomic(out / "statistics.json", (json.dumps(about, indent=1) + "\n").encode())


def _fill(split: str, images: ImageSet, files: list[Array], tokenizer: Tokenizer | Codec, out: Path, runtime: Runtime) -> None:
    """Writes the sums of each block of the training images, and the latents of a split if they are stored; ranks share the blocks."""

    @torch.no_grad()
    def encoded(items: range) -> list[np.ndarray]:
        latents = tokenizer.encode(to_floats(images.batch(torch.tensor(items)), runtime.torch_device))
        block = LatentMoments(tokenizer.channels, device=runtime.torch_device)
        block.add(latents)
        if not bool(block.sums.isfinite().all()):
            block.finish()  # raises an error that names the channel
        made = {True: block.sums[None], False: latents}
        return [made[file.by_block].cpu().numpy() for file in files]

    label = f"latents, {split}"
    Blocks(out / FOLDER / split, files, count=len(images), size=BLOCK, runtime=runtime, label=label).run(encoded)


def _stores(out: Path, collection: Images, tokenizer: Tokenizer | Codec) -> dict[str, Array]:
    """``latents.train.npy`` and ``latents.val.npy`` float32 [N, C, h, w]; empty if they are too large to store."""
    side = collection.resolution // tokenizer.stride
    row = (tokenizer.channels, side, side)
    if 4 * math.prod(row) * (len(collection.train) + len(collection.val)) > KEPT_BYTES:
        return {}
    return {split: Array(out / f"latents.{split}.npy", np.float32, row) for split in ("train", "val")}


def open_statistics(place: Path, autoencoder: Path, channels: int, runtime: Runtime) -> LatentStats:
    """The statistics of a finished artifact, checked against the autoencoder artifact whose latents (with ``channels`` channels) they will
    standardise. Older statistics do not name their autoencoder: only their number of channels is checked."""
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
