"""Semantic segmentation by a linear head on frozen latents: mean intersection over union, mean accuracy.

Protocol: raw latents [C, h, w] (``detail`` states which: features, residual or both) through batch norm without affine and a 1x1
convolution, logits upsampled bilinearly to the mask's size, cross-entropy at every pixel, AdamW with a cosine to zero; no augmentation.
Validation: areas summed over all images, IoU = intersection / union and accuracy = intersection / truth per class, then the mean over
classes with pixels (mmsegmentation's IoUMetric, unrounded), in percent. Background (0) is one of the classes; 255 is ignored. Intervals
resample validation images. Limits: it does not show boundaries finer than the grid or the accuracy of a deeper head. The batch norm uses
the moments of the training latents. For a folder with masks (ADE20K) see ``stages.segmentation.folder``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svgbench.config.records import Protocol, Score
from svgbench.config.scoring import Segmentation
from svgbench.errors import BadData
from svgbench.metrics.protocol import ImageGroup, protocol
from svgbench.metrics.resampling import Resampling

IGNORED = 255


class Areas(NamedTuple):
    """Pixels per image and class, float64 [N, K] each."""

    intersection: Tensor
    predicted: Tensor
    truth: Tensor


class LinearHead(NamedTuple):
    """Class logits [B, K, H, W] of latents [B, C, h, w]: standardise by fixed moments, 1x1 convolution, upsampling."""

    mean: Tensor
    """[1, C, 1, 1]"""
    std: Tensor
    """[1, C, 1, 1]"""
    weight: Tensor
    """[K, C, 1, 1]"""
    bias: Tensor
    """[K]"""

    def cells(self, latents: Tensor) -> Tensor:
        """Logits [B, K, h, w] on the latents' own grid."""
        return F.conv2d((latents.float() - self.mean) / self.std, self.weight, self.bias)

    def __call__(self, latents: Tensor, size: Sequence[int]) -> Tensor:
        """Logits [B, K, H, W] at the mask's size."""
        return F.interpolate(self.cells(latents), size=tuple(size), mode="bilinear", align_corners=False)


def upsampling_matrix(cells: int, pixels: int, device: torch.device) -> Tensor:
    """[pixels, cells]: bilinear upsampling along one axis, as a matrix."""
    return F.interpolate(torch.eye(cells, device=device)[None], size=pixels, mode="linear", align_corners=False)[0].T.contiguous()


