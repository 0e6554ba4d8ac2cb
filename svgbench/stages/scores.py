"""The scoring stages: each opens finished artifacts, calls ``metrics`` and writes ``scores.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svgbench.config.sampling import SamplingProtocol
from svgbench.errors import BadInput
from svgbench.images.store import open_images
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.runtime import Runtime
from svgbench.metrics.features import GROUPS, Extractor, ImageFeatures, Saved, extract, load_extractor
from svgbench.metrics.frechet_ratio import fdr6
from svgbench.metrics.generation import Comparison, check_counts, distance_scores, distances, generation_scores
from svgbench.metrics.judges import row
from svgbench.metrics.npz import holds_statistics
from svgbench.metrics.perceptual import load_perceptual
from svgbench.metrics.reconstruction import reconstruction_scores
from svgbench.metrics.reference import Reference, open_reference
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.samples import check_samples
from svgbench.metrics.six_spaces import statistics_in, weights_in
from svgbench.stages.graph import DRAWN
from svgbench.stages.results import image_group, write_scores


def references(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The reference for samples: features of the training images, or the reference that the configuration names."""
    part = slice_["scores"]
    extractor = load_extractor(part["extractor"], part["extractor_weights"], runtime.torch_device)
    return _save(_take_reference(extractor, part["reference"], inputs, out, runtime), extractor, out, runtime)


