"""Heads on frozen latents of crops, for features, residual and both, trained in one pass over the images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from svgbench.config.networks import Optimiser, Training
from svgbench.config.scoring import HeadTraining
from svgbench.images.crops import Crop, CropLoader, augmented, padded, reader_threads
from svgbench.images.dense_sets import SPLITS, DenseSet, ImagePair, count_usable_pixels
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch, adam
from svgbench.machine.training import train as run_training
from svgbench.metrics.protocol import ImageGroup
from svgbench.nets.linear_head import BatchMoments, DenseHead, dropped
from svgbench.nets.tokenizer import Codec, Tokenizer, channel_parts
from svgbench.stages.tokenizers import open_tokenizer

EVALUATED = 4
"""Number of validation images whose results are saved together."""


def check_pairs(dataset: DenseSet, counted: Callable[[ImagePair], int], word: str, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Reads every pair and writes ``pairs.json`` with the numbers of pairs and of usable pixels."""
    about = {}
    for split in SPLITS:
        pairs = getattr(dataset, split)
        with runtime.progress(f"{word}, {split}", len(pairs)) as bar:
            pixels = count_usable_pixels(dataset.root, pairs, counted, threads=reader_threads(runtime), kind=word, advance=bar.advance)
        about[split] = {"pairs": len(pairs), "pixels": pixels}
    write_atomic(out / "pairs.json", (json.dumps(about, indent=1) + "\n").encode())
    return {}


class Reading(NamedTuple):
    """A range of latent channels and the head on it."""

    channels: slice
    head: Any
    """A ``DenseHead``, or one of ``nets.paper_heads``."""


class CropBatches(NamedTuple):
    """How crops become a batch."""

    size: tuple[int, int]
    """Height and width to which crops are padded."""
    ignored: float
    """The target of the padding."""
    augment: Callable[[Tensor, np.ndarray], Tensor]
    """(image [3, h, w] in [0, 1], the crop's random numbers) -> the image with changed colours."""


class HeadLoss(Protocol):
    """A loss of outputs and targets over the pixels of the global batch."""

    def __call__(self, outputs: Callable[[slice], Tensor], targets: Tensor, batch: Batch, runtime: Runtime) -> Tensor:
        """Computes gradients of the parameters of ``outputs(rows)`` [b, K, h, w]; returns this rank's share of the loss."""


