"""Depth estimation by a linear head on frozen latents: RMSE in metres and mean relative error.

Protocol (``scores.depth``; DINOv3's linear protocol, facebookresearch/dinov3, eval/depth/configs/config-nyu.yaml):

- Head: batch norm and a 1x1 convolution on raw latents, 256 outputs x per position. A position's depth is the weighted mean of 256 depths,
  evenly spaced from 0.001 to 10 m, with weights relu(x) + 0.1 (AdaBins, arXiv 2011.14141, with uniform bins, as in DINOv2's linear head).
  Depths are upsampled bilinearly to the size of the map.
- Training: the scale-invariant log loss over the batch, 38,400 updates of 16 crops of 416 x 544 without NYU's white border, flipped,
  rotated by up to 2.5 degrees, with colour augmentation. AdamW (3e-4, betas 0.9 and 0.99, decay 1e-4), 12,800 updates of warm-up,
  cosine to zero, gradient norm at most 35.
- Validation: predictions for the image and its mirror image are averaged. Errors are computed for each image over the pixels with a depth
  in (0.001, 10) m inside Eigen's crop (NYUv2: rows 45 to 470, columns 41 to 600 of 480 x 640, as shares of the sides); scores are means
  over images.

Images whose sides are not multiples of the encoder's stride are resized to the nearest multiples. Unlike DINOv3, the cosine begins after
the warm-up, and AdamW's first beta stays at 0.9. Limits: it does not show edges finer than the grid, or the accuracy of a deeper head
(DPT).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svgbench.config.records import Protocol, Score
from svgbench.errors import BadData
from svgbench.metrics.resampling import Resampling

LEAST = 0.1
"""Added to each bin's weight, so that the weights do not all become zero."""
LOG_FLOOR = 1e-3
"""Metres added to depths before the logarithm."""
MEAN_WEIGHT = 0.15
"""Weight of the squared mean in the scale-invariant loss."""
EIGEN = (45 / 480, 471 / 480, 41 / 640, 601 / 640)
"""Top, bottom, left and right of Eigen's crop as shares of the sides (Eigen et al. 2014, arXiv 1406.2283)."""


def depth_of(outputs: Tensor, nearest: float, farthest: float) -> Tensor:
    """Depths [B, h, w] in metres of a head's outputs [B, bins, h, w]."""
    weights = outputs.relu() + LEAST
    bins = torch.linspace(nearest, farthest, outputs.shape[1], device=outputs.device)
    return torch.einsum("bkhw,k->bhw", weights / weights.sum(1, keepdim=True), bins)


def log_error(depth: Tensor, truth: Tensor) -> Tensor:
    """log(depth + 1 mm) - log(truth + 1 mm) of depths [B, H, W]."""
    return (depth + LOG_FLOOR).log() - (truth + LOG_FLOOR).log()


class SilogSums(NamedTuple):
    """Sums of log errors over the valid pixels, float64 scalars; micro-batches and ranks add them up."""

    n: Tensor
    """Number of pixels."""
    total: Tensor
    squares: Tensor


def silog(sums: SilogSums, *, variance: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The loss sqrt(var(g) + 0.15 mean(g)^2) of log errors g, and a, b of its derivative a g + b with respect to each g.

    Without ``variance`` the first term is left out. With the variance over n - 1: dL/dg = ((2 g - 2 m) / (n - 1) + 0.3 m / n) / 2 L.
    """
    n = sums.n.clamp_min(1)
    mean, rest = sums.total / n, (n - 1).clamp_min(1)
    spread = ((sums.squares - n * mean.square()) / rest).clamp_min(0) if variance else torch.zeros_like(mean)
    loss = (spread + MEAN_WEIGHT * mean.square()).sqrt()
    slope = (2 / rest if variance else torch.zeros_like(rest)) / (2 * loss).clamp_min(1e-12)
    return loss, slope, 2 * MEAN_WEIGHT * mean / n / (2 * loss).clamp_min(1e-12) - slope * mean


def plain_silog(sums: SilogSums) -> tuple[Tensor, Tensor, Tensor]:
    """The same for Eigen et al.'s loss sqrt(mean(g^2) - mean(g)^2 / 2) of log errors g [n] (arXiv 1406.2283, equation 4 under a root, as in
    GLPDepth)."""
    n = sums.n.clamp_min(1)
    mean = sums.total / n
    loss = (sums.squares / n - mean.square() / 2).clamp_min(0).sqrt()
    slope = 1 / (n * loss.clamp_min(1e-12))
    return loss, slope, -mean / 2 * slope


def eigen_crop(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of Eigen's crop."""
    top, bottom, left, right = (round(share * side) for share, side in zip(EIGEN, (height, height, width, width), strict=True))
    return slice(top, bottom), slice(left, right)


def counted(truth: Tensor, nearest: float, farthest: float, *, eigen: bool) -> Tensor:
    """The valid pixels of depths [..., H, W], bool of the same shape; with ``eigen`` only those inside Eigen's crop."""
    inside = (truth > nearest) & (truth < farthest)
    if eigen:
        frame = torch.zeros_like(inside)
        frame[(..., *eigen_crop(*truth.shape[-2:]))] = True
        inside &= frame
    return inside


def errors(depth: Tensor, truth: Tensor, mask: Tensor) -> tuple[float, float]:
    """(RMSE in metres, mean of |error| / truth) over the pixels of [H, W] in ``mask``; NaN for an empty mask."""
    depth, truth = depth[mask].double(), truth[mask].double()
    return (depth - truth).square().mean().sqrt().item(), ((depth - truth).abs() / truth).mean().item()


def depth_scores(image_errors: Tensor, name: Protocol, facts: Mapping[str, Any], resampling: Resampling) -> list[Score]:
    """The scores depth_rmse (in metres) and depth_arel from errors per image [N, 2], which are NaN for images without valid pixels."""
    image_errors = image_errors[image_errors.isfinite().all(1)]
    if not len(image_errors):
        raise BadData("no depth map has a pixel between scores.depth.head.nearest and farthest; correct the maps or these fields.")
    facts = {**facts, **resampling.stated("validation images")}
    scores = []
    for metric, values in zip(("depth_rmse", "depth_arel"), image_errors.T, strict=True):
        low, high = resampling.of_mean(values, floor=0.0)
        scores.append(Score(metric=metric, value=values.mean().item(), low=low, high=high, count=len(values), protocol=name, detail=facts))
    return scores