def second_references(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The same for the second extractor. Given statistics belong to the first extractor, so the training images replace them here."""
    part = slice_["scores"]
    extractor = load_extractor(part["second_extractor"], part["second_extractor_weights"], runtime.torch_device)
    given = part["reference"]
    return _save(_take_reference(extractor, _only_images(given), inputs, out, runtime), extractor, out, runtime)


def fdr6_references(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The references of the five networks beside Inception: the statistics in the folder of their weights, if there are any, else as for
    the second extractor. One folder for each network."""
    folder, images = Path(slice_["scores"]["fdr6"]), _only_images(slice_["scores"]["reference"])
    for name, file in weights_in(folder).items():
        extractor = load_extractor(name, file, runtime.torch_device)
        own = statistics_in(folder, name)
        reference = _take_reference(extractor, images if own is None else str(own), inputs, out, runtime)
        (out / name).mkdir(exist_ok=True)
        _save(reference, extractor, out / name, runtime)
    return {}


def originals(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Features of the validation images, the reference for reconstructions."""
    extractor = load_extractor(slice_["scores"]["extractor"], slice_["scores"]["extractor_weights"], runtime.torch_device)
    return _save(_of_store("val", extractor, inputs, out, runtime), extractor, out, runtime)


def _only_images(given: str | None) -> str | None:
    """A given reference for another extractor than the first; None (the training images) if it holds the first one's statistics."""
    return None if given and holds_statistics(Path(given)) else given


def _take_reference(extractor: Extractor, given: str | None, inputs: dict[str, Path], out: Path, runtime: Runtime) -> Reference:
    """A given reference, or that of the training images."""
    if given is None:
        return _of_store("train", extractor, inputs, out, runtime)
    side = open_images(inputs["images"]).resolution
    saved = _saved(out, "the reference", extractor, runtime)
    reference = open_reference(Path(given), extractor, expected=(side, side), runtime=runtime, saved=saved)
    if reference.size not in (None, (side, side)):
        raise BadInput(f"{given}: its images are not {side} x {side} px as the run's are; give a reference of that size.")
    return reference


def _of_store(split: str, extractor: Extractor, inputs: dict[str, Path], out: Path, runtime: Runtime) -> Reference:
    """The features of a split of the image store."""
    collection = open_images(inputs["images"])
    images = getattr(collection, split)
    features = extract(extractor, images, runtime=runtime, saved=_saved(out, f"the {split} images", extractor, runtime))
    return Reference.of(features, image_group(inputs["images"], split, images), (collection.resolution,) * 2)


def _save(reference: Reference, extractor: Extractor, out: Path, runtime: Runtime) -> dict[str, Any]:
    if runtime.is_main:
        reference.save(out, extractor.judge)
    return {"dim": extractor.dim}


def reconstruction(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """rFID, PSNR, SSIM in two ranges and a perceptual distance of the validation images' reconstructions."""
    part = slice_["scores"]
    val = open_images(inputs["images"]).val
    decoded = np.load(inputs["reconstructions"] / "reconstructions.npy", mmap_mode="r")
    height, width = val.batch(torch.arange(1)).shape[-2:]
    check_samples(decoded, None, len(val), size=(height, width), distinct=False)
    extractor = load_extractor(part["extractor"], part["extractor_weights"], runtime.torch_device)
    left_out = part["perceptual"] == "lpips" and not part["lpips_weights"]
    perceptual = None if left_out else load_perceptual(part["perceptual"], part["lpips_weights"], device=runtime.torch_device)
    known = Reference.load(inputs["originals"], extractor.judge, runtime.torch_device)
    scores = reconstruction_scores(
        decoded, val, originals_group=image_group(inputs["images"], "val", val), extractor=extractor, perceptual=perceptual,
        original_features=known, resampling=Resampling(resamples=part["resamples"], seed=slice_["seed"]), device=runtime.torch_device,
        runtime=runtime, saved=out / FOLDER,
    )  # fmt: skip
    return write_scores(out, scores, slice_) if runtime.is_main else {}


def generation(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """gFID (also at infinitely many samples), sFID, IS, KID, precision and recall of one cell's samples against the training images or the
    given reference."""
    part = slice_["scores"]
    extractor = load_extractor(part["extractor"], part["extractor_weights"], runtime.torch_device)
    samples, protocol = _open_samples(slice_, inputs, runtime)
    reference = Reference.load(inputs["references"], extractor.judge, runtime.torch_device)
    real = None if reference.kept is None else len(reference.kept)
    check_counts(len(samples), neighbours=part["neighbours"], reference=real, classes="logits" in row("features", part["extractor"]))
    features = _features(extractor, samples, out, runtime)
    scores = generation_scores(
        features, reference, judge=extractor.judge, frechet=extractor.frechet, neighbours=part["neighbours"], **protocol
    )
    return write_scores(out, scores, slice_) if runtime.is_main else {}


def second_generation(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The Frechet distance of one cell's samples on the second extractor's features."""
    part = slice_["scores"]
    extractor = load_extractor(part["second_extractor"], part["second_extractor_weights"], runtime.torch_device)
    samples, protocol = _open_samples(slice_, inputs, runtime)
    reference = Reference.load(inputs["second-references"], extractor.judge, runtime.torch_device)
    features = _features(extractor, samples, out, runtime)
    scores = distance_scores(features, reference, judge=extractor.judge, frechet=extractor.frechet, **protocol)
    return write_scores(out, scores, slice_) if runtime.is_main else {}


def fdr6_generation(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The Frechet distances of one cell's samples on the features of five networks, and FDr6 of these and Inception."""
    part = slice_["scores"]
    samples, protocol = _open_samples(slice_, inputs, runtime)
    check_counts(len(samples), neighbours=1, classes=False)
    opened = [(part["extractor"], part["extractor_weights"], inputs["references"])]
    opened += [(name, file, inputs["fdr6-references"] / name) for name, file in weights_in(Path(part["fdr6"])).items()]
    comparisons, scores = [], []
    for name, file, known in opened:
        extractor = load_extractor(name, file, runtime.torch_device)
        reference = Reference.load(known, extractor.judge, runtime.torch_device)
        features = _features(extractor, samples, out, runtime)
        comparisons.append(Comparison(samples=features, reference=reference, judge=extractor.judge, **protocol))
        if name != part["extractor"]:  # whose distance is gFID
            scores += distances(comparisons[-1], extractor.frechet)
    scores.append(fdr6(comparisons))
    return write_scores(out, scores, slice_) if runtime.is_main else {}


def _open_samples(slice_: dict[str, Any], inputs: dict[str, Path], runtime: Runtime) -> tuple[np.ndarray, dict[str, Any]]:
    """A cell's samples uint8 [N, 3, H, W], checked to be complete and distinct, and the settings that they add to a score's protocol."""
    collection = open_images(inputs["images"])
    samples = np.load(inputs["samples"] / "samples.npy", mmap_mode="r")
    made = json.loads((inputs["samples"] / "manifest.json").read_text())["slice"]["sampling"]
    labels = np.load(inputs["samples"] / "labels.npy")
    check_samples(samples, labels, made["count"], size=(collection.resolution,) * 2, classes=len(collection.classes), runtime=runtime)
    resampling = Resampling(resamples=slice_["scores"]["resamples"], seed=slice_["seed"])
    drawn = inputs["samples"] / DRAWN  # if the shift was tuned
    sampling = SamplingProtocol.model_validate_json(drawn.read_bytes()) if drawn.exists() else SamplingProtocol.of(made)
    return samples, {"labels": made["labels"], "resampling": resampling, "sampling": sampling, "runtime": runtime}


def _features(extractor: Extractor, samples: np.ndarray, out: Path, runtime: Runtime) -> ImageFeatures:
    """Features of samples, computed by all ranks."""
    return extract(extractor, samples, groups=GROUPS, runtime=runtime, saved=_saved(out, "the samples", extractor, runtime))


def _saved(out: Path, what: str, extractor: Extractor, runtime: Runtime) -> Saved:
    """Where a stage stores the features of its images until it is committed."""
    return Saved(place=out / FOLDER / f"images-{extractor.name}", label=f"features of {what}, {extractor.name}", runtime=runtime)