class HeadsTask:
    """One update: encodes crops without gradient, then for each head computes batch moments and loss and steps its optimiser."""

    averaged = None

    def __init__(
        self,
        readings: dict[str, Reading],
        encode: Callable[[Tensor], Tensor],
        crops: CropLoader,
        making: CropBatches,
        loss: HeadLoss,
        *,
        how: HowTrained,
        seed: int,
        runtime: Runtime,
    ) -> None:
        self._readings, self._encode, self._crops, self._making, self._loss = readings, encode, crops, making, loss
        self._dropout, self._seed, self._runtime = how.dropout, seed, runtime
        self.modules = {name: reading.head for name, reading in readings.items()}
        self.optimisers = {name: adam(how.parameters(reading.head), how.settings.optimiser) for name, reading in readings.items()}

    def load(self, batch: Batch) -> dict[str, Any]:
        """The batch's crops."""
        return padded(self._crops(batch), self._making.size, self._making.ignored)

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of every head on the batch's crops; returns this rank's share of each head's loss, a scalar."""
        targets = batch.data["targets"]
        with torch.no_grad():
            latents = self._encode(augmented(batch.data["pixels"], batch.data["crops"], self._making.augment))
        losses = {}
        for name, (channels, head) in self._readings.items():
            losses[name] = self.step(head, latents[:, channels], targets, batch)
            apply(name)
        return losses

    def step(self, head: Any, latents: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        """Computes gradients of a head's parameters from latents [B, C, h, w] and targets [B, H, W]; returns this rank's share of its
        loss."""
        seen = dropped(latents, batch.positions, self._dropout, self._seed)
        moments = head.moments(self._runtime.all_reduce_(head.sums(seen)))
        loss = self._loss(_outputs(head, seen, moments), targets, batch, self._runtime)
        head.follow(moments)
        return loss


class DeepHeadsTask(HeadsTask):
    """The same for heads with two parts (``nets.paper_heads``): the trunk runs once on all crops of the rank, tail and loss in
    micro-batches."""

    def step(self, head: Any, latents: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        """For latents [B, C, h, w] and targets [B, H, W]: first the tail's backward passes, which accumulate gradients at the trunk's
        outputs over micro-batches, then the trunk's, on every rank."""
        hidden = head.trunk(latents, self._runtime.all_reduce_)
        leaf = hidden.detach().requires_grad_()

        def outputs(rows: slice) -> Tensor:
            return head.tail(dropped(leaf[rows], batch.positions[rows], self._dropout, self._seed))

        loss = self._loss(outputs, targets, batch, self._runtime)
        hidden.backward(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)  # also if this rank has no image
        return loss


class HowTrained(NamedTuple):
    """How the heads of a stage are trained."""

    settings: Training
    dropout: float = 0.0
    """Probability that a channel (of the latents, or of the hidden layer) is set to zero."""
    rate: Callable[[int], float] | None = None
    """Images seen at the end of an update -> learning rate; None: from ``settings``."""
    task: type[HeadsTask] = HeadsTask
    parameters: Callable[[nn.Module], Iterable[Any]] = nn.Module.parameters
    """The optimiser's parameters or parameter groups of a head."""


def _outputs(head: DenseHead, latents: Tensor, moments: BatchMoments) -> Callable[[slice], Tensor]:
    return lambda rows: head(latents[rows], moments)


def pieces(count: int, runtime: Runtime) -> list[slice]:
    """The slices of a rank's crops that form its micro-batches."""
    size = runtime.micro_batch or max(count, 1)
    return [slice(start, start + size) for start in range(0, count, size)]


def linear(head: HeadTraining, *, dropout: float = 0.0) -> HowTrained:
    """How DINOv3's linear heads are trained."""
    settings = Training(
        total_images=head.total_images, batch=head.batch, checkpoint_images=head.checkpoint_images,
        optimiser=Optimiser(
            lr=head.lr, betas=(0.9, head.beta2), weight_decay=head.weight_decay, lr_warmup_images=head.lr_warmup_images, schedule="cosine",
            max_gradient_norm=head.max_gradient_norm,
        ),
    )  # fmt: skip
    return HowTrained(settings, dropout)


class DenseRun(NamedTuple):
    """The parts that segmentation and depth stages share."""

    dataset: DenseSet
    tokenizer: Tokenizer | Codec
    readings: dict[str, Reading]
    training_images: ImageGroup
    validation_images: ImageGroup


def open_run(
    dataset: DenseSet, autoencoder: Path, make: Callable[[int, int], nn.Module], *, sides: tuple[int, ...], runtime: Runtime
) -> DenseRun:
    """The tokenizer of a finished autoencoder with untrained heads for features, residual and both (if there is a residual); ``make``:
    (channels, the encoder's stride) -> a head. Raises BadConfig for crop sides that do not fit the encoder."""
    tokenizer = open_tokenizer(autoencoder, runtime)
    for side in sides:
        tokenizer.check_side(side)
    groups = [ImageGroup(name=s, count=len(getattr(dataset, s)), digest=dataset.digest(s)) for s in ("training", "validation")]
    parts = channel_parts(tokenizer.feature_channels, tokenizer.channels)
    heads = {name: make(part.stop - part.start, tokenizer.stride).to(runtime.torch_device) for name, part in parts.items()}
    return DenseRun(dataset, tokenizer, {name: Reading(part, heads[name]) for name, part in parts.items()}, *groups)


def train_heads(
    run: DenseRun,
    read: Callable[[int, int], Crop],
    making: CropBatches,
    loss: HeadLoss,
    how: HowTrained,
    *,
    seed: int,
    out: Path,
    runtime: Runtime,
    label: str,
) -> dict[str, float]:
    """Trains the heads (resumes a stopped training), writes them to ``out/heads.safetensors`` and returns the last mean losses. ``read``:
    position in the run -> a crop of a training image."""
    count = len(run.dataset.training)
    with CropLoader(read, count, seed=seed, runtime=runtime) as crops:
        task = how.task(run.readings, run.tokenizer.encode, crops, making, loss, how=how, seed=seed, runtime=runtime)
        report = run_training(
            task, settings=how.settings, dataset_size=count, seed=seed, out=out, runtime=runtime, label=label, rate=how.rate
        )
    for reading in run.readings.values():
        reading.head.eval()
    if runtime.is_main:
        states = {name: reading.head.state_dict() for name, reading in run.readings.items()}
        tensors = {f"{name}.{key}": tensor.cpu().contiguous() for name, state in states.items() for key, tensor in state.items()}
        write_atomic(out / "heads.safetensors", save(tensors))
    return {name: value for name, value in report.losses.items() if name in run.readings}


def evaluated(
    run: DenseRun, measured: Callable[[ImagePair], Tensor], row: tuple[int, ...], out: Path, runtime: Runtime, label: str
) -> Tensor:  # fmt: skip
    """``measured`` [*row] of each validation image, as float64 [N, *row] on the device. Ranks share the images; a stopped evaluation
    resumes."""

    @torch.no_grad()
    def rows(items: range) -> tuple[np.ndarray]:
        return (torch.stack([measured(run.dataset.validation[index]).double().cpu() for index in items]).numpy(),)

    file, count = Array(out / FOLDER / "evaluated.npy", np.float64, row), len(run.dataset.validation)
    Blocks(out / FOLDER / "evaluated", [file], count=count, size=EVALUATED, runtime=runtime, label=label).run(rows)
    return torch.from_numpy(np.load(file.path)).to(runtime.torch_device)
