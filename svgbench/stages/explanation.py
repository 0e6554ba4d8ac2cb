"""Where a run's gFID comes from: Frechet distances of images that are successively closer to its samples, and the share of memorised ones.

All distances are on the run's extractor, to the run's reference for samples, and of equally many images: as many as there are samples, or
all validation images if there are fewer. ``explanation.json`` holds what needs networks; ``tables.explanation`` adds the run's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.config.records import Protocol
from svgbench.errors import BadData
from svgbench.images.store import ImageSet, open_images
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.runtime import Runtime
from svgbench.metrics.features import Extractor, Saved, extract, load_extractor
from svgbench.metrics.frechet import Moments, frechet_distance, frechet_replicates
from svgbench.metrics.memorisation import QUANTILE, close_share, threshold_of
from svgbench.metrics.protocol import ROUNDING, ImageGroup, protocol
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import Resampling, chosen
from svgbench.metrics.samples import to_uint8
from svgbench.nets import draws
from svgbench.nets.latents import LatentStats
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.stages.diagnosis import BATCH, latents, write_json
from svgbench.stages.results import encoding_of, image_group, limit_of
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import blocks, open_tokenizer, to_floats
from svgbench.stages.transformers import as_velocity, open_transformer

BLOCK = 128
"""Images whose features are computed at once."""
TIMES = (0.75, 0.8, 0.85, 0.9, 0.95)
"""Late times at which the error of the model's predicted data is measured (our choice)."""
ERROR_IMAGES = 1_000
"""Largest number of validation images for the model's error."""
KINDS = ("real", "decoder", "noised")
"""Levels whose features the stage computes: real validation images, their reconstructions, and images decoded from noised latents."""


