"""Features and class logits of images from an extractor: the first of three steps (features, moments, metric).

Protocol: uint8 images as they are stored; the extractor resizes and normalises them itself (Inception: torch-fidelity's copy of the
TensorFlow graph, bilinear to 299 px as in TensorFlow 1; DINOv2: ``dinov2_extractor``; shapes-cnn: no resize, made for the embedded images);
float32 without TF32. The sums of all metrics are computed in one pass in float64, with the batches divided among the ranks; batch
boundaries do not depend on the number of ranks. Extractors come from torch-fidelity's registry, so a new one only needs a row in
``reports/extractors.yaml``. Limit: features do not show what the extractor was not trained to distinguish.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from svgbench.errors import BadData, BadWeights, NumericalError
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.runtime import Runtime
from svgbench.metrics.frechet import Moments
from svgbench.metrics.inception_score import ClassSums
from svgbench.metrics.judges import identity, row, weights_file
from svgbench.metrics.protocol import Judge
from svgbench.metrics.resampling import chosen
from svgbench.weights.files import read

KEPT = 50_000
"""Largest number of images per set whose features are kept, for KID, precision, recall and bootstraps. Sums are over all images."""

BATCH_BYTES = 2**29
"""Largest size in bytes of a batch of uint8 images: 128 images of up to 1,182 x 1,182 px, fewer of larger ones."""

GROUPS = 10
"""Number of disjoint random groups of samples with separate spatial moments, for the jackknife of sFID's interval."""


class Outputs(NamedTuple):
    """An extractor's outputs for a batch of images."""

    features: Tensor
    """[B, D] float32"""
    logits: Tensor | None
    """[B, K] float32"""
    spatial: Tensor | None
    """[B, S] float32: the first channels of an inner layer, flattened from [h, w, channels]."""


class Tap:
    """Records an inner layer's output during a forward pass."""

    def __init__(self, layer: torch.nn.Module, channels: int, dim: int) -> None:
        self.dim = dim
        self._outputs: list[Tensor] = []
        layer.register_forward_hook(lambda module, inputs, output: self._outputs.append(output[:, :channels].movedim(1, -1).flatten(1)))

    def take(self) -> Tensor:
        """The layer's first channels in the last pass [B, dim], where dim is h * w * channels."""
        return self._outputs.pop()


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A frozen network: calling it on uint8 [B, 3, H, W] gives features, and, if it has them, class logits and spatial features."""

    name: str
    digest: str
    """sha256 of the weights."""
    resize: str
    """How images are resized to the network's input size."""
    dim: int
    network: torch.nn.Module
    device: torch.device
    tap: Tap | None = None
    """The inner layer with sFID's features; None without sFID."""
    frechet: str = "gfid"
    """Name of the Frechet distance on these features."""

    @property
    def judge(self) -> Judge:
        """The extractor as protocols name it."""
        return Judge(name=self.name, digest=self.digest, resize=self.resize)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise BadData(f"an extractor takes uint8 [B, 3, H, W], not {images.dtype} {list(images.shape)}; round the images first.")
        with full_precision():
            features, *logits = self.network(images.to(self.device))
        return Outputs(features, logits[0] if logits else None, self.tap.take() if self.tap else None)


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """The result of one pass over a set of images."""

    count: int
    moments: Moments
    """Of all images."""
    kept: Tensor
    """[n, D] float32: of all images, or of n of them."""
    logits: Tensor | None = None
    """[n, K] float32 of the same images."""
    classes: ClassSums | None = None
    """Of all images."""
    spatial: tuple[Moments, ...] = ()
    """Of all images, in one part or in disjoint random groups."""


def load_extractor(name: str, weights: str | Path | None = None, device: torch.device | str = "cpu") -> Extractor:
    """Opens an extractor; ``weights``: a local file, for an extractor whose weights do not come with svgbench (Inception)."""
    facts = row("features", name)
    path = weights_file("features", name, weights)
    layers = [facts["layer"], *([facts["logits"]] if "logits" in facts else [])]
    network = _from_registry(facts["registry"], layers, path)
    device = torch.device(device)
    digest = identity("features", name, path)
    spatial = facts.get("spatial")
    tap = Tap(network.get_submodule(spatial["layer"]), spatial["channels"], spatial["dim"]) if spatial else None
    return Extractor(
        name=name, digest=digest, resize=facts["resize"], dim=facts["dim"], network=network.to(device), device=device, tap=tap,
        frechet=facts["frechet"],
    )  # fmt: skip