def loss_gradient(cells: Tensor, target: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gradient [B, K, h, w] of the mean cross-entropy of upsampled logits against uint8 masks [B, H, W] over the pixels that are not 255.

    Closed form: softmax minus truth at every pixel, multiplied by the transposed upsampling; five times faster than autograd.
    """
    counted = (target != IGNORED)[:, None]
    error = (rows @ cells @ columns.T).softmax(1)
    truth = target.long().clamp_max(cells.shape[1] - 1)[:, None]
    error.scatter_add_(1, truth, torch.full_like(truth, -1, dtype=error.dtype)).mul_(counted)
    return rows.T @ error @ columns / counted.sum().clamp_min(1)


@torch.no_grad()
def fit_head(latents: Tensor, masks: Tensor, classes: int, settings: Segmentation, *, seed: int = 0) -> LinearHead:
    """A head trained on latents [N, C, h, w] and uint8 masks [N, H, W] with values below ``classes`` (or 255)."""
    _check(latents, masks, classes)
    generator, device = torch.Generator().manual_seed(seed), latents.device
    std, mean = (x.float().view(1, -1, 1, 1) for x in torch.std_mean(latents.double(), (0, 2, 3)))
    weight = torch.randn(classes, latents.shape[1], 1, 1, generator=generator).mul(0.01).to(device)
    head = LinearHead(mean, std.clamp_min(1e-6), weight, torch.zeros(classes, device=device))
    rows, columns = (upsampling_matrix(a, b, device) for a, b in zip(latents.shape[2:], masks.shape[1:], strict=True))
    batch = min(settings.batch, len(latents))
    steps = len(latents) // batch
    optimiser = torch.optim.AdamW([head.weight, head.bias], lr=settings.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * steps)
    for _ in range(settings.epochs):
        for chosen in torch.randperm(len(latents), generator=generator)[: steps * batch].to(device).split(batch):
            part = (latents[chosen].float() - head.mean) / head.std
            gradient = loss_gradient(F.conv2d(part, head.weight, head.bias), masks[chosen], rows, columns)
            head.weight.grad = torch.einsum("bkhw,bchw->kc", gradient, part)[..., None, None]
            head.bias.grad = gradient.sum((0, 2, 3))
            optimiser.step()
            schedule.step()
    head.weight.grad = head.bias.grad = None
    return head


@torch.no_grad()
def areas(head: LinearHead, latents: Tensor, masks: Tensor, classes: int, *, batch: int = 128) -> Areas:
    """Areas of the head's predictions on latents [N, C, h, w] against masks [N, H, W]."""
    _check(latents, masks, classes)
    parts = [
        areas_of(head(part, mask.shape[1:]).argmax(1), mask, classes)
        for part, mask in zip(latents.split(batch), masks.split(batch), strict=True)
    ]
    return Areas(*(torch.cat(column) for column in zip(*parts, strict=True)))


def areas_of(predictions: Tensor, masks: Tensor, classes: int) -> Areas:
    """Areas of predicted class maps [N, H, W] against masks [N, H, W]; pixels whose mask is 255 are ignored."""
    count = len(masks)
    truth, predicted = masks.flatten(1).long(), predictions.flatten(1).long()
    image = torch.arange(count, device=masks.device)[:, None].expand_as(truth)
    seen = truth != IGNORED

    def histogram(values: Tensor, where: Tensor) -> Tensor:
        return torch.bincount((image * classes + values)[where], minlength=count * classes).view(count, classes).double()

    return Areas(histogram(truth, seen & (truth == predicted)), histogram(predicted, seen), histogram(truth, seen))


def means(areas: Areas, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(mIoU, mAcc) in percent, [R] each, with image i counted ``counts[r, i]`` times (None: once)."""
    if counts is None:
        counts = torch.ones(1, len(areas.truth), dtype=torch.float64, device=areas.truth.device)
    inter, predicted, truth = (counts @ part for part in areas)
    union = predicted + truth - inter
    iou = torch.where(union > 0, inter / union, torch.nan).nanmean(1)
    accuracy = torch.where(truth > 0, inter / truth, torch.nan).nanmean(1)
    return 100 * iou, 100 * accuracy


def class_figures(image_areas: Areas, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Per class: number from 1, name if known, IoU and accuracy in percent (None without pixels), labelled pixels."""
    inter, predicted, truth = (part.sum(0).tolist() for part in image_areas)
    return [
        {
            "class": k + 1,
            "name": names[k] if names else None,
            "iou": 100 * inter[k] / union if (union := predicted[k] + truth[k] - inter[k]) else None,
            "accuracy": 100 * inter[k] / truth[k] if truth[k] else None,
            "pixels": int(truth[k]),
        }
        for k in range(len(truth))
    ]


def ade20k_names() -> tuple[str, ...] | None:
    """Names of ADE20K's 150 classes as in mmsegmentation; None if it is not installed (extra ``seg``)."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints when imported
            from mmseg.datasets import ADE20KDataset
    except ImportError:
        return None
    return ADE20KDataset.METAINFO["classes"]


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
    name = protocol("seg-linear", images=val_images, reference=train_images, details=(f"{classes}classes",), settings=settings)
    return area_scores(areas(head, *val, classes), name, {**(detail or {}), "latents": latents}, resampling)


def area_scores(image_areas: Areas, name: Protocol, facts: Mapping[str, Any], resampling: Resampling) -> list[Score]:
    """miou and macc of areas under a protocol; intervals resample the images of the areas."""
    if not image_areas.truth.any():
        raise BadData("no validation mask has a pixel that counts; mIoU needs masks with classes below 255.")
    values = [value.item() for value in means(image_areas)]
    replicates = means(image_areas, resampling.counts(len(image_areas.truth), image_areas.truth.device))
    facts = {**facts, **resampling.stated("validation images")}
    scores = []
    for metric, value, spread in zip(("miou", "macc"), values, replicates, strict=True):
        low, high = resampling.interval(value, spread, floor=0.0, ceiling=100.0)
        scores.append(Score(metric=metric, value=value, low=low, high=high, count=len(image_areas.truth), protocol=name, detail=facts))
    return scores


def _check(latents: Tensor, masks: Tensor, classes: int) -> None:
    """Raises BadData for latents and masks that do not fit."""
    if latents.ndim != 4 or masks.ndim != 3 or len(latents) != len(masks) or not len(latents):
        raise BadData(f"latents {list(latents.shape)} and masks {list(masks.shape)} do not pair; they must be [N, C, h, w] and [N, H, W].")
    if classes > IGNORED:
        raise BadData(f"{classes} classes do not fit uint8 masks, whose 255 means ignored; use 255 classes or fewer.")
    labels = masks[masks != IGNORED]
    if len(labels) and int(labels.max()) >= classes:
        raise BadData(f"a mask holds class {int(labels.max())}, but there are {classes} classes; the masks are of another data set.")
