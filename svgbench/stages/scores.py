"""The scoring stages: each opens finished artifacts, calls ``metrics``, writes ``scores.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svgbench.config.records import SamplingProtocol, Score
from svgbench.errors import BadInput
from svgbench.images import packed
from svgbench.images.store import Images, ImageSet, open_images
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.metrics.features import GROUPS, Extractor, Features, Saved, extract, load_extractor
from svgbench.metrics.generation import check_counts, distance_scores, generation_scores
from svgbench.metrics.judges import row
from svgbench.metrics.npz import holds_statistics
from svgbench.metrics.perceptual import load_perceptual
from svgbench.metrics.protocol import ImageGroup
from svgbench.metrics.reconstruction import reconstruction_scores
from svgbench.metrics.reference import Reference, open_reference
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.samples import check_samples
from svgbench.stages.tokenizers import Cached, latents_of, open_tokenizer


def references(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """What samples are held against: features of the training images, or the reference that the configuration names."""
    part = slice_["scores"]
    extractor = load_extractor(part["extractor"], part["extractor_weights"], runtime.torch_device)
    return _take_reference(extractor, part["reference"], inputs, out, runtime)


def second_references(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The same by the second extractor. Statistics are the first one's, so here the training images take their place."""
    part = slice_["scores"]
    extractor = load_extractor(part["second_extractor"], part["second_extractor_weights"], runtime.torch_device)
    given = part["reference"]
    return _take_reference(extractor, None if given and holds_statistics(Path(given)) else given, inputs, out, runtime)


