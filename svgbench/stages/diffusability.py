"""The diffusability card of a latent space: its figures from latents alone, without training (docs/diagnose.md).

``latents`` writes all figures but one; ``interpolated`` writes the interpolated FID, which needs an extractor. Ranks share the encoding;
the main rank then computes every figure from the same stored latents, so that the numbers do not depend on the number of ranks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from svgbench.config.records import Protocol, Score
from svgbench.errors import BadData
from svgbench.images.store import ImageSet, open_images
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.metrics import diffusability as figures
from svgbench.metrics import latent_neighbours, velocity_variance
from svgbench.metrics.diffusability import Jackknifed, LatentSums
from svgbench.metrics.features import extract, load_extractor
from svgbench.metrics.frechet import Moments, frechet_distance, united
from svgbench.metrics.latent_figures import NEIGHBOURS, NO_DECODER, NOISES
from svgbench.metrics.pixels import psnr
from svgbench.metrics.protocol import ROUNDING, ImageGroup, protocol
from svgbench.metrics.resampling import chosen
from svgbench.metrics.samples import to_uint8
from svgbench.nets import draws
from svgbench.nets.latents import LatentMoments, LatentStats
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.stages.results import image_group, write_scores
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import BLOCK, blocks, kept_latents, open_tokenizer, to_floats

IMAGES, CLASSES, OF_A_CLASS = 10_000, 20, 1000
"""Largest number of training images, of classes, and of images of a class: few classes of many images, because each has a Gaussian."""
PAIRED = 2000
"""Largest number of images of which all pairs are compared, and of images that are interpolated."""
DECODED = 200
"""Largest number of validation images that are decoded with noise."""
LEAST = 2 * figures.GROUPS
"""Fewest images of a card."""
WHOLE = 2048
"""Largest latent, in numbers, whose full covariance is computed; it also needs ``PER_NUMBER`` images for each number."""
PER_NUMBER = 2
POINTS = 40
"""Points of the drawn curve of the Gaussian's irreducible variance over time."""
INTERVAL = f"95 %, value ± 2.262 standard errors of the jackknife over {figures.GROUPS} groups of images"


class CardImages(NamedTuple):
    """The images of a card, ordered by class."""

    places: Tensor
    """Their indices [N] in the split."""
    labels: Tensor
    """[N]"""
    groups: Tensor
    """[N]"""