def _from_registry(name: str, layers: list[str], path: Path) -> torch.nn.Module:
    """torch-fidelity's extractor with these weights. It would unpickle the file itself, so it gets a copy that has only the tensors."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    from svgbench.metrics.dinov2_extractor import MEMBERS, Dinov2Extractor
    from svgbench.metrics.drawn_extractor import NAMES, DrawnExtractor
    from svgbench.metrics.timm_extractor import MEMBERS as OF_TIMM
    from svgbench.metrics.timm_extractor import TimmExtractor

    ours = {**dict.fromkeys(NAMES, DrawnExtractor), **dict.fromkeys(MEMBERS, Dinov2Extractor), **dict.fromkeys(OF_TIMM, TimmExtractor)}
    for new in ours.keys() - FEATURE_EXTRACTORS_REGISTRY.keys():
        register_feature_extractor(new, ours[new])
    kind = FEATURE_EXTRACTORS_REGISTRY[name]
    if name in ours:
        return kind(name, layers, feature_extractor_weights_path=path)
    copy = io.BytesIO()
    torch.save(read(path), copy)
    copy.seek(0)
    try:
        return kind(name, layers, feature_extractor_weights_path=copy).eval()
    except RuntimeError as error:
        raise BadWeights(f"{path} does not fit the extractor '{name}' ({str(error).splitlines()[0]}); give the right file.") from None


def extract(
    extractor: Extractor,
    images: Any,
    *,
    batch: int = 128,
    keep: int = KEPT,
    groups: int = 1,
    runtime: Runtime | None = None,
    done: Callable[[int], None] = lambda count: None,
    saved: Saved | None = None,
) -> ImageFeatures:
    """Features of all images (uint8 [N, 3, H, W]: array, memmap, tensor, or a set with ``batch(indices)``) in one pass.

    ``keep``: largest number of images (a fixed choice) whose features are kept; ``groups``: number of groups of the spatial moments;
    ``runtime``: its ranks share the batches, and each gets the result for all images (None: a single process); ``done`` is called with the
    size of each batch; ``saved``: the features are first written there, so that a stopped pass resumes, and then summed in a second pass.
    """
    batch, groups = _sizes(images, batch, groups)
    sums = _Pass(extractor, len(images), keep, groups)
    error: Exception | None = None
    try:
        if saved is not None:
            for start, outputs in saved.outputs(extractor, images, sums.widths, batch):
                sums.add(start, outputs)
        for start, part in batches(images, batch, runtime) if saved is None else ():
            sums.add(start, extractor(part))
            done(len(part) * (runtime.world if runtime else 1))
    except Exception as caught:
        error = caught
    if runtime is not None:
        runtime.raise_together(error, "features could not be computed")
    elif error is not None:
        raise error
    return sums.result(runtime)


def extract_each(
    extractors: Sequence[Extractor],
    images: Any,
    *,
    batch: int = 128,
    keep: int = KEPT,
    groups: int = 1,
    done: Callable[[int], None] = lambda count: None,
) -> list[ImageFeatures]:
    """The features of every extractor, from one pass over the images by one process."""
    batch, groups = _sizes(images, batch, groups)
    sums = [_Pass(extractor, len(images), keep, groups) for extractor in extractors]
    for start, part in batches(images, batch):
        for one, extractor in zip(sums, extractors, strict=True):
            one.add(start, extractor(part))
        done(len(part))
    return [one.result(None) for one in sums]


def _sizes(images: Any, batch: int, groups: int) -> tuple[int, int]:
    """Images in a batch, fewer of large ones, and the number of groups, one if there are too few images."""
    if not len(images):
        raise BadData("there are no images to compute features of; give at least one.")
    if shape := getattr(images, "shape", None):
        batch = max(1, min(batch, BATCH_BYTES // max(1, int(np.prod(shape[1:], dtype=np.int64)))))
    return batch, groups if len(images) >= groups else 1


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Files to which a pass writes each image's features, so that it can resume after a stop or kill. The stage removes them at its end."""

    place: Path
    """Path of the files ``PLACE-features.npy``, ``PLACE-logits.npy``, ..."""
    label: str
    runtime: Runtime

    def outputs(self, extractor: Extractor, images: Any, widths: Sequence[int], batch: int) -> Iterator[tuple[int, Outputs]]:
        """Waits until all ranks have computed all images, then yields, for each batch of this rank, the index of its first image and its
        outputs."""
        named = {name: self.place.with_name(f"{self.place.name}-{name}.npy") for name in Outputs._fields}
        files = [Array(named[name], np.float32, (width,)) for name, width in zip(Outputs._fields, widths, strict=True) if width]

        def rows(items: range, part: Tensor) -> list[np.ndarray]:
            outputs = extractor(part)
            if not all(bool(x.isfinite().all()) for x in (outputs.features, outputs.spatial) if x is not None):
                raise _not_finite(extractor.name)
            return [x.cpu().numpy() for x in outputs if x is not None]

        work = Blocks(self.place, files, count=len(images), size=batch, runtime=self.runtime, label=self.label)
        work.run(rows, lambda items: rows_of(images, items))
        opened = [np.load(path, mmap_mode="r") if width else None for path, width in zip(named.values(), widths, strict=True)]
        starts = range(0, len(images), batch)
        for number in self.runtime.shard(len(starts)):
            part = slice(starts[number], starts[number] + batch)
            features, *others = (None if x is None else torch.from_numpy(np.array(x[part])).to(extractor.device) for x in opened)
            assert features is not None  # every extractor has some
            yield part.start, Outputs(features, *others)


