"""The scoring stages: each opens finished artifacts, calls ``metrics``, writes ``scores.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svgbench.config import scoring
from svgbench.config.records import SamplingProtocol, Score
from svgbench.metrics.features import Features, extract, load_extractor
from svgbench.metrics.generation import generation_scores
from svgbench.metrics.perceptual import load_perceptual
from svgbench.metrics.probe import pool, probe_scores
from svgbench.metrics.protocol import ImageGroup
from svgbench.metrics.reconstruction import reconstruction_scores
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.samples import check_samples
from svgbench.stages.tokenizers import Cached, latents_of, open_tokenizer
from svgbench.world.files import write_atomic
from svgbench.world.images import Images, ImageSet, open_images
from svgbench.world.runtime import Runtime

REFERENCE_IMAGES = 50_000
"""Training images whose features are kept for KID, precision and recall; the moments are of all."""


def references(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Features of the training and the validation images, taken once for all scores: ``train.safetensors``, ``val.safetensors``."""
    collection = open_images(inputs["images"])
    extractor = load_extractor(slice_["scores"]["extractor"], slice_["scores"]["extractor_weights"], runtime.torch_device)
    with runtime.progress("features of the real images", len(collection.train) + len(collection.val)) as bar:
        for name, images in (("train", collection.train), ("val", collection.val)):
            keep = None if name == "val" else REFERENCE_IMAGES
            extract(extractor, images, keep=keep, done=bar.advance).save(out / f"{name}.safetensors")
    return {"dim": extractor.dim}


def reconstruction(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """rFID, PSNR, SSIM and a perceptual distance of the validation images' reconstructions."""
    part = slice_["scores"]
    val = open_images(inputs["images"]).val
    decoded = np.load(inputs["reconstructions"] / "reconstructions.npy", mmap_mode="r")
    check_samples(decoded, None, len(val), size=val.batch(torch.arange(1)).shape[-1], distinct=False)
    extractor = load_extractor(part["extractor"], part["extractor_weights"], runtime.torch_device)
    left_out = part["perceptual"] == "lpips" and not part["lpips_weights"]
    perceptual = None if left_out else load_perceptual(part["perceptual"], part["lpips_weights"], device=runtime.torch_device)
    known = Features.load(inputs["references"] / "val.safetensors", runtime.torch_device)
    with runtime.progress("reconstruction scores", len(val)) as bar:
        scores = reconstruction_scores(
            decoded, val, originals_group=group(inputs["images"], "val", val), extractor=extractor, perceptual=perceptual,
            original_features=known,
            resampling=Resampling(resamples=part["resamples"], seed=slice_["seed"]), device=runtime.torch_device, done=bar.advance,
        )  # fmt: skip
    return _write(out, scores)


def generation(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """gFID, IS, KID, precision and recall of one cell's samples against the training images."""
    part = slice_["scores"]
    collection = open_images(inputs["images"])
    train = collection.train
    drawn = np.load(inputs["samples"] / "samples.npy", mmap_mode="r")
    made = json.loads((inputs["samples"] / "manifest.json").read_text())["slice"]["sampling"]
    check_samples(
        drawn,
        np.load(inputs["samples"] / "labels.npy"),
        made["count"],
        size=train.batch(torch.arange(1)).shape[-1],
        classes=len(collection.classes),
    )
    extractor = load_extractor(part["extractor"], part["extractor_weights"], runtime.torch_device)
    reference = Features.load(inputs["references"] / "train.safetensors", runtime.torch_device)
    with runtime.progress("generation scores", len(drawn)) as bar:
        samples = extract(extractor, drawn, done=bar.advance)
    scores = generation_scores(
        samples, reference, judge=extractor.judge, reference_images=group(inputs["images"], "train", train), labels=made["labels"],
        neighbours=part["neighbours"], resampling=Resampling(resamples=part["resamples"], seed=slice_["seed"]),
        sampling=SamplingProtocol(**{name: made[name] for name in SamplingProtocol.model_fields}),
    )  # fmt: skip
    return _write(out, scores)


def probe(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Linear probe and kNN of mean-pooled latents: features, residual, both."""
    part = slice_["scores"]
    settings = scoring.Probe.model_validate(part["probe"])
    collection, train, val, parts = _latents(inputs, runtime)
    labels = [torch.as_tensor(s.labels) for s in (collection.train, collection.val)]
    pooled = train.gather(lambda x: pool(x).cpu(), settings.train_images), val.gather(lambda x: pool(x).cpu())
    scores: list[Score] = []
    for name, channels in parts:
        x, y = (vectors[:, channels] for vectors in pooled)
        groups = _groups(inputs, collection, len(x))
        scores += probe_scores(
            x, labels[0][: len(x)], y, labels[1], settings=settings, latents=name, classes=len(collection.classes), seed=slice_["seed"],
            resampling=Resampling(resamples=part["resamples"], seed=slice_["seed"]), **groups,
        )  # fmt: skip
    return _write(out, scores)


def group(place: Path, split: str, images: ImageSet, count: int | None = None) -> ImageGroup:
    """A split of an image store in a protocol's words, known by the digest of its pixels."""
    digest = json.loads((place / "manifest.json").read_text())["files"][f"{split}.images.npy"]
    return ImageGroup(name=split, count=count or len(images), digest=digest)


def _groups(inputs: dict[str, Path], collection: Images, count: int) -> dict[str, ImageGroup]:
    """What a probe was trained on and what it was tried on."""
    place = inputs["images"]
    return {"train_images": group(place, "train", collection.train, count), "val_images": group(place, "val", collection.val)}


def _latents(inputs: dict[str, Path], runtime: Runtime) -> tuple[Images, Cached, Cached, list[tuple[str, slice]]]:
    """The images, raw latents of the training and the validation images, and which channels are what."""
    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    train, val = (latents_of(s, tokenizer, getattr(collection, s), inputs["statistics"], runtime) for s in ("train", "val"))
    features, channels = tokenizer.feature_channels, tokenizer.channels
    parts = [("features", slice(0, features))]
    if channels > features:
        parts += [("residual", slice(features, channels)), ("both", slice(0, channels))]
    return collection, train, val, parts


def _write(out: Path, scores: Sequence[Score]) -> dict[str, Any]:
    write_atomic(out / "scores.json", (json.dumps([s.model_dump(mode="json") for s in scores], indent=1) + "\n").encode())
    return {}
