"""mIoU of linear heads on frozen latents: on the run's images with masks, or on a folder such as ADE20K.

Protocol for a folder (``scores.segmentation.source``), after DINOv3's linear protocol (facebookresearch/dinov3,
eval/segmentation/configs/config-ade20k-linear-training.yaml):

- Head: batch norm and a 1x1 convolution on raw latents, with a tenth of the channels dropped.
- Training: crops of 512 px from images with a short side of 512 times 0.5 to 2, mirrored half of the time, with photometric distortion; no
  class covers more than 3/4 of a crop if one of ten tries avoids it. Cross-entropy at the crop's size over the labelled pixels of the batch
  of 16. 40,000 updates of AdamW: learning rate 1e-3, weight decay 1e-3, 1,500 updates of warm-up, cosine to zero.
- Validation: short side 512, windows of 512 px every 341 px; their averaged logits are resized bilinearly to the mask's size. Areas are
  summed over all images; mIoU and mAcc are means over classes (mmsegmentation's IoUMetric, unrounded). Label 0 (unlabelled) is ignored.

Unlike DINOv3, the cosine begins after the warm-up, and images are not rounded to bytes between colour steps. Limit: boundaries finer than
the grid. With ``align: batch``, the batch consists of the windows of one image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from svgbench.config import scoring
from svgbench.config.records import Score
from svgbench.images import crops
from svgbench.images.crops import Crop
from svgbench.images.dense_sets import IGNORED, DenseSet, ImagePair, Sample, opened, read_labelled
from svgbench.images.store import open_images
from svgbench.machine.checkpoints import FOLDER, Steps
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch
from svgbench.metrics.protocol import protocol
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.segmentation import Areas, ade20k_names, area_scores, areas_of, class_figures, segmentation_scores
from svgbench.metrics.sliding import averaged, cut, windows
from svgbench.nets.linear_head import DenseHead
from svgbench.nets.tokenizer import channel_parts
from svgbench.stages.dense import CropBatches, DenseRun, HeadLoss, HowTrained, check_pairs, evaluated, linear, open_run, pieces, train_heads
from svgbench.stages.results import limit_of, probe_groups, write_scores
from svgbench.stages.tokenizers import latents_of, open_tokenizer


def own_masks(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """mIoU and mAcc of a linear head on frozen latents of the run's images: features, residual, both."""
    part = slice_["scores"]
    settings = scoring.Segmentation.model_validate(part["segmentation"])
    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    limits = {"train": settings.train_images, "val": None}
    cached = {split: latents_of(split, tokenizer, getattr(collection, split), inputs["statistics"], runtime) for split in limits}
    train, val = (cached[split].gather(Tensor.cpu, limit) for split, limit in limits.items())
    assert collection.train.masks is not None and collection.val.masks is not None  # a run without masks has no such stage
    masks = [torch.from_numpy(np.array(m[: len(x)])) for m, x in ((collection.train.masks, train), (collection.val.masks, val))]
    scores: list[Score] = []
    steps = Steps(out / FOLDER, runtime.notify)
    for name, channels in channel_parts(tokenizer.feature_channels, tokenizer.channels).items():
        sets = [(x[:, channels], m) for x, m in zip((train, val), masks, strict=True)]

        def scored(_: Steps, name: str = name, sets: list[tuple[Tensor, Tensor]] = sets) -> tuple[dict[str, Tensor], dict[str, Any]]:
            fitted = segmentation_scores(
                *sets, classes=len(collection.classes) + 1, settings=settings, latents=name, seed=slice_["seed"],
                resampling=Resampling(resamples=part["resamples"], seed=slice_["seed"]), **probe_groups(inputs, collection, len(train)),
            )  # fmt: skip
            return {}, {"scores": [score.model_dump(mode="json") for score in fitted]}

        scores += map(Score.model_validate, steps.once(name, scored)[1]["scores"])
    return write_scores(out, scores, slice_)


