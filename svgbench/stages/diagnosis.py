"""Pictures of a latent space, for figures: latents of each class on a plane, and the velocities that a trained transformer predicts for
each class.

An artifact holds everything that a figure needs, so that drawing it needs no network and no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.errors import BadData
from svgbench.images.store import Images, ImageSet, open_images
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.metrics.diagnosis import class_share_score
from svgbench.metrics.probe import pool
from svgbench.metrics.resampling import Resampling
from svgbench.nets import draws
from svgbench.nets.tokenizer import Codec, Tokenizer, channel_parts
from svgbench.stages.results import image_group
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import blocks, open_tokenizer, to_floats
from svgbench.stages.transformers import as_velocity, open_transformer

CLASSES = 10
"""Largest number of classes in a picture, so that their colours are distinct; if there are more, evenly spaced classes are chosen."""
EMBEDDED, MOVED = 500, 400
"""Number of validation images in the t-SNE and for the velocities, the same number of each class."""
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
BATCH = 200
"""Number of latents in one call of the transformer."""
RESAMPLING = Resampling(resamples=100, seed=0)


def balanced(images: ImageSet, count: int, classes: int = CLASSES) -> tuple[Tensor, Tensor, list[int]]:
    """At most ``count`` images of at most ``classes`` classes, alternating between the classes. Returns the images' indices [N], their
    labels as indices into the chosen classes [N], and the chosen classes."""
    labels = torch.as_tensor(images.labels)
    known = labels.unique()
    if len(known) < 2:
        raise BadData(f"the validation images are of {len(known)} class; figures by class need images of two classes or more.")
    chosen = known[torch.linspace(0, len(known) - 1, min(classes, len(known))).round().long()]
    places = [(labels == label).nonzero()[:, 0] for label in chosen]
    each = max(1, min(count // len(chosen), *map(len, places)))
    return torch.stack([place[:each] for place in places], 1).flatten(), torch.arange(len(chosen)).repeat(each), chosen.tolist()


@torch.no_grad()
def latents(images: ImageSet, places: Tensor, tokenizer: Tokenizer | Codec, runtime: Runtime) -> Tensor:
    """Raw latents [N, C, h, w] of the images at indices ``places`` [N], on the device."""
    parts = [tokenizer.encode(to_floats(images.batch(places[block]), runtime.torch_device)) for block in blocks(len(places))]
    return torch.cat(parts).float()


def embedding(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """t-SNE (van der Maaten & Hinton 2008) of pooled, standardised latents: ``points.npy`` float32 [P, N, 2] for P parts (features,
    residual, both) and ``embedding.json``: parts, labels, classes, and each part's class share in the space before t-SNE."""
    from sklearn.manifold import TSNE

    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
    places, labels, chosen = balanced(collection.val, EMBEDDED)
    raw = (latents(collection.val, places[block], tokenizer, runtime) for block in blocks(len(places)))
    vectors = torch.cat([pool(stats.standardise(part)).cpu() for part in raw])
    parts = channel_parts(tokenizer.feature_channels, tokenizer.channels)
    seen, scores = image_group(inputs["images"], "val", collection.val, len(places)), []
    points = np.empty((len(parts), len(places), 2), np.float32)
    perplexity = min(30.0, (len(places) - 1) / 3)
    with runtime.progress("t-SNE", len(parts)) as bar:
        for number, (name, channels) in enumerate(parts.items()):
            part = vectors[:, channels]
            init = "pca" if part.shape[1] > 1 else "random"
            points[number] = TSNE(perplexity=perplexity, init=init, random_state=0).fit_transform(part.numpy())
            what = ("latents", "pooled", "standardised", name)
            scores.append(class_share_score(part, labels, what=what, images=seen, resampling=RESAMPLING, detail={"latents": name}))
            bar.advance(1)
    np.save(out / "points.npy", points)
    content = {"parts": list(parts), "labels": labels.tolist(), "images": places.tolist(), "classes": names_of(collection, chosen),
               "perplexity": perplexity, "class_share": [score.model_dump(mode="json") for score in scores]}  # fmt: skip
    write_json(out / "embedding.json", content)
    return {"images_seen": len(places)}


@torch.no_grad()
def velocities(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The velocity that the transformer predicts for noised validation images without their label (unconditional), by class.

    ``points.npy`` float32 [T, N, 2]: noised latents x_t on the plane in which the mean latents of the classes differ most;
    ``velocities.json``: for each time the classes' mean position and mean velocity on the plane, the mean latents, and the class share of
    the velocities in the full space. The plane's axes are unit vectors of the latent space, so noise (t = 0) has standard deviation 1 along
    each.
    """
    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
    model: Any = as_velocity(open_transformer(inputs["diffusion"], runtime)[0])
    places, labels, chosen = balanced(collection.val, MOVED)
    data = stats.standardise(latents(collection.val, places, tokenizer, runtime))
    noise = draws.normal(draws.stream(0, "velocities/noise"), places.to(data.device), tuple(data.shape[1:]))
    centres = _means(data.flatten(1), labels)
    axes = _plane(centres)
    seen = image_group(inputs["images"], "val", collection.val, len(places))
    points, times = np.empty((len(TIMES), len(places), 2), np.float32), []
    with runtime.progress("velocities", len(TIMES) * len(places)) as bar:
        for number, t in enumerate(TIMES):
            x_t = (1 - t) * noise + t * data
            predictions = []
            for block in blocks(len(places), BATCH):
                at = torch.full((len(block),), t, device=data.device)
                predictions.append(model(x_t[block], at, torch.full_like(block, model.classes).to(data.device)).float())
                bar.advance(len(block))
            velocity = torch.cat(predictions).flatten(1)
            score = class_share_score(
                velocity, labels, what=("velocity", "without-label", f"t{t:g}"), images=seen, resampling=RESAMPLING, detail={"t": t}
            )
            points[number] = (x_t.flatten(1) @ axes).cpu().numpy()
            means = [(_means(vectors, labels) @ axes).cpu().tolist() for vectors in (x_t.flatten(1), velocity)]
            times.append({"t": t, "positions": means[0], "velocities": means[1], "class_share": score.model_dump(mode="json")})
    np.save(out / "points.npy", points)
    content = {"labels": labels.tolist(), "images": places.tolist(), "classes": names_of(collection, chosen),
               "centres": (centres @ axes).cpu().tolist(), "times": times}  # fmt: skip
    write_json(out / "velocities.json", content)
    return {"images_seen": len(places)}


def _means(vectors: Tensor, labels: Tensor) -> Tensor:
    """Mean of each class: [K, D] of vectors [N, D]."""
    where = labels.to(vectors.device)
    return torch.stack([vectors[where == label].mean(0) for label in range(int(labels.max()) + 1)])


def _plane(centres: Tensor) -> Tensor:
    """Two orthonormal directions [D, 2] in which class means [K, D] differ most; the entry of largest magnitude is made positive."""
    axes = torch.linalg.svd((centres - centres.mean(0)).double(), full_matrices=False)[2][:2].T
    if axes.shape[1] < 2:  # latents with one element
        axes = torch.cat([axes, torch.zeros_like(axes)], 1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return (axes * largest.sign()).to(centres)


def names_of(collection: Images, chosen: list[int]) -> list[str]:
    """Names of the chosen classes."""
    return [collection.classes[label] for label in chosen]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file atomically."""
    write_atomic(path, (json.dumps(content) + "\n").encode())
