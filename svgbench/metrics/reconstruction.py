"""Scores of reconstructions: rFID, PSNR, SSIM and a perceptual distance, each image beside its original.

Protocol: the validation images, once each, decoded from their own latents (posterior mean, no noise), uint8, at the benchmark's size,
against those same originals: also rFID's reference is the validation images, never the training images that gFID stands on. Intervals
draw pairs again. What they cannot tell: how a diffusion model fares in these latents; rFID is the floor of a gFID, not a forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from svgbench.config.records import Protocol, Score
from svgbench.errors import BadData
from svgbench.metrics.features import Extractor, Features, batches, extract
from svgbench.metrics.frechet import frechet_distance, paired_replicates
from svgbench.metrics.perceptual import Perceptual
from svgbench.metrics.pixels import psnr, ssim
from svgbench.metrics.protocol import ROUNDING, ImageGroup, protocol
from svgbench.metrics.resampling import Resampling


def reconstruction_scores(
    reconstructions: Any,
    originals: Any,
    *,
    originals_group: ImageGroup,
    extractor: Extractor | None,
    perceptual: Perceptual | None,
    original_features: Features | None = None,
    resampling: Resampling = Resampling(),
    detail: Mapping[str, Any] | None = None,
    batch: int = 128,
    device: torch.device | str = "cpu",
    done: Callable[[int], None] = lambda count: None,
) -> list[Score]:
    """rfid (with an extractor), psnr, ssim, lpips (with a perceptual net) of uint8 [N, 3, H, W] beside their originals in the same order.

    ``original_features`` spares the originals' pass where another score already made it.
    """
    if len(reconstructions) != len(originals):
        raise BadData(f"{len(reconstructions)} reconstructions do not pair with {len(originals)} originals; make them again.")
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr, "ssim": ssim}
    if perceptual is not None:
        measures["lpips"] = perceptual
    images = ImageGroup(name="reconstructed", count=len(originals))
    facts = {**(detail or {}), **resampling.stated("image pairs")}
    scores = []
    if extractor is not None:
        mine = extract(extractor, reconstructions, batch=batch, done=done)
        theirs = original_features or extract(extractor, originals, batch=batch, done=done)
        name = protocol("fd", judge=extractor.judge, reference=originals_group, images=images, rounding=ROUNDING)
        scores.append(_rfid(mine, theirs, resampling, name, facts))
    for metric, values in per_image(reconstructions, originals, measures, batch=batch, device=device).items():
        judge = perceptual.judge if perceptual is not None and metric == "lpips" else None
        name = protocol("distance" if judge else metric, judge=judge, reference=originals_group, images=images, rounding=ROUNDING)
        low, high = resampling.of_mean(values, floor=-1.0 if metric == "ssim" else 0.0, ceiling=1.0 if metric == "ssim" else float("inf"))
        scores.append(Score(metric=metric, value=values.mean().item(), low=low, high=high, count=len(values), protocol=name, detail=facts))
    return scores


def _rfid(mine: Features, theirs: Features, resampling: Resampling, name: Protocol, facts: Mapping[str, Any]) -> Score:
    """The Frechet distance of reconstructions to their originals."""
    value = frechet_distance(mine.moments.gaussian(), theirs.moments.gaussian())
    replicates = paired_replicates(mine.kept, theirs.kept, resampling.counts(mine.count, mine.kept.device))
    low, high = resampling.interval(value, replicates, floor=0.0)
    return Score(metric="rfid", value=value, low=low, high=high, count=mine.count, protocol=name, detail=dict(facts))


def per_image(
    images: Any,
    originals: Any,
    measures: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    *,
    batch: int = 128,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Name of each measure -> its value for each pair [N] float64 on the CPU."""
    found: dict[str, list[Tensor]] = {name: [] for name in measures}
    for mine, theirs in zip(batches(images, batch), batches(originals, batch), strict=True):
        mine, theirs = mine.to(device), theirs.to(device)
        for name, measure in measures.items():
            found[name].append(measure(mine, theirs).cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}
