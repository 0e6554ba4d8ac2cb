"""SiT by flow matching on standardised latents, and the samples drawn from it (SVG section 3.4; SiT, arXiv 2401.08740)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from svgbench.config import schema
from svgbench.metrics.samples import to_uint8
from svgbench.nets import draws, flow
from svgbench.nets.latents import LatentStats
from svgbench.nets.sampler import sample
from svgbench.nets.sit import SiT
from svgbench.stages.cost import cost_of
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import Cached, latents_of, open_tokenizer
from svgbench.world import arrays
from svgbench.world.files import write_atomic
from svgbench.world.images import open_images
from svgbench.world.measure import count_flops, gemm_rate
from svgbench.world.runtime import Runtime
from svgbench.world.training import Batch, adam
from svgbench.world.training import train as run_training

SAMPLE_BATCH = 200
"""Samples drawn at once. A constant, so that the shapes of all products, and with them the bits of a sample, never depend on the layout."""


class FlowTask:
    """SiT's update: standardised latents, keyed noise, times, class dropout and flips, mean squared error of the velocity."""

    averaged = "sit"

    def __init__(
        self, model: SiT, latents: Cached, labels: Tensor, stats: LatentStats, part: schema.Diffusion, seed: int, runtime: Runtime
    ):
        self.modules = {"sit": model}
        self.optimisers = {"sit": adam(model.parameters(), part.training.optimiser)}
        self._model, self._latents, self._labels, self._stats, self._part, self._runtime = model, latents, labels, stats, part, runtime
        self._streams = {purpose: draws.stream(seed, f"diffusion/{purpose}") for purpose in ("noise", "time", "class", "flip")}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of SiT over the batch's images."""
        total = torch.zeros((), device=self._runtime.torch_device)
        for micro in batch.micro_batches(self._runtime.micro_batch):
            loss = self.losses(micro).sum() / batch.size
            loss.backward()
            total += loss.detach()
        apply("sit")
        return {"loss": total}

    def losses(self, batch: Batch) -> Tensor:
        """The loss of each image [B]."""
        device = self._runtime.torch_device
        positions = batch.positions.to(device)
        flip = draws.chance(self._streams["flip"], batch.positions, (), 0.5) if self._part.flip else None
        data = self._stats.standardise(self._latents(batch.indices, flip)).float()
        labels = self._labels[batch.indices].to(device)
        dropped = draws.chance(self._streams["class"], positions, (), self._part.class_dropout)
        labels = torch.where(dropped, self._model.classes, labels)
        pair = flow.training_pair(data, positions, noise=self._streams["noise"], time=self._streams["time"], shift=self._part.shift)
        with self._runtime.autocast(self._part.training.precision):
            velocity = self._model(pair.x_t, pair.t, labels)
        return flow.losses(velocity, pair.target)


