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
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import Resampling
from svgbench.world.runtime import Runtime


def reconstruction_scores(
    reconstructions: Any,
    originals: Any,
    *,
    originals_group: ImageGroup,
    extractor: Extractor | None,
    perceptual: Perceptual | None,
    original_features: Reference | None = None,
    resampling: Resampling = Resampling(),
    detail: Mapping[str, Any] | None = None,
    batch: int = 128,
    device: torch.device | str = "cpu",
    runtime: Runtime | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> list[Score]:
    """rfid (with an extractor), psnr, ssim, lpips (with a perceptual net) of uint8 [N, 3, H, W] beside their originals in the same order.

    ``original_features`` spares the originals' pass where another score already made it; ``runtime``: all its ranks share the images and
    each gets all scores.
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
        mine = extract(extractor, reconstructions, batch=batch, runtime=runtime, done=done)
        theirs = original_features or Reference.of(extract(extractor, originals, batch=batch, runtime=runtime, done=done), originals_group)
        name = protocol("fd", judge=extractor.judge, reference=originals_group, images=images, rounding=ROUNDING)
        scores.append(_rfid("rfid" if extractor.frechet == "gfid" else f"r{extractor.frechet}", mine, theirs, resampling, name, facts))
    for metric, values in per_image(reconstructions, originals, measures, batch=batch, device=device, runtime=runtime).items():
        judge = perceptual.judge if perceptual is not None and metric == "lpips" else None
        name = protocol("distance" if judge else metric, judge=judge, reference=originals_group, images=images, rounding=ROUNDING)
        low, high = resampling.of_mean(values, floor=-1.0 if metric == "ssim" else 0.0, ceiling=1.0 if metric == "ssim" else float("inf"))
        scores.append(Score(metric=metric, value=values.mean().item(), low=low, high=high, count=len(values), protocol=name, detail=facts))
    return scores


def _rfid(metric: str, mine: Features, theirs: Reference, resampling: Resampling, name: Protocol, facts: Mapping[str, Any]) -> Score:
    """The Frechet distance of reconstructions to their originals; its spread is that of the kept pairs, brought to the size of all."""
    if theirs.kept is None or len(theirs.kept) != len(mine.kept):
        raise BadData(f"{len(mine.kept)} reconstructions do not pair with the originals' features; take those again.")
    kept, value = len(mine.kept), frechet_distance(mine.moments.gaussian(), theirs.gaussian)
    replicates = paired_replicates(mine.kept, theirs.kept, resampling.counts(kept, mine.kept.device))
    low, high = resampling.interval(value, replicates * (kept / mine.count) ** 0.5, floor=0.0)
    stated = {} if kept == mine.count else resampling.stated(f"{kept} of {mine.count} image pairs, scaled by the root of their share")
    return Score(metric=metric, value=value, low=low, high=high, count=mine.count, protocol=name, detail={**facts, **stated})


def per_image(
    images: Any,
    originals: Any,
    measures: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    *,
    batch: int = 128,
    device: torch.device | str = "cpu",
    runtime: Runtime | None = None,
) -> dict[str, Tensor]:
    """Name of each measure -> its value for each pair [N] float64 on the CPU; of a runtime's ranks each measures its own pairs and gets
    all values."""
    found = {name: torch.zeros(len(images), dtype=torch.float64) for name in measures}
    for (start, mine), (_, theirs) in zip(batches(images, batch, runtime), batches(originals, batch, runtime), strict=True):
        mine, theirs = mine.to(device), theirs.to(device)
        for name, measure in measures.items():
            found[name][start : start + len(mine)] = measure(mine, theirs).cpu()
    return {name: values if runtime is None else runtime.all_reduce_(values) for name, values in found.items()}
