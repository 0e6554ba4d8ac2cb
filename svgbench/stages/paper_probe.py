"""Top-1 and top-5 by the SVG paper's protocol (arXiv 2510.15301v4, appendix B): a linear layer on frozen latents of random resized crops.

- Training: 30 epochs of random resized crops to the run's resolution, encoded on the fly, in batches of 3072; a linear layer with bias on
  the mean of the raw latent over its positions, one layer each for features, residual and both; cross-entropy; AdamW with an initial
  learning rate of 5e-4 and weight decay 1e-2. Encoders and tokenizers get no gradient.
- Validation: all validation images, with the run's crop.
- Our choices, which the appendix does not state: the mean over positions, no class token and no norm before the layer, crops of 8 to 100 %
  of the area, mirrored half of the time, a cosine to zero without warm-up, initial weights with a standard deviation of 0.01, and crops of
  the run's images after their centre crop.

With ``align: batch``, the batch is a block of 256 images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from svgbench.config.networks import Optimiser, Training
from svgbench.config.paper_heads import PaperProbe
from svgbench.config.records import Score
from svgbench.images.crops import Crop, CropLoader, uniform_draws
from svgbench.images.paper_crops import labelled_batch, resized_crop
from svgbench.images.store import Images, ImageSet, open_images
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch, adam, train
from svgbench.metrics.probe import pool
from svgbench.metrics.protocol import protocol
from svgbench.metrics.resampling import Resampling
from svgbench.nets import draws
from svgbench.nets.tokenizer import channel_parts
from svgbench.stages.results import probe_groups, write_scores
from svgbench.stages.tokenizers import BLOCK, open_tokenizer, to_floats

METRICS = (("probe_top1", 1), ("probe_top5", 5))
"""Metric -> the k of its top-k accuracy."""


class ProbesTask:
    """One update: encodes and pools crops without gradient, then updates the linear layers for features, residual and both."""

    averaged = None

    def __init__(
        self,
        layers: dict[str, nn.Linear],
        parts: dict[str, slice],
        pooled: Callable[[Tensor], Tensor],
        crops: CropLoader,
        side: int,
        optimiser: Optimiser,
        runtime: Runtime,
    ) -> None:
        """``pooled``: images [B, 3, H, W] in [0, 1] -> mean latents [B, C]."""
        self.modules: dict[str, nn.Module] = dict(layers)
        self.optimisers = {name: adam(layer.parameters(), optimiser) for name, layer in layers.items()}
        self._parts, self._pooled, self._crops, self._side, self._runtime = parts, pooled, crops, side, runtime

    def load(self, batch: Batch) -> dict[str, Any]:
        """The batch's crops and their labels."""
        return labelled_batch(self._crops(batch), self._side)

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of every layer on the batch's crops; returns this rank's share of each layer's loss, a scalar."""
        labels = batch.data["labels"]
        pieces = batch.data["pixels"].permute(0, 3, 1, 2).split(self._runtime.micro_batch or BLOCK)
        vectors = torch.cat([self._pooled(to_floats(piece, self._runtime.torch_device)) for piece in pieces])
        losses = {}
        for name, layer in self.modules.items():
            loss = F.cross_entropy(layer(vectors[:, self._parts[name]]), labels, reduction="sum") / batch.size
            loss.backward()
            apply(name)
            losses[name] = loss.detach()
        return losses


