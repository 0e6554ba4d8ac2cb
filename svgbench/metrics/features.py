"""Features and class logits of images under an extractor: the first of three steps (features, moments, metric).

Protocol: uint8 images as they are stored; the extractor resizes and normalises them itself (Inception: torch-fidelity's copy of the
TensorFlow graph, bilinear to 299 px as TensorFlow 1 does it; shapes-cnn: no resize, made for the embedded images); float32 without
TF32. Extractors come from torch-fidelity's registry, so another one needs a row in ``reports/extractors.yaml`` and nothing else. What
features cannot tell: anything the extractor was not trained to see.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from svgbench.errors import BadData, BadWeights
from svgbench.metrics.frechet import Moments
from svgbench.metrics.judges import identity, row, weights_file
from svgbench.metrics.protocol import Judge
from svgbench.metrics.resampling import chosen
from svgbench.world.weights import read


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A frozen network: calling it on uint8 [B, 3, H, W] gives features [B, D] and class logits [B, K], float32."""

    name: str
    digest: str
    """sha256 of the weights."""
    resize: str
    """How it brings images to its own size."""
    dim: int
    network: torch.nn.Module
    device: torch.device

    @property
    def judge(self) -> Judge:
        """What protocols say of it."""
        return Judge(name=self.name, digest=self.digest, resize=self.resize)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise BadData(f"an extractor takes uint8 [B, 3, H, W], not {images.dtype} {list(images.shape)}; round the images first.")
        with full_precision():
            features, *logits = self.network(images.to(self.device))
        return features, logits[0] if logits else None


@dataclass(frozen=True, kw_only=True)
class Features:
    """What one pass over a set of images leaves."""

    count: int
    moments: Moments
    """Of all images."""
    kept: Tensor
    """[n, D] float32: of all images, or of n of them."""
    logits: Tensor | None
    """[n, K] float32 of the same images."""

    def save(self, path: Path) -> None:
        """Writes a safetensors file that ``load`` reads, so that a reference is taken once and serves many scores."""
        parts = {"mean": self.moments.mean, "scatter": self.moments.scatter, "kept": self.kept, "logits": self.logits}
        stored = {name: part.cpu().contiguous() for name, part in parts.items() if part is not None}
        save_file(stored, path, metadata={"count": str(self.count)})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Features:
        """What ``save`` wrote."""
        with safe_open(path, framework="pt", device=str(device)) as file:
            parts, count = {name: file.get_tensor(name) for name in file.keys()}, int(file.metadata()["count"])  # noqa: SIM118
        return cls(count=count, moments=Moments(count, parts["mean"], parts["scatter"]), kept=parts["kept"], logits=parts.get("logits"))


def load_extractor(name: str, weights: str | Path | None = None, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of that name; ``weights`` names a local file where the shelf has none (Inception)."""
    facts = row("features", name)
    path = weights_file("features", name, weights)
    layers = [facts["layer"], *([facts["logits"]] if "logits" in facts else [])]
    network = _from_registry(facts["registry"], layers, path)
    device = torch.device(device)
    digest = identity("features", name, path)
    return Extractor(
        name=name, digest=digest, resize=facts["resize"], dim=facts["dim"], network=network.to(device), device=device
    )


def _from_registry(name: str, layers: list[str], path: Path) -> torch.nn.Module:
    """torch-fidelity's extractor with these weights. Foreign code would unpickle the file whole, so it gets our copy of its tensors."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    from svgbench.metrics.shapes_extractor import NAME, ShapesExtractor

    if NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(NAME, ShapesExtractor)
    kind = FEATURE_EXTRACTORS_REGISTRY[name]
    if kind is ShapesExtractor:
        return ShapesExtractor(name, layers, path)
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
    keep: int | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> Features:
    """Features of all images (uint8 [N, 3, H, W]: array, memmap, tensor, or a set with ``batch(indices)``) in one pass.

    ``keep``: features of at most so many images (a fixed choice) stay in memory, moments are of all; ``done`` hears of each batch's images.
    """
    count = len(images)
    stays = torch.zeros(count, dtype=torch.bool)
    stays[chosen(count if keep is None else keep, count)] = True
    moments = Moments.empty(extractor.dim, extractor.device)
    kept, logits = [], []
    start = 0
    for part in batches(images, batch):
        found, classes = extractor(part)
        moments.add(found)
        mine = stays[start : start + len(part)].to(found.device)
        kept.append(found[mine])
        if classes is not None:
            logits.append(classes[mine])
        start += len(part)
        done(len(part))
    if not kept:
        raise BadData("there are no images to take features of; give at least one.")
    return Features(count=count, moments=moments, kept=torch.cat(kept), logits=torch.cat(logits) if logits else None)


def batches(images: Any, size: int) -> Iterator[Tensor]:
    """uint8 [<= size, 3, H, W] in order."""
    for start in range(0, len(images), size):
        stop = min(start + size, len(images))
        if hasattr(images, "batch"):
            yield images.batch(np.arange(start, stop))
        else:
            part = images[start:stop]
            yield part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """float32 products without TF32 while it lasts: TF32 moves a Frechet distance in its third digit."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
