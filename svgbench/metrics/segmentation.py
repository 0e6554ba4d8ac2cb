"""What a linear head reads from frozen latents about where things are: mean intersection over union, mean accuracy.

Protocol: raw latents [C, h, w] (the name says which: features, residual or both) through batch norm without affine and a 1x1
convolution, logits enlarged bilinearly to the mask's size, cross-entropy at every pixel, AdamW with a cosine to zero; no augmentation.
Validation: areas summed over all images, IoU = intersection / union and accuracy = intersection / truth per class, then the mean over
classes with pixels (mmsegmentation's IoUMetric, unrounded), in percent. Background (0) is one of the classes; 255 is ignored.
Intervals draw validation images again. What it cannot tell: boundaries finer than the grid, or what a deeper head would find; the
batch norm's moments are of the training latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.config.records import Score
from svgbench.config.schema import Segmentation
from svgbench.errors import BadData
from svgbench.metrics.protocol import ImageGroup, protocol
from svgbench.metrics.resampling import Resampling

IGNORED = 255


class Areas(NamedTuple):
    """Pixels per image and class, float64 [N, K] each."""

    intersection: Tensor
    predicted: Tensor
    truth: Tensor


class LinearHead(nn.Module):
    """Class logits [B, K, H, W] of latents [B, C, h, w]: standardise by fixed moments, 1x1 convolution, enlarge to ``size``."""

    def __init__(self, channels: int, classes: int, mean: Tensor, std: Tensor, *, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))
        self.weight = nn.Parameter(torch.randn(classes, channels, 1, 1, generator=generator).mul(0.01).to(mean.device))
        self.bias = nn.Parameter(torch.zeros(classes, device=mean.device))

    def forward(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        logits = F.conv2d((latents.float() - self.mean) / self.std, self.weight, self.bias)
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def fit_head(latents: Tensor, masks: Tensor, classes: int, settings: Segmentation, *, seed: int = 0) -> LinearHead:
    """A head trained on latents [N, C, h, w] and uint8 masks [N, H, W] with values below ``classes`` (or 255)."""
    _check(latents, masks, classes)
    generator = torch.Generator().manual_seed(seed)
    std, mean = torch.std_mean(latents.double(), (0, 2, 3))
    head = LinearHead(latents.shape[1], classes, mean.float(), std.clamp_min(1e-6).float(), generator=generator)
    batch = min(settings.batch, len(latents))
    steps = settings.epochs * (len(latents) // batch)
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(settings.epochs):
        order = torch.randperm(len(latents), generator=generator)
        for rows in order[: len(latents) // batch * batch].split(batch):
            rows = rows.to(latents.device)
            target = masks[rows]
            if (target == IGNORED).all():
                schedule.step()
                continue
            loss = F.cross_entropy(head(latents[rows], tuple(target.shape[1:])), target.long(), ignore_index=IGNORED)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    return head.requires_grad_(False)


@torch.no_grad()
def areas(head: LinearHead, latents: Tensor, masks: Tensor, classes: int, *, batch: int = 128) -> Areas:
    """Areas of the head's predictions on latents [N, C, h, w] against masks [N, H, W]."""
    _check(latents, masks, classes)
    parts = [
        areas_of(head(part, tuple(mask.shape[1:])).argmax(1), mask, classes)
        for part, mask in zip(latents.split(batch), masks.split(batch), strict=True)
    ]
    return Areas(*(torch.cat(column) for column in zip(*parts, strict=True)))


def areas_of(predictions: Tensor, masks: Tensor, classes: int) -> Areas:
    """Areas of predicted class maps [N, H, W] against masks [N, H, W]; pixels whose mask is 255 count nowhere."""
    count = len(masks)
    truth, predicted = masks.flatten(1).long(), predictions.flatten(1).long()
    image = torch.arange(count, device=masks.device)[:, None].expand_as(truth)
    seen = truth != IGNORED

    def histogram(values: Tensor, where: Tensor) -> Tensor:
        return torch.bincount((image * classes + values)[where], minlength=count * classes).view(count, classes).double()

    return Areas(histogram(truth, seen & (truth == predicted)), histogram(predicted, seen), histogram(truth, seen))


def means(areas: Areas, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(mIoU, mAcc) in percent, [R] each, where image i is counted ``counts[r, i]`` times; once each when empty."""
    if counts is None:
        counts = torch.ones(1, len(areas.truth), dtype=torch.float64, device=areas.truth.device)
    inter, predicted, truth = (counts @ part for part in areas)
    union = predicted + truth - inter
    iou = torch.where(union > 0, inter / union, torch.nan).nanmean(1)
    accuracy = torch.where(truth > 0, inter / truth, torch.nan).nanmean(1)
    return 100 * iou, 100 * accuracy


def segmentation_scores(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    *,
    classes: int,
    settings: Segmentation,
    latents: str,
    train_images: ImageGroup,
    val_images: ImageGroup,
    resampling: Resampling = Resampling(),
    seed: int = 0,
    detail: Mapping[str, Any] | None = None,
) -> list[Score]:
    """miou and macc in percent from (latents [N, C, h, w], masks [N, H, W]) of both sets; ``classes`` counts the background."""
    head = fit_head(*train, classes, settings, seed=seed)
    found = areas(head, *val, classes)
    if not found.truth.any():
        raise BadData("no validation mask has a pixel that counts; mIoU needs masks with classes below 255.")
    values = [value.item() for value in means(found)]
    replicates = means(found, resampling.counts(len(found.truth), found.truth.device))
    name = protocol("seg-linear", images=val_images, reference=train_images, details=(latents, f"{classes}classes"), settings=settings)
    facts = {**(detail or {}), "latents": latents, **resampling.stated("validation images")}
    scores = []
    for metric, value, spread in zip(("miou", "macc"), values, replicates, strict=True):
        low, high = resampling.interval(value, spread, floor=0.0, ceiling=100.0)
        scores.append(Score(metric=metric, value=value, low=low, high=high, count=len(found.truth), protocol=name, detail=facts))
    return scores


def _check(latents: Tensor, masks: Tensor, classes: int) -> None:
    """Latents and masks that fit."""
    if latents.ndim != 4 or masks.ndim != 3 or len(latents) != len(masks) or not len(latents):
        raise BadData(f"latents {list(latents.shape)} and masks {list(masks.shape)} do not pair; they must be [N, C, h, w] and [N, H, W].")
    if classes > IGNORED:
        raise BadData(f"{classes} classes do not fit uint8 masks, whose 255 means ignored; use 255 classes or fewer.")
    labels = masks[masks != IGNORED]
    if len(labels) and int(labels.max()) >= classes:
        raise BadData(f"a mask holds class {int(labels.max())}, but there are {classes} classes; the masks are of another data set.")