def run(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """probe_top1 and probe_top5 in percent: features, residual, both. Runs on all ranks; writes the layers to ``probes.safetensors``."""
    part, seed = slice_["scores"], slice_["seed"]
    settings, collection = PaperProbe.model_validate(part["paper"]["linear"]), open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    classes, count = len(collection.classes), len(collection.train)
    parts = channel_parts(tokenizer.feature_channels, tokenizer.channels)
    layers = {name: untrained(p.stop - p.start, classes, seed).to(runtime.torch_device) for name, p in parts.items()}
    training = Training(
        total_images=settings.epochs * count, batch=settings.batch, checkpoint_images=settings.checkpoint_images,
        optimiser=Optimiser(lr=settings.lr, weight_decay=settings.weight_decay, schedule="cosine"),
    )  # fmt: skip

    @torch.no_grad()
    def pooled(images: Tensor) -> Tensor:
        return pool(tokenizer.encode(images))

    with CropLoader(partial(_crop, collection.train, settings, seed), count, seed=seed, runtime=runtime) as crops:
        task = ProbesTask(layers, parts, pooled, crops, collection.resolution, training.optimiser, runtime)
        report = train(task, settings=training, dataset_size=count, seed=seed, out=out, runtime=runtime, label="linear probes on crops")
    right = _evaluated(collection, layers, parts, pooled, out, runtime)
    if runtime.is_main:
        tensors = {f"{name}.{key}": value.cpu().contiguous() for name, layer in layers.items() for key, value in layer.state_dict().items()}
        write_atomic(out / "probes.safetensors", save(tensors))
        write_scores(out, _scores(right, settings, slice_, inputs, collection), slice_)
    return {"images_seen": training.total_images, "losses": {name: report.losses[name] for name in layers}}


def untrained(channels: int, classes: int, seed: int) -> nn.Linear:
    """A linear layer with normal weights (standard deviation 0.01, drawn from the seed) and zero bias."""
    layer = nn.Linear(channels, classes)
    drawn = draws.normal(draws.stream(seed, "paper/probe"), torch.zeros(1, dtype=torch.int64), (classes, channels))[0]
    layer.load_state_dict({"weight": 0.01 * drawn, "bias": torch.zeros(classes)})
    return layer


def _crop(images: ImageSet, settings: PaperProbe, seed: int, index: int, position: int) -> Crop:
    label = int(images.labels[index])
    return resized_crop(images.images[index].numpy(), label, uniform_draws(seed, position), area=settings.area)


def _evaluated(
    collection: Images,
    layers: dict[str, nn.Linear],
    parts: dict[str, slice],
    pooled: Callable[[Tensor], Tensor],
    out: Path,
    runtime: Runtime,
) -> dict[str, Tensor]:
    """For each layer, bool [N, 2]: whether each validation image's label is the top-1 class, and whether it is in the top 5. Computed by
    all ranks."""
    val, best = collection.val, min(5, len(collection.classes))

    @torch.no_grad()
    def rows(items: range) -> tuple[np.ndarray]:
        where = torch.tensor(items)
        vectors, labels = pooled(to_floats(val.batch(where), runtime.torch_device)), val.labels[where].to(runtime.torch_device)
        hits = []
        for name, layer in layers.items():
            found = layer(vectors[:, parts[name]]).topk(best, 1).indices == labels[:, None]
            hits.append(torch.stack([found[:, :number].any(1) for _, number in METRICS], 1))
        return (torch.stack(hits, 1).cpu().numpy(),)

    file = Array(out / FOLDER / "evaluated.npy", np.bool_, (len(layers), len(METRICS)))
    Blocks(out / FOLDER / "evaluated", [file], count=len(val), size=BLOCK, runtime=runtime, label="linear probes").run(rows)
    table = torch.from_numpy(np.load(file.path))
    return {name: table[:, row] for row, name in enumerate(layers)}


def _scores(
    right: dict[str, Tensor], settings: PaperProbe, slice_: dict[str, Any], inputs: dict[str, Path], collection: Images
) -> list[Score]:
    groups = probe_groups(inputs, collection, len(collection.train))
    used = settings.model_dump(mode="json", exclude={"checkpoint_images"})
    made = protocol("paper-linear-crops", images=groups["val_images"], reference=groups["train_images"], settings=used)
    resampling = Resampling(resamples=slice_["scores"]["resamples"], seed=slice_["seed"])
    scores = []
    for name, hits in right.items():
        facts = {"latents": name, **resampling.stated("validation images")}
        for column, (metric, _) in enumerate(METRICS):
            percent = hits[:, column].double() * 100
            low, high = resampling.of_mean(percent, floor=0.0, ceiling=100.0)
            score = Score(metric=metric, value=percent.mean().item(), low=low, high=high, count=len(percent), protocol=made, detail=facts)
            scores.append(score)
    return scores
