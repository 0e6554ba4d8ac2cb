"""Opens autoencoder artifacts, and encodes image sets with them.

The artifact is ``autoencoder.json`` (the encoder's card, the sizes of the networks) and, unless the card's own decoder is adopted,
``autoencoder.safetensors``. The frozen encoder is not in it: it is opened from its card, and its identity must be unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from svgbench.backends.open import open_encoder
from svgbench.config import cards
from svgbench.config.choices import CACHE_BYTES
from svgbench.config.records import digest
from svgbench.config.schema import Autoencoder
from svgbench.errors import BadWeights
from svgbench.images.store import ImageSet
from svgbench.machine.files import sha256_of
from svgbench.machine.measure import apart
from svgbench.machine.runtime import Runtime
from svgbench.nets.alignment import Alignment
from svgbench.nets.ldm import LdmDecoder
from svgbench.nets.residual import PatchResidual, ResidualEncoder, ResidualNetwork
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.nets.vit_decoder import ViTDecoder

BLOCK = 256
"""Number of images encoded at once."""


def open_frozen(part: Mapping[str, Any], device: torch.device) -> tuple[cards.EncoderCard, Any]:
    """The card and the frozen encoder named by an ``encoder`` slice (or by an artifact's copy of it)."""
    card = cards.EncoderCard.model_validate(part["opened"])
    weights = Path(part["weights"]) if part["weights"] else None
    key = part.get("weights_key")
    identity = cards.identity(card, weights, key)
    if identity != part["identity"]:
        raise BadWeights(
            f"the encoder '{card.name}' has identity {identity[:12]}, this artifact was made with {part['identity'][:12]}; "
            "its card or weights have changed, so run the command again for new artifacts."
        )
    encoder = open_encoder(card, weights=weights, device=device, weights_key=key)
    encoder.precision = part.get("precision", "fp32")
    return card, encoder


class Shape(NamedTuple):
    """The resolution of a tokenizer's networks, and the resolution at which they were first trained."""

    resolution: int
    """Side of its images in pixels."""
    first: int
    """Side of the images on which it was first trained, which determines its learned positions and the decoder's levels with attention."""
    spacing: float = 1.0
    """Distance between neighbouring positions of a larger grid, for fixed position embeddings; 1 for the first grid."""

    @classmethod
    def at(cls, resolution: int) -> Shape:
        """The shape for training at a single resolution."""
        return cls(resolution, resolution)

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Shape:
        """The shape in the content of ``autoencoder.json``."""
        return cls(about["resolution"], about.get("first", about["resolution"]), about.get("spacing", 1.0))

    def continued(self, resolution: int, positions: str) -> Shape:
        """The same networks for images of another resolution."""
        return Shape(resolution, self.first, self.spacing * (self.resolution / resolution if positions == "interpolated" else 1.0))

    def described(self) -> dict[str, Any]:
        """Its fields in ``autoencoder.json``."""
        return {"resolution": self.resolution} if self == Shape.at(self.resolution) else self._asdict()


def build(encoder: Any, settings: Autoencoder, resolution: int | Shape, device: torch.device, replacement: str | None = None) -> Tokenizer:
    """An untrained tokenizer around a frozen encoder; ``replacement``: an alignment that replaces the trained one."""
    shape = resolution if isinstance(resolution, Shape) else Shape.at(resolution)
    part, sizes = settings.residual, {"feature_channels": encoder.channels, "residual_channels": settings.residual.channels}
    residual: ResidualNetwork | None = None
    alignment = other = None
    if part.channels:
        if part.kind == "patch":
            residual = PatchResidual(channels=part.channels, drop=part.drop, patch=encoder.stride)
        else:
            residual = ResidualEncoder(**part.model_dump(), patch=encoder.stride, resolution=shape.first)
        alignment = Alignment(settings.align, strength=settings.align_strength, gradient=settings.align_gradient, **sizes)
        other = None if replacement is None else Alignment(replacement, **sizes)
    return Tokenizer(encoder, residual, alignment, _decoder(encoder, settings, shape), other).to(device)


def _decoder(encoder: Any, settings: Autoencoder, shape: Shape) -> LdmDecoder | ViTDecoder:
    """An untrained decoder of the configured kind, for features and residual together."""
    part, channels = settings.decoder, encoder.channels + settings.residual.channels
    if part.kind == "vit":
        sizes = {"resolution": shape.resolution, "spacing": shape.spacing, **part.vit.model_dump()}
        return ViTDecoder(z_channels=channels, stride=encoder.stride, **sizes)
    sizes = part.model_dump(exclude={"kind", "vit"})
    return LdmDecoder(**sizes, z_channels=channels, out_channels=3, resolution=shape.first)


def describe(part: Mapping[str, Any], card: cards.EncoderCard, **more: Any) -> bytes:
    """The content of ``autoencoder.json``."""
    content = {"encoder": dict(part), "kind": card.kind, **more}
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def open_tokenizer(place: Path, runtime: Runtime) -> Tokenizer | Codec:
    """The tokenizer of a finished autoencoder artifact, frozen. An encoder of features that was adopted alone has no decoder."""
    about = json.loads((place / "autoencoder.json").read_text())
    _, encoder = open_frozen(about["encoder"], runtime.torch_device)
    if about["kind"] == "codec" or "settings" not in about:
        return Codec(encoder)
    settings = Autoencoder.model_validate(about["settings"])
    tokenizer = build(encoder, settings, Shape.of(about), runtime.torch_device, about.get("replacement"))
    tokenizer.load_state_dict(load_file(place / "autoencoder.safetensors", device=str(runtime.torch_device)))
    return tokenizer.eval().requires_grad_(False)


def encoder_of(place: Path) -> tuple[str, str]:
    """The encoder card's name in an autoencoder artifact, and a digest of everything that determines its latents: the frozen encoder's
    identity and the trained weights."""
    part = json.loads((place / "autoencoder.json").read_text())["encoder"]
    weights = place / "autoencoder.safetensors"
    return part["opened"]["name"], digest([part["identity"], sha256_of(weights) if weights.exists() else None])


def to_floats(images: Tensor, device: torch.device) -> Tensor:
    """uint8 [B, 3, H, W] -> floats in [0, 1] on the device."""
    return images.to(device, non_blocking=True).float() / 255


class Cached:
    """A cache of a function of images (features, raw latents) over an image set: ``cached(indices) -> [B, C, h, w]``. If all values fit in
    memory, they are computed once, else at each call. A value depends only on its image, so both give the same bits."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        images: ImageSet,
        runtime: Runtime,
        *,
        label: str,
        flips: bool = False,
        known: Tensor | None = None,
    ) -> None:
        """``known``: the values of the full set, if an artifact already holds them."""
        self._function, self._images, self._runtime, self._label = apart(function), images, runtime, label
        probe = self._compute(torch.zeros(1, dtype=torch.int64), None)
        self.shape = tuple(probe.shape[1:])
        self._memory: list[Tensor] = []
        if known is not None and not flips:
            self._memory = [known]
        elif probe.numel() * 4 * len(images) * (2 if flips else 1) <= CACHE_BYTES:
            self._memory = [self._all(flipped) for flipped in ([False, True] if flips else [False])]
        if self._memory:
            del self._function  # and with it the networks

    def _all(self, flipped: bool) -> Tensor:
        parts = []
        with self._runtime.progress(self._label, len(self._images)) as bar:
            for indices in blocks(len(self._images)):
                parts.append(self._compute(indices, torch.ones(len(indices), dtype=torch.bool) if flipped else None))
                bar.advance(len(indices))
        return torch.cat(parts)

    @property
    def online(self) -> bool:
        """Whether values are computed from the images at each call."""
        return not self._memory

    @torch.no_grad()
    def _compute(self, indices: Tensor, flip: Tensor | None, images: Tensor | None = None) -> Tensor:
        images = to_floats(self._images.batch(indices) if images is None else images, self._runtime.torch_device)
        if flip is not None:
            images = torch.where(flip.to(images.device)[:, None, None, None], images.flip(-1), images)
        with torch.autocast(images.device.type, enabled=False):  # the function has its own precision (``encoder.precision``)
            return self._function(images)

    def __call__(self, indices: Tensor, flip: Tensor | None = None, images: Tensor | None = None) -> Tensor:
        """Values for data set indices [B]; ``flip`` [B] bool: which images are mirrored. ``images``: the images themselves, uint8 [B, 3, H,
        W] on the device and not mirrored; if they are needed and None, they are read."""
        if self.online:
            return self._compute(indices, flip, images)
        where = indices.to(self._memory[0].device)
        if flip is None:
            return self._memory[0][where]
        return torch.where(flip.to(where.device)[:, None, None, None], self._memory[1][where], self._memory[0][where])

    def gather(self, function: Callable[[Tensor], Tensor], limit: int | None = None) -> Tensor:
        """``function`` of the values [B, C, h, w] of the set (or its first ``limit``), by blocks; only results must fit in memory."""
        return torch.cat([function(self(indices)) for indices in blocks(min(limit or len(self._images), len(self._images)))])


def kept_latents(statistics: Path, split: str) -> np.ndarray | None:
    """Raw latents float32 [N, C, h, w] of a split, memory-mapped from the statistics artifact; None if they were too large to store."""
    path = statistics / f"latents.{split}.npy"
    return np.load(path, mmap_mode="r") if path.exists() else None


def latents_of(
    split: str, tokenizer: Tokenizer | Codec, images: ImageSet, statistics: Path, runtime: Runtime, *, flips: bool = False
) -> Cached:
    """Raw latents of a split: those that the statistics stage stored if they were small enough, else encoded."""
    kept = None if flips else kept_latents(statistics, split)
    known = None if kept is None else torch.from_numpy(np.array(kept)).to(runtime.torch_device)
    label = f"latents of the {'training' if split == 'train' else 'validation'} images"
    return Cached(tokenizer.encode, images, runtime, label=label, flips=flips, known=known)


def blocks(count: int, size: int = BLOCK) -> Iterator[Tensor]:
    """``range(count)`` in blocks [size], int64; the last one may be smaller."""
    for start in range(0, count, size):
        yield torch.arange(start, min(start + size, count))
