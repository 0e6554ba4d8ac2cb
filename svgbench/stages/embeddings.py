"""t-SNE (van der Maaten & Hinton 2008) of an encoder's features, for figures: for many classes, and for several blocks of the encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.backends.open import FrozenEncoder, open_encoder
from svgbench.backends.tokens import TokenNetwork
from svgbench.config import cards
from svgbench.config.schema import Features
from svgbench.images.store import ImageSet, open_images
from svgbench.machine.runtime import Runtime
from svgbench.metrics.diagnosis import class_share_score
from svgbench.metrics.probe import pool
from svgbench.nets.tokenizer import Tokenizer
from svgbench.stages.diagnosis import EMBEDDED, RESAMPLING, balanced, names_of, write_json
from svgbench.stages.results import image_group
from svgbench.stages.tokenizers import blocks, open_frozen, open_tokenizer, to_floats

COUNTS = (20, 100)
"""Numbers of classes in figure 4 of arXiv 2510.15301."""
EACH = 100
"""Images per class in that figure; here validation images, fewer if a class has fewer."""
LAYERS = 4
"""Number of blocks of an encoder that are shown."""


@torch.no_grad()
def by_classes(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """t-SNE of the frozen encoder's features (a codec's latents), averaged over positions, for 20 and for 100 classes (all if there are
    fewer): ``points.npy`` float32 [N, 2], with both sets concatenated, and ``embedding.json`` with the classes, labels and images of each
    set."""
    collection = open_images(inputs["images"])
    encoder = open_frozen(json.loads((inputs["autoencoder"] / "autoencoder.json").read_text())["encoder"], runtime.torch_device)[1]
    known = len(torch.as_tensor(collection.val.labels).unique())
    points, sets = [], []
    counts = sorted({min(count, known) for count in COUNTS})
    with runtime.progress("t-SNE by classes", len(counts), unit="sets") as bar:
        for count in counts:
            places, labels, chosen = balanced(collection.val, EACH * count, count)
            points.append(_tsne(_pooled(collection.val, places, encoder.encode, runtime)))
            sets.append({"labels": labels.tolist(), "images": places.tolist(), "classes": names_of(collection, chosen)})
            bar.advance(1)
    np.save(out / "points.npy", np.concatenate(points))
    write_json(out / "embedding.json", {"sets": sets})
    return {"images_seen": sum(map(len, points))}


@torch.no_grad()
def by_layers(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """t-SNE of raw vectors, averaged over positions: of some blocks of the encoder, and of the latents with and without their alignment.
    ``points.npy`` float32 [P, N, 2] and ``embedding.json``: the parts' names, labels, classes, and the class share before t-SNE.

    "Without" means that the alignment that the latents use is skipped. For a codec only its latents.
    """
    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    places, labels, chosen = balanced(collection.val, EMBEDDED)
    vectors = dict(_layers(inputs["autoencoder"], collection.val, places, runtime))
    if isinstance(tokenizer, Tokenizer) and tokenizer.used_alignment is not None and tokenizer.used_alignment.mode != "none":
        unaligned = _pooled(collection.val, places, lambda images: tokenizer.encode(images, align="none"), runtime)
        vectors["latents, alignment left out"] = unaligned
    vectors["latents"] = _pooled(collection.val, places, tokenizer.encode, runtime)
    seen = image_group(inputs["images"], "val", collection.val, len(places))
    points, scores = np.empty((len(vectors), len(places), 2), np.float32), []
    with runtime.progress("t-SNE by layers", len(vectors), unit="parts") as bar:
        for number, (name, part) in enumerate(vectors.items()):
            points[number] = _tsne(part)
            what = ("latents", "pooled", "raw", name.replace(", ", "-").replace(" ", "-"))
            scores.append(class_share_score(part, labels, what=what, images=seen, resampling=RESAMPLING, detail={"latents": name}))
            bar.advance(1)
    np.save(out / "points.npy", points)
    content = {
        "parts": list(vectors), "labels": labels.tolist(), "images": places.tolist(), "classes": names_of(collection, chosen),
        "class_share": [score.model_dump(mode="json") for score in scores],
    }  # fmt: skip
    write_json(out / "embedding.json", content)
    return {"images_seen": len(places)}


def shown_layers(depth: int) -> list[int]:
    """The blocks of an encoder that are shown, counted from 1: the first, and those at one third, two thirds and the end of the encoder,
    rounded down (1, 4, 8 and 12 of 12)."""
    return sorted({1 + int((depth - 1) * place / (LAYERS - 1)) for place in range(LAYERS)})


def _layers(autoencoder: Path, images: ImageSet, places: Tensor, runtime: Runtime) -> Mapping[str, Tensor]:
    """Pooled patch tokens [N, C] of some blocks of a transformer, normalised as its card specifies; empty for other encoders."""
    part = json.loads((autoencoder / "autoencoder.json").read_text())["encoder"]
    card, encoder = open_frozen(part, runtime.torch_device)
    if not isinstance(encoder.network, TokenNetwork):
        return {}
    layers = shown_layers(encoder.network.depth)
    width = encoder.channels // card.features.width
    several = _of_layers(card, part, layers, width, runtime)
    pooled = _pooled(images, places, several.encode, runtime)
    return {f"block {layer}": vectors for layer, vectors in zip(layers, pooled.split(width, 1), strict=True)}


def _of_layers(card: cards.EncoderCard, part: Mapping[str, Any], layers: list[int], width: int, runtime: Runtime) -> FrozenEncoder:
    """The card's encoder with the concatenated tokens of these blocks, [B, len(layers) * width, h, w]."""
    features = Features(layers=tuple(layers), combine="concat", norm=card.features.norm)
    changed = card.model_copy(update={"features": features, "channels": width * len(layers)})
    weights = Path(part["weights"]) if part["weights"] else None
    encoder = open_encoder(changed, weights=weights, device=runtime.torch_device, weights_key=part.get("weights_key"))
    encoder.precision = part.get("precision", "fp32")
    return encoder


def _pooled(images: ImageSet, places: Tensor, encode: Any, runtime: Runtime) -> Tensor:
    """Vectors [N, C] on the CPU, averaged over positions, of the images at indices ``places`` [N]."""
    parts = [pool(encode(to_floats(images.batch(places[block]), runtime.torch_device))).cpu() for block in blocks(len(places))]
    return torch.cat(parts)


def _tsne(vectors: Tensor) -> np.ndarray:
    """t-SNE points float32 [N, 2] of vectors [N, C], with a perplexity of 30, or less for few images."""
    from sklearn.manifold import TSNE

    init = "pca" if vectors.shape[1] > 1 else "random"
    return TSNE(perplexity=min(30.0, (len(vectors) - 1) / 3), init=init, random_state=0).fit_transform(vectors.numpy())