@torch.no_grad()
def one_step_errors(model: Any, data: Tensor, labels: Tensor, noise: Tensor, times: Sequence[float] = TIMES) -> Tensor:
    """Root mean square error [T, C], over images and positions, of the data that a velocity model predicts in one step from standardised
    latents ``data`` [N, C, h, w] of classes ``labels`` [N], noised by ``noise`` [N, C, h, w] to each of the times.

    x_t = (1 - t) noise + t data; the predicted data are x_t + (1 - t) v, so their error is (1 - t) times that of the velocity v.
    """
    squares = torch.zeros(len(times), data.shape[1], dtype=torch.float64, device=data.device)
    for row, t in enumerate(times):
        for block in blocks(len(data), BATCH):
            x, eps = data[block], noise[block]
            at = torch.full((len(x),), t, device=x.device)
            velocity = model((1 - t) * eps + t * x, at, labels[block]).float()
            squares[row] += ((1 - t) * (velocity - (x - eps))).double().square().sum((0, 2, 3))
    return (squares / (data.numel() // data.shape[1])).sqrt()


def run(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes ``explanation.json``: ``levels``, the distance of each of ``KINDS`` with interval, count, protocol and the
    interval of its step from the one before; ``error``, the model's
    one-step error at ``TIMES`` and for each channel; ``memorised``; and ``cells``, if there are fewer validation images than samples: the
    distance of as many samples of each cell ``samples STEPS``."""
    part, device = slice_["scores"], runtime.torch_device
    extractor = load_extractor(part["extractor"], part["extractor_weights"], device)
    reference = Reference.load(inputs["references"], extractor.judge, device)
    collection = open_images(inputs["images"])
    samples = {name: np.load(place / "samples.npy", mmap_mode="r") for name, place in inputs.items() if name.startswith("samples")}
    drawn = len(samples["samples"])
    count = min(len(collection.val), drawn)
    if count < 2:
        raise BadData(f"an explanation compares two images or more, there are {len(collection.val)} validation images and {drawn} samples.")
    places = chosen(count, len(collection.val))
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
    errors = _errors(collection.val, places, tokenizer, stats, inputs["diffusion"], runtime)
    size = errors.square().mean(0).sqrt()
    features = _features(collection.val, places, tokenizer, stats, size, extractor, inputs["reconstructions"], out, runtime)

    # the distances
    resampling = Resampling(resamples=part["resamples"], seed=0)
    group = image_group(inputs["images"], "val", collection.val, count)
    groups = {
        "real": group,
        "decoder": ImageGroup(name="reconstructed", count=count),
        "noised": ImageGroup(name="reconstructed", count=count),
    }
    levels: dict[str, dict[str, Any]] = {}
    last: tuple[float, Tensor] | None = None
    for number, kind in enumerate(KINDS):
        details = ("noised-latents",) if kind == "noised" else ()
        made = protocol("fd", judge=extractor.judge, reference=reference.group, images=groups[kind], rounding=ROUNDING, details=details)
        distance, replicates = _resampled(features[:, number], reference, resampling)
        levels[kind] = {**distance, "protocol": _marked(made, slice_)}
        if last is not None:  # of the same images, so the resamples are paired
            low, high = resampling.interval(distance["value"] - last[0], replicates - last[1])
            levels[kind] |= {"step_low": low, "step_high": high}
        last = distance["value"], replicates
    content = {
        "metric": extractor.frechet, "dim": extractor.dim, "samples": drawn, "images": count, "validation": len(collection.val),
        "reference": {"name": reference.group.name, "count": reference.group.count}, "levels": levels,
        "error": {"times": TIMES, "by_time": errors.square().mean(1).sqrt().tolist(), "by_channel": size.tolist(),
                  "mean": errors.square().mean().sqrt().item(), "images": min(count, ERROR_IMAGES)},
    }  # fmt: skip

    # the samples
    wanted = ["samples"] if _trained_on(reference) else []
    wanted += [name for name in samples if name != "samples"] if count < drawn else []
    kept = {name: _of_samples(name, samples[name], extractor, out, runtime) for name in wanted}
    if count < drawn:
        few = chosen(count, drawn).to(device)
        content["cells"] = {name: _distance(kept[name][few], reference, resampling) for name in wanted if name != "samples"}
    content["memorised"] = _memorised(kept.get("samples"), features[:, 0], reference, resampling)
    write_json(out / "explanation.json", content)
    return {"images_seen": count}


def _errors(val: ImageSet, places: Tensor, tokenizer: Tokenizer | Codec, stats: LatentStats, diffusion: Path, runtime: Runtime) -> Tensor:
    """The model's one-step error [T, C] on at most ``ERROR_IMAGES`` of the images at ``places``, each with its class."""
    some = places[chosen(ERROR_IMAGES, len(places))]
    data = stats.standardise(latents(val, some, tokenizer, runtime))
    noise = draws.normal(draws.stream(0, "explanation/error"), some.to(data.device), tuple(data.shape[1:]))
    model = as_velocity(open_transformer(diffusion, runtime)[0])
    return one_step_errors(model, data, torch.as_tensor(val.labels)[some].to(data.device), noise)


def _features(
    val: ImageSet, places: Tensor, tokenizer: Tokenizer | Codec, stats: LatentStats, size: Tensor, extractor: Extractor,
    reconstructions: Path, out: Path, runtime: Runtime,
) -> Tensor:  # fmt: skip
    """Features [M, 3, D] of each of ``KINDS`` for the images at ``places`` [M]. ``size``: standard deviation [C] of the noise on
    standardised latents. A stopped or killed attempt resumes."""
    decoded = np.load(reconstructions / "reconstructions.npy", mmap_mode="r")
    stream, device = draws.stream(0, "explanation/noise"), runtime.torch_device

    @torch.no_grad()
    def measured(items: range) -> list[np.ndarray]:
        where = places[items.start : items.stop]
        originals = val.batch(where)
        data = stats.standardise(tokenizer.encode(to_floats(originals, device))).float()
        data = data + size.to(data)[:, None, None] * draws.normal(stream, where.to(device), tuple(data.shape[1:]))
        noised = to_uint8(tokenizer.decode(stats.restore(data))).cpu()
        sets = (originals, torch.from_numpy(decoded[where.numpy()]), noised)
        return [torch.stack([extractor(images).features for images in sets], 1).cpu().numpy()]

    file = Array(out / FOLDER / "features.npy", np.float32, (len(KINDS), extractor.dim))
    label = f"features of validation images, {extractor.name}"
    Blocks(out / FOLDER / "features", [file], count=len(places), size=BLOCK, runtime=runtime, label=label).run(measured)
    return torch.from_numpy(np.load(file.path)).to(device)


def _of_samples(name: str, images: np.ndarray, extractor: Extractor, out: Path, runtime: Runtime) -> Tensor:
    """Features [N, D] of one cell's samples."""
    saved = Saved(place=out / FOLDER / name.replace(" ", "-"), label=f"features of {name}, {extractor.name}", runtime=runtime)
    return extract(extractor, images, runtime=runtime, saved=saved).kept


def _distance(features: Tensor, reference: Reference, resampling: Resampling) -> dict[str, Any]:
    """The Frechet distance of features [N, D] to the reference, with its bootstrap interval."""
    return _resampled(features, reference, resampling)[0]


def _resampled(features: Tensor, reference: Reference, resampling: Resampling) -> tuple[dict[str, Any], Tensor]:
    """The same, and the distance of each resample [R]."""
    value = frechet_distance(Moments.empty(features.shape[1], features.device).add(features).gaussian(), reference.gaussian)
    replicates = frechet_replicates(features, reference.gaussian, resampling.counts(len(features), features.device))
    low, high = resampling.interval(value, replicates, floor=0.0)
    return {"value": value, "low": low, "high": high, "count": len(features)}, replicates


def _marked(made: Protocol, slice_: dict[str, Any]) -> str:
    """The protocol as text, with a trial's limit and the precision of encoding and decoding."""
    details = (*made.details, *encoding_of(slice_))
    return made.model_copy(update={"limit": limit_of(slice_), "details": details}).text


def _trained_on(reference: Reference) -> bool:
    """Whether the reference holds features of the training images."""
    return reference.group.name == "train" and reference.kept is not None


def _memorised(samples: Tensor | None, val: Tensor, reference: Reference, resampling: Resampling) -> dict[str, Any]:
    """The shares of samples [N, D] and of validation images [M, D] that are close to a training image, or the reason why there are none."""
    if samples is None or reference.kept is None:
        return {"reason": "the run's reference is not its training images, to which samples would be compared"}
    threshold = threshold_of(reference.kept)
    if threshold == 0:
        return {"reason": f"{100 * QUANTILE:g} % of the training images have a copy among the others, so no sample is closer than they are"}
    shares = {"samples": samples, "validation": val}
    found = {name: asdict(close_share(points, reference.kept, threshold, resampling)) for name, points in shares.items()}
    return {**found, "threshold": threshold, "quantile": QUANTILE, "searched": len(reference.kept), "training": reference.group.count}