def _not_finite(name: str) -> NumericalError:
    return NumericalError(f"features of '{name}' hold NaN or infinity; check its weights file.")


class _Pass:
    """One rank's sums and kept features."""

    def __init__(self, extractor: Extractor, count: int, keep: int, groups: int) -> None:
        self._name, device = extractor.name, extractor.device
        example = extractor(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))  # so that a rank without images knows the widths too
        if example.features.shape[1] != extractor.dim:
            raise BadWeights(f"'{extractor.name}' gives {example.features.shape[1]} features, extractors.yaml says {extractor.dim}.")
        self.widths = [0 if x is None else x.shape[1] for x in example]
        picked = chosen(keep, count)
        self._row = torch.full((count,), -1, dtype=torch.int64)
        self._row[picked] = torch.arange(len(picked))
        self._group = torch.from_numpy(np.random.Generator(np.random.Philox(key=[count, groups])).permutation(count) % groups)
        self._moments = Moments.empty(extractor.dim, device)
        self._kept = torch.zeros(len(picked), extractor.dim, device=device)
        self._logits, self._classes, self._spatial = None, None, []
        if example.logits is not None:
            width = example.logits.shape[1]
            self._logits, self._classes = torch.zeros(len(picked), width, device=device), ClassSums.empty(count, width, device)
        if extractor.tap is not None:
            self._spatial = [Moments.empty(extractor.tap.dim, device) for _ in range(groups)]

    def add(self, start: int, outputs: Outputs) -> None:
        """Adds the outputs of the images from ``start`` on."""
        device, places = outputs.features.device, slice(start, start + len(outputs.features))
        self._moments.add(outputs.features)
        rows = self._row[places]
        mine = (rows >= 0).nonzero()[:, 0]
        rows, mine = rows[mine].to(device), mine.to(device)
        self._kept[rows] = outputs.features[mine]
        if self._logits is not None and self._classes is not None:
            assert outputs.logits is not None  # the example had them
            self._logits[rows] = outputs.logits[mine]
            self._classes.add(outputs.logits, start)
        for number, moments in enumerate(self._spatial):
            members = (self._group[places] == number).nonzero()[:, 0]
            assert outputs.spatial is not None  # the extractor has a tap
            moments.add(outputs.spatial[members.to(device)])

    def result(self, runtime: Runtime | None) -> ImageFeatures:
        """The features of all ranks' images."""
        if runtime is not None and runtime.world > 1:
            self._moments = self._moments.over_ranks(runtime)
            self._spatial = [moments.over_ranks(runtime) for moments in self._spatial]
            runtime.all_reduce_(self._kept)  # every row was filled by one rank
            if self._logits is not None and self._classes is not None:
                runtime.all_reduce_(self._logits)
                self._classes = self._classes.over_ranks(runtime)
        sums = [moments.scatter.diagonal() for moments in (self._moments, *self._spatial)]
        if not all(bool(total.isfinite().all()) for total in sums):
            raise _not_finite(self._name)
        return ImageFeatures(
            count=self._moments.count, moments=self._moments, kept=self._kept, logits=self._logits, classes=self._classes,
            spatial=tuple(self._spatial),
        )  # fmt: skip


def batches(images: Any, size: int, runtime: Runtime | None = None) -> Iterator[tuple[int, Tensor]]:
    """Index of the first image and uint8 [<= size, 3, H, W] of each batch of this rank, in order; the next batch is read ahead."""

    def at(start: int) -> Tensor:
        return rows_of(images, range(start, min(start + size, len(images))))

    starts = list(range(0, len(images), size))
    if runtime is not None:
        starts = [starts[number] for number in runtime.shard(len(starts))]
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(at, start) for start in starts[:1]]
        for number, start in enumerate(starts):
            part = ahead.pop().result()
            ahead = [reader.submit(at, following) for following in starts[number + 1 : number + 2]]
            yield start, part


def rows_of(images: Any, items: range) -> Tensor:
    """uint8 [B, 3, H, W] of consecutive images."""
    if hasattr(images, "batch"):
        return images.batch(np.arange(items.start, items.stop))
    part = images[items.start : items.stop]
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """float32 products without TF32 inside the block, whatever was set before: TF32 changes a Frechet distance in its third digit.

    From PyTorch 2.9 on, products and convolutions have the setting ``fp32_precision``; reading the older ``allow_tf32`` raises an error
    after a caller set the new one. The new one can be read and restored after either.
    """
    new = hasattr(torch.backends.cudnn, "conv")
    name, off = ("fp32_precision", "ieee") if new else ("allow_tf32", False)
    places = (torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", torch.backends.cudnn))
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, off)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)