def choose(images: ImageSet, most: int, classes: int = CLASSES) -> CardImages:
    """At most ``most`` random images of a split: the same number of each of at most ``classes`` evenly spaced classes, or all of a class
    that has fewer. Raises BadData for fewer than ``LEAST``."""
    labels = torch.as_tensor(images.labels)
    known = labels.unique()
    known = known[torch.linspace(0, len(known) - 1, min(classes, most, len(known))).round().long()]
    each = min(OF_A_CLASS, most // max(1, len(known)))
    parts = [place[chosen(each, len(place))] for place in ((labels == label).nonzero()[:, 0] for label in known)]
    if sum(map(len, parts)) < LEAST:
        raise BadData(f"{sum(map(len, parts))} images are too few for a card; give {LEAST} or more, of two classes or more.")
    places = torch.cat(parts)
    return CardImages(places, labels[places], figures.groups_of(labels[places]))


class Opened(NamedTuple):
    """Latents of the chosen images, and what maps them back to images."""

    raw: np.ndarray
    """float32 [N, C, h, w], memory-mapped"""
    stats: LatentStats
    tokenizer: Tokenizer | Codec

    def standardised(self, rows: slice | Tensor) -> Tensor:
        """Standardised latents [n, C, h, w] float64 of some rows, on the CPU."""
        index = rows if isinstance(rows, slice) else rows.numpy()
        return self.stats.standardise(torch.from_numpy(np.array(self.raw[index])).double())

    @property
    def decodes(self) -> bool:
        """Whether the tokenizer has a decoder."""
        return isinstance(self.tokenizer, Tokenizer) or self.tokenizer.frozen.card.kind == "codec"

    @torch.no_grad()
    def decoded(self, latents: Tensor, device: torch.device) -> Tensor:
        """Images uint8 [n, 3, H, W] of standardised latents [n, C, h, w] float64."""
        raw = self.stats.restore(latents).float()
        return torch.cat([to_uint8(self.tokenizer.decode(raw[rows].to(device))).cpu() for rows in blocks(len(raw))])


def _open(split: str, images: ImageSet, places: Tensor, side: int, inputs: dict[str, Path], out: Path, runtime: Runtime) -> Opened:
    """Latents of images at indices ``places`` [N]: those that the statistics stage kept, else encoded by all ranks. A run's latents are
    standardised by its statistics; those of an encoder alone by their own."""
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    kept = kept_latents(inputs["statistics"], split) if "statistics" in inputs else None
    if kept is not None:
        raw = kept[places.numpy()]
    else:
        row = (tokenizer.channels, side // tokenizer.stride, side // tokenizer.stride)
        file = Array(out / FOLDER / f"latents.{split}.npy", np.float32, row)

        @torch.no_grad()
        def encoded(items: range) -> tuple[np.ndarray]:
            batch = images.batch(places[torch.tensor(items)])
            return (tokenizer.encode(to_floats(batch, runtime.torch_device)).float().cpu().numpy(),)

        label = f"latents of {len(places):,} images"
        Blocks(out / FOLDER / split, [file], count=len(places), size=BLOCK, runtime=runtime, label=label).run(encoded)
        raw = np.load(file.path, mmap_mode="r")
    if "statistics" in inputs:
        given = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
        return Opened(raw, LatentStats(given.mean.cpu(), given.std.cpu()), tokenizer)
    moments = LatentMoments(tokenizer.channels)
    for rows in blocks(len(raw)):
        part = torch.from_numpy(np.array(raw[rows.numpy()]))
        figures.check_latents(part)
        moments.add(part)
    return Opened(raw, moments.finish(), tokenizer)


class _Card:
    """Collects scores, and the reasons why others are missing."""

    def __init__(self, group: ImageGroup) -> None:
        self.group = group
        self.scores: list[Score] = []
        self.missing: dict[str, str] = {}

    def add(
        self, metric: str, measure: str, count: int, compute: Callable[[], Jackknifed], *details: str, group: ImageGroup | None = None
    ) -> None:
        """The score of a metric, or the reason that ``compute`` raises as BadData."""
        try:
            value, low, high = compute()
        except BadData as error:
            self.missing[metric] = str(error)
            return
        seen = ImageGroup(name=(group or self.group).name, count=count, digest=(group or self.group).digest)
        made = protocol(measure, images=seen, details=("standardised-by-channel", *details))
        self.scores.append(_score(metric, Jackknifed(value, low, high), count, made))


def _score(metric: str, estimate: Jackknifed, count: int, made: Protocol) -> Score:
    value, low, high = estimate
    return Score(metric=metric, value=value, low=low, high=high, count=count, protocol=made, detail={"interval": INTERVAL})


def latents(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """``scores.json``, and ``diffusability.json``: the shape of the latent, the number of images, reasons of missing figures, curves."""
    collection = open_images(inputs["images"])
    picked = choose(collection.train, IMAGES)
    opened = _open("train", collection.train, picked.places, collection.resolution, inputs, out, runtime)
    if not runtime.is_main:
        return {}
    card = _Card(image_group(inputs["images"], "train", collection.train, len(picked.places)))
    shape = opened.raw.shape[1:]
    with runtime.progress(f"diffusability of {opened.tokenizer.frozen.card.name}", 4, unit="steps") as bar:
        sums = _sums(opened, picked, card)
        bar.advance(1)
        bands = sums.bands(torch.ones(figures.GROUPS, dtype=torch.float64)).tolist()
        curves = {"bands": bands, "irreducible": _gaussian(opened, picked, card) | _empirical(opened, picked, card)}
        bar.advance(1)
        _neighbours(opened, picked, collection.train, card)
        bar.advance(1)
        _noised(opened, collection.val, image_group(inputs["images"], "val", collection.val), card, runtime)
        bar.advance(1)
    about = {"latent": list(shape), "images": len(picked.places), "classes": len(picked.labels.unique()), "missing": card.missing,
             "curves": curves}  # fmt: skip
    write_atomic(out / "diffusability.json", (json.dumps(about, indent=1) + "\n").encode())
    return write_scores(out, card.scores, slice_) | {"images_seen": len(picked.places)}


def _sums(opened: Opened, picked: CardImages, card: _Card) -> LatentSums:
    """The figures that follow from sums over images; returns the sums."""
    count, (channels, *grid) = len(picked.places), opened.raw.shape[1:]
    size = channels * math.prod(grid)
    sums = LatentSums(channels, (grid[0], grid[1]), whole=size <= WHOLE and count >= PER_NUMBER * size)
    for rows in _classes(picked.labels):
        sums.add(opened.standardised(rows), picked.groups[rows])
    jackknifed = figures.jackknifed
    spectra = (("effective_rank", figures.effective_rank), ("participation_ratio", figures.participation_ratio),
               ("condition_number", figures.condition_number))  # fmt: skip
    for name, of in spectra:
        measure = name.replace("_", "-")
        card.add(name, measure, count, partial(jackknifed, partial(_of_spectrum, of, sums.channel_spectrum)), "channels")
    if sums.outer is None:
        needed = (
            f"a covariance of {size:,} numbers needs {PER_NUMBER * size:,} images"
            if size <= WHOLE
            else f"{size:,} numbers are above {WHOLE:,}"
        )
        card.missing["effective_rank_whole"] = f"{needed}; the whole covariance is left out."
    else:
        statistic = partial(_of_spectrum, figures.effective_rank, sums.whole_spectrum)
        card.add("effective_rank_whole", "effective-rank", count, partial(jackknifed, statistic), "whole")
        sums.outer = None
    for name, measure, of_sums in (
        ("kurtosis", "excess-kurtosis", sums.kurtosis), ("class_share", "omega-squared", sums.class_share),
        ("lds", "local-distant-similarity", sums.local_contrast), ("cds", "correlation-decay-slope", sums.decay),
        ("high_frequency", "dct-energy-above-half", sums.high_frequency), ("spectral_slope", "dct-slope", sums.spectral_slope),
    ):  # fmt: skip
        card.add(name, measure, count, partial(jackknifed, of_sums))
    return sums


def _of_spectrum(of: Callable[[Tensor], float], spectrum: Callable[[Tensor], Tensor], kept: Tensor) -> float:
    """A figure of the eigenvalues over the groups kept [GROUPS]."""
    return of(spectrum(kept))


def _classes(labels: Tensor) -> list[slice]:
    """The rows of each class, for labels [N] ordered by class."""
    ends = labels.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _gaussian(opened: Opened, picked: CardImages, card: _Card) -> dict[str, Any]:
    """The irreducible variance of one Gaussian for each class, and its curve over time."""
    at = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    weighted, images, curve = (
        torch.zeros(1 + figures.GROUPS).double(),
        torch.zeros(1 + figures.GROUPS).double(),
        torch.zeros(POINTS).double(),
    )

    channels, *grid = opened.raw.shape[1:]
    needed = math.ceil(velocity_variance.least_images(channels, math.prod(grid)) * figures.GROUPS / (figures.GROUPS - 1))
    smallest = min(rows.stop - rows.start for rows in _classes(picked.labels))

    def compute() -> Jackknifed:
        if smallest < needed:
            raise BadData(
                f"a Gaussian of {channels} channels and {math.prod(grid)} positions needs {needed} images of each class; give more."
            )
        for rows in _classes(picked.labels):
            data, groups = opened.standardised(rows).flatten(2), picked.groups[rows]
            whole = velocity_variance.fit(data)
            curve.add_(len(data) * whole.at(at))
            for number in range(1 + figures.GROUPS):
                part = data if number == 0 else data[groups != number - 1]
                fitted = whole
                if 0 < len(part) < len(data):
                    fitted = velocity_variance.fit(part, start=whole, rounds=velocity_variance.WARM_ROUNDS)
                weighted[number] += len(part) * fitted.irreducible()
                images[number] += len(part)
        values = weighted / images
        return figures.jackknifed(lambda kept: values[0 if bool(kept.all()) else 1 + int(kept.argmin())].item())

    card.add("viv_gaussian", "irreducible-variance", len(picked.places), compute, "one-gaussian-a-class", "kronecker")
    return {} if "viv_gaussian" in card.missing else {"times": at.tolist(), "gaussian": (curve / images[0]).tolist()}


def _subset(picked: CardImages, most: int) -> Tensor:
    """Rows [n] of at most ``most`` images, as many of each class, still ordered by class."""
    classes = _classes(picked.labels)
    each = max(1, most // len(classes))
    parts = [torch.arange(rows.start, rows.stop)[chosen(each, rows.stop - rows.start)] for rows in classes]
    return torch.cat(parts[:most])


def _empirical(opened: Opened, picked: CardImages, card: _Card) -> dict[str, Any]:
    """The irreducible variance if the data were a subset of these images, and its curve over time."""
    subset = _subset(picked, PAIRED)
    labels, (at, weights) = picked.labels[subset], velocity_variance.times()
    curves = torch.zeros(len(subset), len(at), dtype=torch.float64)

    def compute() -> Jackknifed:
        if len(labels.unique()) == len(labels):
            raise BadData("every class has one image, so its posterior is that image; give several of each class.")
        for rows in _classes(labels):
            data = opened.standardised(subset[rows]).flatten(1)
            noise = velocity_variance.noise_for(picked.places[subset[rows]], data.shape[1])
            curves[rows] = velocity_variance.posterior_variance(data, noise, at)
        return figures.mean_of(curves @ weights, picked.groups[subset])

    card.add("viv_empirical", "irreducible-variance", len(subset), compute, "posterior-of-images")
    return {} if "viv_empirical" in card.missing else {"image_times": at.tolist(), "images": curves.mean(0).tolist()}


def _neighbours(opened: Opened, picked: CardImages, images: ImageSet, card: _Card) -> None:
    """The figures of nearest neighbours, on a subset."""
    subset = _subset(picked, PAIRED)
    labels, groups = picked.labels[subset], picked.groups[subset]
    apart = latent_neighbours.distances(opened.standardised(subset).flatten(1))
    near, far = latent_neighbours.steps(apart, images.batch(picked.places[subset]))

    def continuity(kept: Tensor) -> float:
        rows = kept[groups] > 0
        return latent_neighbours.rank_correlation(near[rows], far[rows])

    def shares() -> Jackknifed:
        return figures.mean_of(latent_neighbours.neighbour_shares(apart, labels, NEIGHBOURS), groups)

    card.add("neighbour_share", "neighbours-of-own-class", len(subset), shares, f"k{NEIGHBOURS}", f"{len(labels.unique())}classes")
    card.add("local_continuity", "nearest-neighbour-rank-correlation", len(subset), lambda: figures.jackknifed(continuity))


def _noised(opened: Opened, val: ImageSet, group: ImageGroup, card: _Card, runtime: Runtime) -> None:
    """PSNR of validation images whose standardised latents were noised before decoding."""
    names = [f"noise_psnr_{noise:g}" for noise in NOISES]
    if not opened.decodes:
        card.missing |= dict.fromkeys(names, NO_DECODER)
        return
    try:
        picked = choose(val, DECODED)
    except BadData as error:
        card.missing |= dict.fromkeys(names, str(error))
        return
    originals = val.batch(picked.places)
    with torch.no_grad():
        parts = [opened.tokenizer.encode(to_floats(originals[rows], runtime.torch_device)).cpu() for rows in blocks(len(originals))]
    clean = opened.stats.standardise(torch.cat(parts).double())
    noise = draws.normal(draws.stream(0, "diffusability/decoder"), picked.places, tuple(clean.shape[1:])).double()
    for name, strength in zip(names, NOISES, strict=True):
        values = psnr(opened.decoded(clean + strength * noise, runtime.torch_device), originals)
        card.add(name, "psnr", len(values), partial(figures.mean_of, values, picked.groups), f"noise-{strength:g}", group=group)


def interpolated(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """``scores.json`` with the interpolated FID (arXiv 2603.05630): the Frechet distance between validation images and images decoded half
    way between each one's latent and its nearest neighbour."""
    part, collection = slice_["scores"], open_images(inputs["images"])
    val = collection.val
    picked = choose(val, PAIRED, classes=PAIRED)
    opened = _open("val", val, picked.places, collection.resolution, inputs, out, runtime)
    if not runtime.is_main:
        return {}
    extractor = load_extractor(part["extractor"], part["extractor_weights"], runtime.torch_device)
    clean = opened.standardised(slice(None))
    near = latent_neighbours.nearest(latent_neighbours.distances(clean.flatten(1)), 1)[:, 0]
    between, originals = opened.decoded((clean + clean[near]) / 2, runtime.torch_device), val.batch(picked.places)
    features = [extract(extractor, images).kept.double().cpu() for images in (between, originals)]
    groups = [[Moments.empty(extractor.dim).add(rows[picked.groups == g]) for g in range(figures.GROUPS)] for rows in features]

    def distance(kept: Tensor) -> float:
        first, second = (united([one for one, keep in zip(parts, kept.tolist(), strict=True) if keep]) for parts in groups)
        return frechet_distance(first.gaussian(), second.gaussian())

    estimate = figures.jackknifed(distance)
    reference = image_group(inputs["images"], "val", val, len(picked.places))
    made = protocol(
        "fd", judge=extractor.judge, reference=reference, images=ImageGroup(name="interpolated", count=len(picked.places)),
        rounding=ROUNDING, details=("half-way-to-nearest", "standardised-by-channel"),
    )  # fmt: skip
    return write_scores(out, [_score("ifid", estimate, len(picked.places), made)], slice_) | {"images_seen": len(picked.places)}
