"""Pictures from latents that were changed by hand: without the residual, between two images, under another class. Made for figures.

Each artifact is ``pictures.npy`` uint8 and ``pictures.json``, which names the pictures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.config.choices import shifted_times
from svgbench.images.store import Images, open_images
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.metrics.samples import to_uint8
from svgbench.nets import draws
from svgbench.nets.guidance import guided
from svgbench.nets.sampler import euler
from svgbench.stages.diagnosis import balanced, latents
from svgbench.stages.samples import protocol_of
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import open_tokenizer
from svgbench.stages.transformers import as_velocity, open_transformer, open_weak

SHOWN = 8
"""Images in a strip of reconstructions."""
PAIRS = 2
SHARES = (0.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
"""How far between the two images of a pair."""
EDITED = 2
STARTS = (0.8, 0.6, 0.4, 0.2)
"""Times to which an image is noised before it is edited; the less, the less is kept."""


@torch.no_grad()
def residual_left_out(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Validation images decoded from their features alone: the mask token, which the decoder met in training, in the residual's place.

    ``pictures.npy`` [2, N, 3, H, W]: originals, decoded; only the originals, [1, ...], where there is no residual or it was never left out.
    """
    collection, places, about = _picked(inputs, SHOWN)
    originals = collection.val.batch(places)
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    encoder = getattr(tokenizer, "residual_encoder", None)
    rows = [originals]
    if encoder is not None and encoder.drop:
        raw = latents(collection.val, places, tokenizer, runtime)
        raw[:, tokenizer.feature_channels :] = encoder.mask_token[:, None, None]
        rows.append(to_uint8(tokenizer.decode(raw)).cpu())
    return _write(out, torch.stack(rows), about)


@torch.no_grad()
def interpolation(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Images decoded on the straight line between the raw latents of two images of different classes.

    ``pictures.npy`` [P, 2 + S, 3, H, W]: for each pair its two originals, then the ``shares`` of the way.
    """
    collection, places, about = _picked(inputs, 2 * PAIRS)
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    ends, originals = latents(collection.val, places, tokenizer, runtime), collection.val.batch(places)
    rows = []
    for first in range(0, len(places) - 1, 2):
        between = torch.cat([torch.lerp(ends[first], ends[first + 1], share)[None] for share in SHARES])
        rows.append(torch.cat([originals[first : first + 2], to_uint8(tokenizer.decode(between)).cpu()]))
    return _write(out, torch.stack(rows), {**about, "shares": SHARES})


@torch.no_grad()
def editing(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Images noised up to a time and denoised from there under another class (SDEdit, Meng et al., arXiv 2108.01073, guided by a
    class), by Euler's method on the run's time grid, at its largest count of steps and its largest guidance.

    ``pictures.npy`` [E, 2 + S, 3, H, W]: for each image the original, its reconstruction, then one for each of the ``starts``.
    """
    collection, places, about = _picked(inputs, EDITED)
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
    part = slice_["sampling"]
    sampling = protocol_of({**part, "sampler": "euler", "steps": max(part["steps"]), "guidance": max(part["guidance"])}, inputs)
    model: Any = as_velocity(open_transformer(inputs["diffusion"], runtime)[0])
    weak = as_velocity(open_weak(inputs["diffusion"], runtime)) if sampling.against == "weak" else None
    targets = [_opposite(label, len(collection.classes)) for label in about["labels"]]
    raw = latents(collection.val, places, tokenizer, runtime)
    data, labels = stats.standardise(raw), torch.tensor(targets, device=raw.device)
    velocity = guided(model, labels, sampling, null=model.classes, weak=weak)
    noise = draws.normal(draws.stream(0, "editing/noise"), places.to(raw.device), tuple(raw.shape[1:]))
    grid = shifted_times(sampling.steps, sampling.shift)
    columns = [collection.val.batch(places), to_uint8(tokenizer.decode(raw)).cpu()]
    for start in STARTS:
        after = [t for t in grid if t > start]
        passed = sampling.steps - len(after)  # the schedule goes by the step's place on the whole grid
        edited = euler(lambda x, t, step, passed=passed: velocity(x, t, step + passed), (1 - start) * noise + start * data, [start, *after])
        columns.append(to_uint8(tokenizer.decode(stats.restore(edited).float())).cpu())
    names = [collection.classes[label] for label in targets]
    how = {"targets": targets, "target_names": names, "starts": STARTS, "steps": sampling.steps, "guidance": sampling.guidance}
    return _write(out, torch.stack(columns, 1), {**about, **how})


def _picked(inputs: dict[str, Path], count: int) -> tuple[Images, Tensor, dict[str, Any]]:
    """The store of images, ``count`` places in its validation set (of different classes while there are any), and what they show."""
    collection = open_images(inputs["images"])
    places = balanced(collection.val, len(collection.val))[0][:count]
    labels = torch.as_tensor(collection.val.labels)[places].tolist()
    return collection, places, {"images": places.tolist(), "labels": labels, "names": [collection.classes[label] for label in labels]}


def _opposite(label: int, classes: int) -> int:
    """The class half way round from a class."""
    return (label + classes // 2) % classes


def _write(out: Path, pictures: Tensor, about: dict[str, Any]) -> dict[str, Any]:
    np.save(out / "pictures.npy", pictures.numpy())
    write_atomic(out / "pictures.json", (json.dumps(about) + "\n").encode())
    return {"images_seen": len(about["images"])}
