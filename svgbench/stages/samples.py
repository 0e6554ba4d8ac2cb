"""Decoded samples of a trained transformer. A sample depends on its index, not on the other samples in its batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.config import schema
from svgbench.config.sampling import SamplingProtocol
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.metrics.samples import sent_as_uint8
from svgbench.nets import draws
from svgbench.nets.execution import prepare_compilation
from svgbench.nets.latents import LatentStats
from svgbench.nets.objectives import OBJECTIVES, objective_of
from svgbench.nets.sampler import generate
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.stages.graph import DRAWN
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import open_tokenizer
from svgbench.stages.transformers import open_transformer, open_weak, snapshot
from svgbench.stages.tuning import chosen

CPU_TOKENS = 640
"""Tokens per batch of samples on a CPU, so that a layer's activations stay in its cache (at width 128, a sample of 16 tokens takes 0.5
to 0.6 ms with 640 to 1280 tokens, 0.7 ms with 6400). At least eight samples, because the weights of wide layers do not fit in the cache."""


def batch_of(model: Any, device: torch.device) -> int:
    """Number of samples drawn at once. It depends only on the network and the kind of device, so that the shapes of all products, and thus
    the bits of a sample, never depend on the number of ranks."""
    if device.type != "cpu":
        return 256
    return max(8, CPU_TOKENS // (model.grid // model.patch) ** 2)


def protocol_of(part: Mapping[str, Any], inputs: Mapping[str, Path]) -> SamplingProtocol:
    """The sampling settings of one cell from its ``sampling`` slice: one number of steps, one guidance scale; a tuned shift comes from the
    input ``shift-choice``."""
    return SamplingProtocol.of(part, chosen(inputs.get("shift-choice")))


def labels_of(part: schema.Sampling, classes: int, seed: int) -> Tensor:
    """Class of each sample [N]: cycling through the classes (balanced), or drawn at random by index."""
    indices = torch.arange(part.count)
    if part.labels == "balanced":
        return indices % classes
    return draws.integers(draws.stream(seed, "samples/label"), indices, classes)


def compile_for_sampling(model: Any, runtime: Runtime) -> None:
    """Compiles the whole forward pass of a model in place if the runtime compiles. Sampling calls it with ``batch`` or twice as many rows,
    so it becomes at most two graphs: times, labels and noise are tensors, and guidance and steps are outside. A model that draws by its own
    rules compiles its own parts."""
    if not runtime.compiles:
        return
    prepare_compilation()
    if OBJECTIVES[objective_of(model)].generate is None:
        model.compile(fullgraph=True, dynamic=False)
    else:
        model.compile_for_sampling()


def sent(rows: Tensor, device: torch.device) -> Tensor:
    """Rows [B] on the device; to CUDA the copy is from pinned memory, and nothing waits for it."""
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)


class Generator:
    """Turns noise into images with a run's networks. A sample does not depend on the samples drawn with it."""

    def __init__(self, inputs: dict[str, Path], runtime: Runtime, seed: int, trained: float = 1.0) -> None:
        """``trained``: the share of the training after which the transformer's weights were saved."""
        self.tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
        self.stats = open_statistics(inputs["statistics"], inputs["autoencoder"], self.tokenizer.channels, runtime)
        self.model, self.classes = open_transformer(inputs["diffusion"], runtime, snapshot(trained))
        compile_for_sampling(self.model, runtime)
        self.batch = batch_of(self.model, runtime.torch_device)
        self._place, self._weak, self._runtime = inputs["diffusion"], None, runtime
        self._reseed(seed)

    @classmethod
    def around(
        cls, tokenizer: Tokenizer | Codec, stats: LatentStats, model: Any, classes: list[str], runtime: Runtime, seed: int = 0
    ) -> Generator:
        """The generator around networks in memory, without a weak model."""
        made = cls.__new__(cls)
        made.tokenizer, made.stats, made.model, made.classes = tokenizer, stats, model, classes
        made.batch = batch_of(model, runtime.torch_device)
        made._place, made._weak, made._runtime = Path(), None, runtime
        made._reseed(seed)
        return made

    def _reseed(self, seed: int) -> None:
        self._noise_stream, self._sampler_seed = draws.stream(seed, "samples/noise"), draws.stream(seed, "samples/sampler")

    def with_seed(self, seed: int) -> Generator:
        """The same networks with the noise of another seed."""
        other = copy.copy(self)
        other._reseed(seed)
        return other

    def images(self, indices: Tensor, labels: Tensor, sampling: SamplingProtocol) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] for sample indices [B] and labels [B], on the CPU."""
        return torch.cat([images.cpu() for images in self.batches(indices, labels, sampling)])

    @torch.no_grad()
    def batches(self, indices: Tensor, labels: Tensor, sampling: SamplingProtocol) -> Iterator[Tensor]:
        """Images [b, 3, H, W] in [0, 1] on the device for sample indices [B] and labels [B], drawn in blocks of ``batch``; the last one is
        padded."""
        if sampling.against == "weak" and self._weak is None:
            self._weak = open_weak(self._place, self._runtime)
            compile_for_sampling(self._weak, self._runtime)
        weak = self._weak if sampling.against == "weak" else None
        for start in range(0, len(indices), self.batch):
            block = slice(start, start + self.batch)
            count = len(indices[block])
            filled, classes = (
                sent(torch.cat([x[block], x[:1].expand(self.batch - count)]), self._runtime.torch_device) for x in (indices, labels)
            )
            noise = draws.normal(self._noise_stream, filled, (self.model.channels, self.model.grid, self.model.grid))
            latents = generate(self.model, noise, classes, sampling, weak=weak, seed=self._sampler_seed, indices=filled)
            yield self.tokenizer.decode(self.stats.restore(latents[:count]).float())


def draw(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Draws one cell's samples: ``samples.npy`` uint8 [N, 3, H, W] and ``labels.npy`` int64 [N]. Ranks share the blocks; a stopped or
    killed attempt resumes."""
    part = slice_["sampling"]
    steps, guidance, trained = part["steps"], part["guidance"], part["trained"]
    sampling = protocol_of(part, inputs)
    settings = schema.Sampling.model_validate({**part, "steps": [steps], "guidance": [guidance], "trained": [trained]})
    generator = Generator(inputs, runtime, slice_["seed"], trained)
    side = generator.model.grid * generator.tokenizer.stride
    labels = labels_of(settings, len(generator.classes), slice_["seed"])
    if runtime.is_main:
        np.save(out / "labels.npy", labels.numpy())
        if sampling.tuned:
            write_atomic(out / DRAWN, (sampling.model_dump_json(indent=1) + "\n").encode())

    def drawn(items: range) -> Callable[[], tuple[np.ndarray]]:
        indices = torch.tensor(items)
        images = sent_as_uint8(next(generator.batches(indices, labels[indices], sampling)))
        return lambda: (images().numpy(),)

    Blocks(
        out / FOLDER / "samples", [Array(out / "samples.npy", np.uint8, (3, side, side))], count=settings.count, size=generator.batch,
        runtime=runtime, label=f"samples, {steps} steps, guidance {guidance:g}",
    ).run(drawn, behind=runtime.torch_device.type == "cuda")  # fmt: skip
    return {"images_seen": settings.count}
