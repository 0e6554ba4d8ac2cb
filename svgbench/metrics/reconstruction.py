"""Scores of reconstructions against their originals: rFID, PSNR, SSIM in two ranges of pixels and a perceptual distance.

Protocol: the validation images, once each, decoded from their own latents (posterior mean, no noise), uint8, at the benchmark's size,
against the same originals. The reference of rFID is therefore the validation images, not the training images that gFID uses. Intervals
resample pairs. Limit: they do not show how well a diffusion model trains in these latents; rFID is a lower bound of gFID, not a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.config.records import Protocol, Score
from svgbench.errors import BadData
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.runtime import Runtime
from svgbench.metrics.features import Extractor, ImageFeatures, Saved, batches, extract, rows_of
from svgbench.metrics.frechet import frechet_distance, paired_replicates
from svgbench.metrics.perceptual import Perceptual
from svgbench.metrics.pixels import psnr, signed_ssim, ssim
from svgbench.metrics.protocol import ROUNDING, ImageGroup, protocol
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import Resampling


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
    saved: Path | None = None,
) -> list[Score]:
    """rfid (with an extractor), psnr, ssim, ssim_signed, lpips (with a perceptual net) of uint8 [N, 3, H, W] against their
    originals in the same order.

    ``original_features``: features of the originals, if another score has computed them; ``runtime``: all ranks share the images, and each
    gets all scores; ``saved``: a directory for the finished part of each pass, so that a stopped pass can resume.
    """
    if len(reconstructions) != len(originals):
        raise BadData(f"{len(reconstructions)} reconstructions do not pair with {len(originals)} originals; reconstruct the images again.")
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr, "ssim": ssim, "ssim_signed": signed_ssim}
    if perceptual is not None:
        measures["lpips"] = perceptual
    images = ImageGroup(name="reconstructed", count=len(originals))
    facts = {**(detail or {}), **resampling.stated("image pairs")}
    scores = []
    if extractor is not None:
        mine, theirs = _features(extractor, reconstructions, "reconstructions", batch, runtime, saved), original_features
        if theirs is None:
            theirs = Reference.of(_features(extractor, originals, "originals", batch, runtime, saved), originals_group)
        name = protocol("fd", judge=extractor.judge, reference=originals_group, images=images, rounding=ROUNDING)
        scores.append(
            _rfid("rfid" if extractor.frechet == "gfid" else f"r{extractor.frechet}", mine, theirs, resampling, name, facts, runtime)
        )
    values_by_metric = per_image(reconstructions, originals, measures, batch=batch, device=device, runtime=runtime, saved=saved)
    for metric, values in values_by_metric.items():
        judge = perceptual.judge if perceptual is not None and metric == "lpips" else None
        name = protocol(
            "distance" if judge else metric.replace("_", "-"), judge=judge, reference=originals_group, images=images, rounding=ROUNDING
        )
        floor, ceiling = (-1.0, 1.0) if metric.startswith("ssim") else (0.0, float("inf"))
        low, high = resampling.of_mean(values, floor=floor, ceiling=ceiling)
        scores.append(Score(metric=metric, value=values.mean().item(), low=low, high=high, count=len(values), protocol=name, detail=facts))
    return scores


def _features(extractor: Extractor, images: Any, what: str, batch: int, runtime: Runtime | None, saved: Path | None) -> ImageFeatures:
    if runtime is None or saved is None:
        return extract(extractor, images, batch=batch, runtime=runtime)
    place = Saved(place=saved / what, label=f"features of the {what}", runtime=runtime)
    return extract(extractor, images, batch=batch, runtime=runtime, saved=place)


def _rfid(
    metric: str, mine: ImageFeatures, theirs: Reference, resampling: Resampling, name: Protocol, facts: Mapping[str, Any],
    runtime: Runtime | None,
) -> Score:  # fmt: skip
    """The Frechet distance of reconstructions to their originals; its interval is computed from the kept pairs and scaled to the number of
    all pairs."""
    if theirs.kept is None or len(theirs.kept) != len(mine.kept):
        raise BadData(f"{len(mine.kept)} reconstructions do not pair with the originals' features; compute those again.")
    kept, value = len(mine.kept), frechet_distance(mine.moments.gaussian(), theirs.gaussian)
    replicates = paired_replicates(mine.kept, theirs.kept, resampling.counts(kept, mine.kept.device), runtime)
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
    saved: Path | None = None,
) -> dict[str, Tensor]:
    """Name of each measure -> its values for all pairs, [N] float64 on the CPU; the ranks of a runtime share the pairs, and each gets all
    values. ``saved``: a directory for the values of the finished batches."""
    if runtime is not None and saved is not None:

        def rows(items: range, pair: tuple[Tensor, Tensor]) -> tuple[np.ndarray]:
            values = [measure(*(x.to(device) for x in pair)).double().cpu() for measure in measures.values()]
            return (torch.stack(values, 1).numpy(),)

        file, label = Array(saved / "values.npy", np.float64, (len(measures),)), f"{', '.join(measures)} of the images"
        work = Blocks(saved / "values", [file], count=len(images), size=batch, runtime=runtime, label=label)
        work.run(rows, lambda items: (rows_of(images, items), rows_of(originals, items)))
        return dict(zip(measures, torch.from_numpy(np.load(file.path)).T.contiguous(), strict=True))
    values_by_metric = {name: torch.zeros(len(images), dtype=torch.float64) for name in measures}
    for (start, mine), (_, theirs) in zip(batches(images, batch, runtime), batches(originals, batch, runtime), strict=True):
        mine, theirs = mine.to(device), theirs.to(device)
        for name, measure in measures.items():
            values_by_metric[name][start : start + len(mine)] = measure(mine, theirs).cpu()
    return {name: values if runtime is None else runtime.all_reduce_(values) for name, values in values_by_metric.items()}