def originals(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Features of the validation images, which reconstructions are held against."""
    extractor = load_extractor(slice_["scores"]["extractor"], slice_["scores"]["extractor_weights"], runtime.torch_device)
    return _of_store("val", extractor, inputs, out, runtime)


def _take_reference(extractor: Extractor, given: str | None, inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """A named reference, or the training images."""
    if given is None:
        return _of_store("train", extractor, inputs, out, runtime)
    side = open_images(inputs["images"]).resolution
    saved = _saved(out, "the reference", extractor, runtime)
    reference = open_reference(Path(given), extractor, expected=(side, side), runtime=runtime, saved=saved)
    if reference.size not in (None, (side, side)):
        raise BadInput(f"{given}: its images are not {side} x {side} px as the run's are; give a reference of that size.")
    return _save(reference, extractor, out, runtime)


def _of_store(split: str, extractor: Extractor, inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """One split of the image store."""
    collection = open_images(inputs["images"])
    images = getattr(collection, split)
    features = extract(extractor, images, runtime=runtime, saved=_saved(out, f"the {split} images", extractor, runtime))
    return _save(Reference.of(features, group(inputs["images"], split, images), (collection.resolution,) * 2), extractor, out, runtime)


def _save(reference: Reference, extractor: Extractor, out: Path, runtime: Runtime) -> dict[str, Any]:
    if runtime.is_main:
        reference.save(out, extractor.judge)
    return {"dim": extractor.dim}


def reconstruction(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """rFID, PSNR, SSIM and a perceptual distance of the validation images' reconstructions."""
    part = slice_["scores"]
    val = open_images(inputs["images"]).val
    decoded = np.load(inputs["reconstructions"] / "reconstructions.npy", mmap_mode="r")
    check_samples(decoded, None, len(val), size=tuple(val.batch(torch.arange(1)).shape[-2:]), distinct=False)
    extractor = load_extractor(part["extractor"], part["extractor_weights"], runtime.torch_device)
    left_out = part["perceptual"] == "lpips" and not part["lpips_weights"]
    perceptual = None if left_out else load_perceptual(part["perceptual"], part["lpips_weights"], device=runtime.torch_device)
    known = Reference.load(inputs["originals"], extractor.judge, runtime.torch_device)
    scores = reconstruction_scores(
        decoded, val, originals_group=group(inputs["images"], "val", val), extractor=extractor, perceptual=perceptual,
        original_features=known, resampling=Resampling(resamples=part["resamples"], seed=slice_["seed"]), device=runtime.torch_device,
        runtime=runtime, saved=out / FOLDER,
    )  # fmt: skip
    return write_scores(out, scores, slice_) if runtime.is_main else {}


def generation(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """gFID, sFID, IS, KID, precision and recall of one cell's samples against the training images or the reference that was named."""
    part = slice_["scores"]
    extractor = load_extractor(part["extractor"], part["extractor_weights"], runtime.torch_device)
    drawn, how = _drawn(slice_, inputs, runtime)
    reference = Reference.load(inputs["references"], extractor.judge, runtime.torch_device)
    real = None if reference.kept is None else len(reference.kept)
    check_counts(len(drawn), neighbours=part["neighbours"], reference=real, classes="logits" in row("features", part["extractor"]))
    samples = _features(extractor, drawn, out, runtime)
    if not runtime.is_main:
        return {}
    scores = generation_scores(samples, reference, judge=extractor.judge, frechet=extractor.frechet, neighbours=part["neighbours"], **how)
    return write_scores(out, scores, slice_)


def second_generation(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The Frechet distance of one cell's samples on the second extractor's features."""
    part = slice_["scores"]
    extractor = load_extractor(part["second_extractor"], part["second_extractor_weights"], runtime.torch_device)
    drawn, how = _drawn(slice_, inputs, runtime)
    reference = Reference.load(inputs["second-references"], extractor.judge, runtime.torch_device)
    samples = _features(extractor, drawn, out, runtime)
    if not runtime.is_main:
        return {}
    scores = distance_scores(samples, reference, judge=extractor.judge, frechet=extractor.frechet, **how)
    return write_scores(out, scores, slice_)


def _drawn(slice_: dict[str, Any], inputs: dict[str, Path], runtime: Runtime) -> tuple[np.ndarray, dict[str, Any]]:
    """A cell's samples uint8 [N, 3, H, W], whole and distinct, and what their scores say of them."""
    collection = open_images(inputs["images"])
    drawn = np.load(inputs["samples"] / "samples.npy", mmap_mode="r")
    made = json.loads((inputs["samples"] / "manifest.json").read_text())["slice"]["sampling"]
    labels = np.load(inputs["samples"] / "labels.npy")
    check_samples(drawn, labels, made["count"], size=(collection.resolution,) * 2, classes=len(collection.classes), runtime=runtime)
    resampling = Resampling(resamples=slice_["scores"]["resamples"], seed=slice_["seed"])
    sampling = SamplingProtocol(**{name: made[name] for name in SamplingProtocol.model_fields})
    return drawn, {"labels": made["labels"], "resampling": resampling, "sampling": sampling}


def _features(extractor: Extractor, drawn: np.ndarray, out: Path, runtime: Runtime) -> Features:
    """Features of samples, by all ranks."""
    return extract(extractor, drawn, groups=GROUPS, runtime=runtime, saved=_saved(out, "the samples", extractor, runtime))


def _saved(out: Path, what: str, extractor: Extractor, runtime: Runtime) -> Saved:
    """Where a stage leaves the features of its images until it is committed."""
    return Saved(place=out / FOLDER / "images", label=f"features of {what}, {extractor.name}", runtime=runtime)


def group(place: Path, split: str, images: ImageSet, count: int | None = None) -> ImageGroup:
    """A split of an image store in a protocol's words, known by the digest of its pixels."""
    name = f"{split}.images.npy"
    digest = packed.digests(place).get(name) or json.loads((place / "manifest.json").read_text())["files"][name]  # before format 2
    return ImageGroup(name=split, count=count or len(images), digest=digest)


def image_groups(inputs: dict[str, Path], collection: Images, count: int) -> dict[str, ImageGroup]:
    """What a probe was trained on and what it was tried on."""
    place = inputs["images"]
    return {"train_images": group(place, "train", collection.train, count), "val_images": group(place, "val", collection.val)}


def split_latents(inputs: dict[str, Path], runtime: Runtime) -> tuple[Images, Cached, Cached, list[tuple[str, slice]]]:
    """The images, raw latents of the training and the validation images, and which channels are what."""
    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    train, val = (latents_of(s, tokenizer, getattr(collection, s), inputs["statistics"], runtime) for s in ("train", "val"))
    features, channels = tokenizer.feature_channels, tokenizer.channels
    parts = [("features", slice(0, features))]
    if channels > features:
        parts += [("residual", slice(features, channels)), ("both", slice(0, channels))]
    return collection, train, val, parts


def limit_of(slice_: Mapping[str, Any]) -> int | None:
    """The limit of a run that is a trial (``data.limit``)."""
    return slice_.get("data", {}).get("limit")


def write_scores(out: Path, scores: Sequence[Score], slice_: Mapping[str, Any]) -> dict[str, Any]:
    """``scores.json``, by the main rank, marked where the run is a trial; a stage that only scores has no cost of its own to tell."""
    marked = [score.marked(limit_of(slice_)).model_dump(mode="json") for score in scores]
    write_atomic(out / "scores.json", (json.dumps(marked, indent=1) + "\n").encode())
    return {}