def train(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Trains SiT; writes ``sit.safetensors`` (the averaged weights), ``sit.json`` and ``log.jsonl``."""
    part, seed = schema.Diffusion.model_validate(slice_["diffusion"]), slice_["seed"]
    images = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], tokenizer.channels, runtime)
    latents = latents_of("train", tokenizer, images.train, inputs["statistics"], runtime, flips=part.flip)

    # the network, its initial weights a function of the seed
    channels, grid, _ = latents.shape
    sizes = {"channels": channels, "grid": grid, "classes": len(images.classes), **part.transformer.model_dump()}
    torch.manual_seed(draws.stream(seed, "diffusion/weights") % 2**31)
    model = SiT(**sizes).to(runtime.torch_device)
    if runtime.compile:
        model.compile_blocks()

    # what one image costs, and what the machine could do
    task = FlowTask(model, latents, torch.as_tensor(images.train.labels), stats, part, seed, runtime)
    probe = Batch(indices=torch.arange(2), positions=torch.arange(2), size=2)
    flops = count_flops(lambda: task.losses(probe).sum().backward()) // 2
    model.zero_grad(set_to_none=True)
    rate = gemm_rate(runtime.torch_device, part.training.precision) * runtime.world

    report = run_training(task, settings=part.training, dataset_size=len(images.train), seed=seed, out=out, runtime=runtime, label="SiT")
    if runtime.is_main:
        weights = report.averages if report.averages is not None else model.state_dict()
        save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, out / "sit.safetensors")
        write_atomic(out / "sit.json", (json.dumps({"sizes": sizes, "classes": images.classes}, indent=1) + "\n").encode())
    return cost_of(report, flops, rate, model)


def open_sit(place: Path, runtime: Runtime) -> tuple[SiT, list[str]]:
    """The trained transformer and the names of its classes."""
    about = json.loads((place / "sit.json").read_text())
    model = SiT(**about["sizes"])
    model.load_state_dict(load_file(place / "sit.safetensors"))
    return model.to(runtime.torch_device).eval().requires_grad_(False), about["classes"]


def labels_of(part: schema.Sampling, classes: int, seed: int) -> Tensor:
    """Class of each sample [N]: in turn (balanced), or drawn by its index."""
    indices = torch.arange(part.count)
    if part.labels == "balanced":
        return indices % classes
    return draws.integers(draws.stream(seed, "samples/label"), indices, classes)


class Generator:
    """Everything that turns noise into pictures: ``images(indices, labels, ...)`` is the same for a sample in any company."""

    def __init__(self, inputs: dict[str, Path], runtime: Runtime, seed: int) -> None:
        self.tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
        self.stats = open_statistics(inputs["statistics"], self.tokenizer.channels, runtime)
        self.model, self.classes = open_sit(inputs["diffusion"], runtime)
        self._runtime, self._noise = runtime, draws.stream(seed, "samples/noise")

    @torch.no_grad()
    def images(self, indices: Tensor, labels: Tensor, *, steps: int, sampler: str, shift: float, guidance: float, schedule: str) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of sample indices [B] and labels [B]; in blocks of ``SAMPLE_BATCH``, the last one filled up."""
        parts = []
        for start in range(0, len(indices), SAMPLE_BATCH):
            part = slice(start, start + SAMPLE_BATCH)
            own = len(indices[part])
            filled, classes = (
                torch.cat([x[part], x[:1].expand(SAMPLE_BATCH - own)]).to(self._runtime.torch_device) for x in (indices, labels)
            )
            noise = draws.normal(self._noise, filled, (self.model.channels, self.model.grid, self.model.grid))
            latents = sample(self.model, noise, classes, steps=steps, sampler=sampler, shift=shift, guidance=guidance, schedule=schedule)
            parts.append(self.tokenizer.decode(self.stats.restore(latents).float())[:own].cpu())
        return torch.cat(parts)


def draw(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Draws one cell's samples: ``samples.npy`` uint8 [N, 3, H, W] and ``labels.npy`` int64 [N]. Every rank fills its own indices."""
    part = slice_["sampling"]
    steps, guidance = part["steps"], part["guidance"]
    settings = schema.Sampling.model_validate({**part, "steps": [steps], "guidance": [guidance]})
    generator = Generator(inputs, runtime, slice_["seed"])
    side = generator.model.grid * generator.tokenizer.stride
    path = out / "samples.npy"
    labels = labels_of(settings, len(generator.classes), slice_["seed"])
    if runtime.is_main:
        arrays.create(path, np.uint8, (settings.count, 3, side, side))
        np.save(out / "labels.npy", labels.numpy())
    runtime.barrier()
    store = arrays.open_rows(path)
    mine = torch.tensor(list(runtime.shard(settings.count)), dtype=torch.int64)
    how = {"steps": steps, "guidance": guidance, "sampler": settings.sampler, "shift": settings.shift, "schedule": settings.schedule}
    with runtime.progress(f"samples, {steps} steps, guidance {guidance:g}", settings.count) as bar:
        for start in range(0, len(mine), SAMPLE_BATCH):
            indices = mine[start : start + SAMPLE_BATCH]
            images = generator.images(indices, labels[indices], **how)
            store[indices.numpy()] = to_uint8(images).numpy()
            bar.advance(len(indices) * runtime.world)
    store.flush()
    return {"images_seen": settings.count}
