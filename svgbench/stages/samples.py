"""Samples of a trained transformer, decoded: a sample is a function of its index, whatever its company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.config import schema
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.runtime import Runtime
from svgbench.metrics.samples import to_uint8
from svgbench.nets import draws
from svgbench.nets.sampler import sample
from svgbench.stages.diffusion import WEAK, open_sit, snapshot
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import open_tokenizer

CPU_TOKENS = 640
"""Tokens of the samples drawn at once on a CPU: a layer's activations stay in its cache (at width 128, 640 to 1280 tokens in 0.5 to 0.6 ms
a sample of 16 tokens, 6400 in 0.7 ms); a network of wide layers, whose weights do not, gets eight samples."""


def batch_of(model: Any, device: torch.device) -> int:
    """Samples drawn at once: a constant of the network and the kind of device, so that the shapes of all products, and with them the bits
    of a sample, never depend on the layout."""
    if device.type != "cpu":
        return 256
    return max(8, CPU_TOKENS // (model.grid // model.patch) ** 2)


def labels_of(part: schema.Sampling, classes: int, seed: int) -> Tensor:
    """Class of each sample [N]: in turn (balanced), or drawn by its index."""
    indices = torch.arange(part.count)
    if part.labels == "balanced":
        return indices % classes
    return draws.integers(draws.stream(seed, "samples/label"), indices, classes)


class Generator:
    """Everything that turns noise into pictures: ``images(indices, labels, ...)`` is the same for a sample in any company."""

    def __init__(self, inputs: dict[str, Path], runtime: Runtime, seed: int, trained: float = 1.0) -> None:
        """``trained``: the share of the training after which the transformer is taken."""
        self.tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
        self.stats = open_statistics(inputs["statistics"], inputs["autoencoder"], self.tokenizer.channels, runtime)
        self.model, self.classes = open_sit(inputs["diffusion"], runtime, snapshot(trained))
        self.batch = batch_of(self.model, runtime.torch_device)
        self._place, self._weak = inputs["diffusion"], None
        self._runtime, self._noise, self._inside = runtime, draws.stream(seed, "samples/noise"), draws.stream(seed, "samples/sampler")

    @torch.no_grad()
    def images(
        self,
        indices: Tensor,
        labels: Tensor,
        *,
        steps: int,
        sampler: str,
        shift: float,
        guidance: float,
        schedule: str,
        against: str = "null",
        guided_channels: int | None = None,
    ) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of sample indices [B] and labels [B]; in blocks of one size, the last one filled up."""
        parts = []
        how: dict[str, Any] = {"steps": steps, "sampler": sampler, "shift": shift, "guidance": guidance, "schedule": schedule}
        how["guided_channels"] = guided_channels
        if against == "weak":
            how["weak"] = self._weak = self._weak or open_sit(self._place, self._runtime, WEAK)[0]
        for start in range(0, len(indices), self.batch):
            part = slice(start, start + self.batch)
            own = len(indices[part])
            filled, classes = (
                torch.cat([x[part], x[:1].expand(self.batch - own)]).to(self._runtime.torch_device) for x in (indices, labels)
            )
            noise = draws.normal(self._noise, filled, (self.model.channels, self.model.grid, self.model.grid))
            latents = sample(self.model, noise, classes, seed=self._inside, indices=filled, **how)
            parts.append(self.tokenizer.decode(self.stats.restore(latents[:own]).float()).cpu())
        return torch.cat(parts)


def draw(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Draws one cell's samples: ``samples.npy`` uint8 [N, 3, H, W] and ``labels.npy`` int64 [N]. Ranks share the blocks; an attempt
    that was stopped or killed is gone on with."""
    part = slice_["sampling"]
    steps, guidance, trained = part["steps"], part["guidance"], part["trained"]
    settings = schema.Sampling.model_validate({**part, "steps": [steps], "guidance": [guidance], "trained": [trained]})
    generator = Generator(inputs, runtime, slice_["seed"], trained)
    side = generator.model.grid * generator.tokenizer.stride
    labels = labels_of(settings, len(generator.classes), slice_["seed"])
    if runtime.is_main:
        np.save(out / "labels.npy", labels.numpy())
    same = ("sampler", "shift", "schedule", "against", "guided_channels")
    how = {"steps": steps, "guidance": guidance, **{name: getattr(settings, name) for name in same}}

    def drawn(items: range) -> tuple[np.ndarray]:
        indices = torch.tensor(items)
        return (to_uint8(generator.images(indices, labels[indices], **how)).numpy(),)

    Blocks(
        out / FOLDER / "samples", [Array(out / "samples.npy", np.uint8, (3, side, side))], count=settings.count, size=generator.batch,
        runtime=runtime, label=f"samples, {steps} steps, guidance {guidance:g}",
    ).run(drawn)  # fmt: skip
    return {"images_seen": settings.count}
