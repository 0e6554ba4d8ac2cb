"""Depth from linear heads on frozen latents, on a folder such as NYUv2; the protocol is in ``metrics.depth``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svgbench.config import scoring
from svgbench.images import crops
from svgbench.images.crops import Crop
from svgbench.images.dense_sets import DenseSet, ImagePair, opened, read_depth
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch
from svgbench.metrics import depth as measures
from svgbench.metrics.protocol import protocol
from svgbench.metrics.resampling import Resampling
from svgbench.nets.linear_head import DenseHead
from svgbench.stages.dense import CropBatches, DenseRun, check_pairs, evaluated, linear, open_run, pieces, train_heads
from svgbench.stages.results import limit_of, write_scores

PLAIN_SHARE = 100 / 38_400
"""Initial share of the training in which the loss has no variance term (BinsFormer's warm-up of the loss, kept by DINOv2 and DINOv3)."""


def folder(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """depth_rmse and depth_arel on a folder of images with depth maps: features, residual, both. Runs on all ranks; writes the heads."""
    settings, seed = scoring.Depth.model_validate(slice_["scores"]["depth"]), slice_["seed"]
    head, whole = settings.head, opened("depth", settings)
    dataset = whole.limited(limit_of(slice_))
    run = open_run(
        dataset, inputs["autoencoder"], lambda channels, stride: DenseHead(channels, head.bins, seed=seed), sides=head.crop, runtime=runtime
    )
    losses = train_heads(
        run, partial(_crop, dataset, head, seed), CropBatches(head.crop, 0.0, crops.colour_jitter), partial(silog_loss, head), linear(head),
        seed=seed, out=out, runtime=runtime, label="heads, depth",
    )  # fmt: skip
    errors = errors_of(run, partial(depths_of, run, head), head, out, runtime)
    if runtime.is_main:
        opened("depth", settings, whole.identity)  # raises an error if a file changed during training
        write_errors(errors, run, head, slice_, out, "depth-linear", head.model_dump(mode="json", exclude={"checkpoint_images"}))
    return {"images_seen": head.total_images, "losses": losses}


def write_errors(
    errors: dict[str, Tensor], run: DenseRun, head: scoring.DepthHead, slice_: dict[str, Any], out: Path, measure: str, used: dict[str, Any]
) -> None:
    """Writes ``scores.json`` from errors per image [N, 2] of each head; ``measure`` and ``used`` (the settings) name the protocol."""
    details = ("eigen-crop" if head.border == "nyu" else "whole-images", f"to{head.farthest:g}m")
    name = protocol(measure, images=run.validation_images, reference=run.training_images, details=details, settings=used)
    resampling = Resampling(resamples=slice_["scores"]["resamples"], seed=slice_["seed"])
    scores = [s for kind, each in errors.items() for s in measures.depth_scores(each, name, {"latents": kind}, resampling)]
    write_scores(out, scores, slice_)


def check_depth_maps(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Reads every pair of a folder once, so that an unusable depth map is reported before hours of training."""
    settings = scoring.Depth.model_validate(slice_["scores"]["depth"])
    head, dataset = settings.head, opened("depth", settings)

    def in_range(pair: ImagePair) -> int:
        depth = read_depth(dataset.root, pair).target
        return int(((depth > head.nearest) & (depth < head.farthest)).sum())

    return check_pairs(dataset, in_range, "depth maps", out, runtime)


def _crop(dataset: DenseSet, head: scoring.DepthHead, seed: int, index: int, position: int) -> Crop:
    sample = read_depth(dataset.root, dataset.training[index])
    return crops.depth_crop(sample, crops.uniform_draws(seed, position), size=head.crop, border=head.border == "nyu")


def silog_loss(head: scoring.DepthHead, outputs: Callable[[slice], Tensor], targets: Tensor, batch: Batch, runtime: Runtime) -> Tensor:
    """The scale-invariant log loss, a scalar, over the counted pixels of targets [B, H, W] of the global batch: first its sums, then the
    gradient in micro-batches."""
    inside = measures.counted(targets, head.nearest, head.farthest, eigen=False)

    def log_errors(rows: slice) -> Tensor:
        depth = crops.resized(measures.depth_of(outputs(rows), head.nearest, head.farthest)[:, None], targets.shape[1:])[:, 0]
        return measures.log_error(depth[inside[rows]], targets[rows][inside[rows]])

    variance = batch.images_seen >= PLAIN_SHARE * head.total_images
    return log_error_loss(log_errors, partial(measures.silog, variance=variance), targets, runtime)


def log_error_loss(
    log_errors: Callable[[slice], Tensor],
    loss_of: Callable[[measures.SilogSums], tuple[Tensor, Tensor, Tensor]],
    targets: Tensor,
    runtime: Runtime,
) -> Tensor:
    """A loss of sums of log errors over the global batch, with its gradient computed in micro-batches; returns this rank's share, a
    scalar. ``log_errors``: rows of the targets [B, H, W] -> log errors of their pixels [n]; ``loss_of``: as ``metrics.depth.silog``."""
    sums = torch.zeros(3, dtype=torch.float64, device=targets.device)
    with torch.no_grad():
        for rows in pieces(len(targets), runtime):
            g = log_errors(rows).double()
            sums += torch.stack([torch.full_like(sums[0], g.numel()), g.sum(), g.square().sum()])
    loss, slope, offset = loss_of(measures.SilogSums(*runtime.all_reduce_(sums)))
    for rows in pieces(len(targets), runtime):
        g = log_errors(rows)
        g.backward((slope * g.detach() + offset).to(g.dtype))
    return (loss / runtime.world).float()


def errors_of(
    run: DenseRun,
    depths_of: Callable[[Image.Image, tuple[int, int], torch.device], list[Tensor]],
    head: scoring.DepthHead,
    out: Path,
    runtime: Runtime,
) -> dict[str, Tensor]:
    """(RMSE, relative error) of each validation image for each head: [N, 2] float64; ranks share the images. ``depths_of``: (image, size of
    its map, device) -> the depth [H, W] of each head."""

    def measured(pair: ImagePair) -> Tensor:
        sample = read_depth(run.dataset.root, pair)
        truth = torch.from_numpy(sample.target).to(runtime.torch_device)
        mask = measures.counted(truth, head.nearest, head.farthest, eigen=head.border == "nyu")
        height, width = truth.shape
        depths = depths_of(sample.image, (height, width), runtime.torch_device)
        return torch.stack([torch.tensor(measures.errors(depth, truth, mask), dtype=torch.float64) for depth in depths])

    table = evaluated(run, measured, (len(run.readings), 2), out, runtime, "depth").cpu()
    return {name: table[:, row].contiguous() for row, name in enumerate(run.readings)}


@torch.no_grad()
def depths_of(run: DenseRun, head: scoring.DepthHead, image: Image.Image, size: tuple[int, int], device: torch.device) -> list[Tensor]:
    """Depth [H, W] predicted by each head for a full image, averaged with the prediction for its mirror image."""
    stride = run.tokenizer.stride
    width, height = (max(round(side / stride), 1) * stride for side in image.size)
    pixels = np.asarray(image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR))
    whole = torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1).float() / 255
    latents = run.tokenizer.encode(torch.stack([whole, whole.flip(-1)]))
    depths = []
    for reading in run.readings.values():
        depth = measures.depth_of(reading.head(latents[:, reading.channels]), head.nearest, head.farthest)
        straight, mirrored = crops.resized(depth[:, None], size)[:, 0]
        depths.append(((straight + mirrored.flip(-1)) / 2).clamp(head.nearest, head.farthest))
    return depths
