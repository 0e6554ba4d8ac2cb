"""Depth by the SVG paper's protocol (arXiv 2510.15301v4, appendix B): head and hyperparameters after Xie et al. (arXiv 2205.13543).

Sources: SwinTransformer/MIM-Depth-Estimation (models/model.py, train.py, models/optimizer.py, README.md); its data and losses are
GLPDepth's (vinvino02/GLPDepth).

- Head: ``nets.paper_heads.DeconvHead``.
- Training: crops of 480 x 480 px, mirrored half of the time, Vertical CutDepth on a quarter, GLPDepth's colours. Loss sqrt(mean(g^2) -
  mean(g)^2 / 2) of log errors g over the batch's known pixels. 25 epochs in batches of 24; AdamW, with a learning rate that rises over 12
  epochs by (share)^0.9 from 3e-5 to 5e-4 and falls the same way; weight decay 0.05 on weights only.
- Validation: windows of 480 px every 160 px (two per NYUv2 image), each averaged with the result of its mirror image, then averaged over
  windows. Errors per image inside Eigen's crop, averaged over images.

Our choices: batch norm over the full batch (the source: over each GPU's share), width 128 (as for the source's SwinV2-B), fewer doublings
for an encoder of stride 16, and support for image sizes other than NYUv2's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from svgbench.config import scoring
from svgbench.config.networks import Optimiser, Training
from svgbench.config.paper_heads import PaperDepth
from svgbench.images import crops, paper_crops
from svgbench.images.crops import Crop
from svgbench.images.dense_sets import DenseSet, opened, read_depth
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch
from svgbench.metrics import depth as measures
from svgbench.metrics.sliding import averaged, cut, windows
from svgbench.nets.paper_heads import DeconvHead
from svgbench.stages.dense import CropBatches, DeepHeadsTask, DenseRun, HowTrained, open_run, train_heads
from svgbench.stages.depth import errors_of, log_error_loss, write_errors
from svgbench.stages.results import limit_of


def folder(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """depth_rmse and depth_arel on a folder of images with depth maps: features, residual, both. Runs on all ranks; writes the heads."""
    part, seed = slice_["scores"], slice_["seed"]
    settings, head = scoring.Depth.model_validate(part["depth"]), PaperDepth.model_validate(part["paper"]["deconv"])
    known, whole = settings.head, opened("depth", settings)
    dataset = whole.limited(limit_of(slice_))
    training = Training(
        total_images=head.epochs * len(dataset.training), batch=head.batch, checkpoint_images=head.checkpoint_images,
        optimiser=Optimiser(lr=head.lr, weight_decay=head.weight_decay),
    )  # fmt: skip
    sizes = {"filters": head.filters, "width": head.width, "farthest": known.farthest, "seed": seed}
    run = open_run(
        dataset, inputs["autoencoder"], lambda channels, stride: DeconvHead(channels, stride=stride, **sizes), sides=(head.crop,),
        runtime=runtime,
    )  # fmt: skip
    how = HowTrained(training, rate=partial(rate, head, len(dataset.training)), task=DeepHeadsTask, parameters=weights_and_others)
    losses = train_heads(
        run, partial(_crop, dataset, head, seed), CropBatches((head.crop, head.crop), 0.0, paper_crops.depth_colours), loss, how,
        seed=seed, out=out, runtime=runtime, label="heads, depth",
    )  # fmt: skip
    errors = errors_of(run, partial(depths_of, run, head), known, out, runtime)
    if runtime.is_main:
        opened("depth", settings, whole.identity)  # raises an error when a file changed during training
        used = head.model_dump(mode="json", exclude={"checkpoint_images"})
        write_errors(errors, run, known, slice_, out, "paper-depth-deconv-slide", used)
    return {"images_seen": training.total_images, "losses": losses}


def rate(head: PaperDepth, count: int, images_seen: int) -> float:
    """The learning rate of the update that ends at ``images_seen``, with ``count`` training images per epoch: largest after half of the
    epochs, rounded down (12 of 25), and smallest from twice that number on."""
    place = images_seen / ((head.epochs // 2 or head.epochs / 2) * count)
    share = place**head.power if place < 1 else max(0.0, 1 - (place - 1) ** head.power)
    return head.least_lr + (head.lr - head.least_lr) * share


def weights_and_others(head: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups: only parameters with two or more dimensions have weight decay."""
    parameters = list(head.parameters())
    return [{"params": [p for p in parameters if p.ndim > 1]}, {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]


def _crop(dataset: DenseSet, head: PaperDepth, seed: int, index: int, position: int) -> Crop:
    return paper_crops.cut_depth_crop(
        read_depth(dataset.root, dataset.training[index]), crops.uniform_draws(seed, position), side=head.crop
    )


def loss(outputs: Callable[[slice], Tensor], targets: Tensor, batch: Batch, runtime: Runtime) -> Tensor:
    """GLPDepth's loss, a scalar, over the known pixels of targets [B, H, W] of the global batch."""
    known = targets > 0

    def log_errors(rows: slice) -> Tensor:
        depth = crops.resized(outputs(rows), targets.shape[1:])[:, 0]
        return depth[known[rows]].log() - targets[rows][known[rows]].log()

    return log_error_loss(log_errors, measures.plain_silog, targets, runtime)


@torch.no_grad()
def depths_of(run: DenseRun, head: PaperDepth, image: Image.Image, size: tuple[int, int], device: torch.device) -> list[Tensor]:
    """Depth [H, W] predicted by each head for an image, averaged over windows and their mirror images."""
    pixels = np.asarray(paper_crops.enlarged(image, head.crop))
    whole = torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1).float() / 255
    height, width = whole.shape[1:]
    places = windows(height, width, head.crop, head.window_stride)
    cuts = cut(whole, places)
    latents = run.tokenizer.encode(torch.cat([cuts, cuts.flip(-1)]))
    depths = []
    for reading in run.readings.values():
        straight, mirrored = crops.resized(reading.head(latents[:, reading.channels]), (head.crop, head.crop)).chunk(2)
        depth = averaged(list((straight + mirrored.flip(-1)) / 2), places, height, width)
        depths.append(crops.resized(depth[None], size)[0, 0])
    return depths