def folder(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """mIoU and mAcc on a folder of images with masks, by this protocol: features, residual, both. Runs on all ranks; writes the heads."""
    head, seed = scoring.Segmentation.model_validate(slice_["scores"]["segmentation"]).head, slice_["seed"]
    return score_folder(
        slice_, inputs, out, runtime, Frame(head.classes, head.crop, head.stride, head.scales), linear(head, dropout=head.dropout),
        make=lambda channels, stride: DenseHead(channels, head.classes, seed=seed), measure="seg-linear-slide",
        used=head.model_dump(mode="json", exclude={"checkpoint_images"}), distort=crops.photometric_distortion,
    )  # fmt: skip


def pixel_cross_entropy(
    outputs: Callable[[slice], Tensor], targets: Tensor, batch: Batch, runtime: Runtime, *, every: bool = False
) -> Tensor:  # fmt: skip
    """Cross-entropy, a scalar, of logits enlarged to the size of targets [B, H, W], summed over the global batch's labelled pixels and
    divided by their number, or by that of ``every`` pixel (mmsegmentation's default)."""
    divisor = torch.full((), targets.numel(), device=targets.device) if every else (targets != IGNORED).sum()
    counted = runtime.all_reduce_(divisor).clamp_min(1)
    total = torch.zeros((), device=targets.device)
    for rows in pieces(len(targets), runtime):
        logits = crops.resized(outputs(rows), targets.shape[1:])
        loss = F.cross_entropy(logits, targets[rows].long(), ignore_index=IGNORED, reduction="sum") / counted
        loss.backward()
        total += loss.detach()
    return total


class Frame(NamedTuple):
    """Sizes of training crops and of evaluation windows."""

    classes: int
    crop: int
    """Side in pixels of crops and windows, and the short side of an image at scale 1."""
    stride: int
    """Pixels between two windows."""
    scales: tuple[float, float]


def score_folder(
    slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime, head: Frame, how: HowTrained, *,
    make: Callable[[int, int], nn.Module], measure: str, used: dict[str, Any], distort: Callable[[Tensor, np.ndarray], Tensor],
    loss: HeadLoss = pixel_cross_entropy,
) -> dict[str, Any]:  # fmt: skip
    """Trains heads (``make``: channels and stride -> head) on crops and evaluates them on windows; ``measure`` and ``used`` (the settings)
    name the protocol; ``distort``: (a crop's pixels, its random numbers) -> pixels with changed colours."""
    part, seed = slice_["scores"], slice_["seed"]
    settings = scoring.Segmentation.model_validate(part["segmentation"])
    whole = opened("segmentation", settings)
    dataset = whole.limited(limit_of(slice_))
    run = open_run(dataset, inputs["autoencoder"], make, sides=(head.crop,), runtime=runtime)
    losses = train_heads(
        run, partial(_crop, dataset, head, seed), CropBatches((head.crop, head.crop), IGNORED, distort), loss, how,
        seed=seed, out=out, runtime=runtime, label="heads, segmentation",
    )  # fmt: skip
    areas = _evaluated(run, head, out, runtime)
    if runtime.is_main:
        opened("segmentation", settings, whole.identity)  # raises an error if a file changed during training
        details = (f"{head.classes}classes",)
        name = protocol(measure, images=run.validation_images, reference=run.training_images, details=details, settings=used)
        resampling = Resampling(resamples=part["resamples"], seed=seed)
        scores = [score for kind, area in areas.items() for score in area_scores(area, name, {"latents": kind}, resampling)]
        write_scores(out, scores, slice_)
        names = ade20k_names() if head.classes == 150 else None  # other folders' classes have numbers
        figures = {kind: class_figures(area, names) for kind, area in areas.items()}
        write_atomic(out / "classes.json", (json.dumps(figures, indent=1) + "\n").encode())
    return {"images_seen": how.settings.total_images, "losses": losses}


def check_masks(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Reads every pair of a folder once, so that an unusable mask is reported before hours of training."""
    settings = scoring.Segmentation.model_validate(slice_["scores"]["segmentation"])
    dataset, head = opened("segmentation", settings), settings.head
    largest = int(head.crop * max(1.0, *head.scales))

    def labelled(pair: ImagePair) -> int:
        return int((read_labelled(dataset.root, pair, head.classes, largest).target != IGNORED).sum())

    return check_pairs(dataset, labelled, "masks", out, runtime)


def _crop(dataset: DenseSet, head: Frame, seed: int, index: int, position: int) -> Crop:
    sample = read_labelled(dataset.root, dataset.training[index], head.classes)
    return crops.segmentation_crop(sample, crops.uniform_draws(seed, position), side=head.crop, scales=head.scales)


def _evaluated(run: DenseRun, head: Frame, out: Path, runtime: Runtime) -> dict[str, Areas]:
    """Areas [N, K] of the validation images for each head; ranks share the images."""

    def areas(sample: Sample) -> Iterator[list[Tensor]]:
        target = torch.from_numpy(sample.target).to(runtime.torch_device)[None]
        for logits in logits_of(run, sample, head, runtime.torch_device):
            prediction = crops.resized(logits[None], sample.target.shape).argmax(1)
            yield [area[0] for area in areas_of(prediction, target, head.classes)]

    def measured(pair: ImagePair) -> Tensor:
        return torch.stack([torch.stack(each) for each in areas(read_labelled(run.dataset.root, pair, head.classes))])

    table = evaluated(run, measured, (len(run.readings), 3, head.classes), out, runtime, "mIoU")
    return {name: Areas(*table[:, row].movedim(1, 0).contiguous()) for row, name in enumerate(run.readings)}


@torch.no_grad()
def logits_of(run: DenseRun, sample: Sample, head: Frame, device: torch.device) -> list[Tensor]:
    """Window-averaged logits [K, H, W] of each head for the image, resized so that its short side is ``head.crop``."""
    pixels = np.asarray(sample.image.resize(crops.scaled(sample.image.size, head.crop), Image.Resampling.BILINEAR))
    image = torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1).float() / 255
    height, width = image.shape[1:]
    places = windows(height, width, head.crop, head.stride)
    latents = run.tokenizer.encode(cut(image, places))
    outputs = (crops.resized(reading.head(latents[:, reading.channels]), (head.crop, head.crop)) for reading in run.readings.values())
    return [averaged(list(each), places, height, width) for each in outputs]
