"""Pictures from edited latents, for figures: residual left out, interpolation of images or noise, change of class, edits in a box.

Each artifact is ``pictures.npy`` uint8 and ``pictures.json``, which names the pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.config.choices import shifted_times
from svgbench.config.sampling import SamplingProtocol
from svgbench.images.store import Images, open_images
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.metrics.samples import to_uint8
from svgbench.nets import draws, edits
from svgbench.nets.guidance import Field, guided
from svgbench.nets.latents import LatentStats
from svgbench.nets.sampler import euler
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.stages.diagnosis import balanced, latents
from svgbench.stages.samples import protocol_of
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import open_tokenizer
from svgbench.stages.transformers import as_velocity, open_transformer, open_weak

SHOWN = 8
"""Images in a strip of reconstructions."""
PAIRS = 2
SHARES = (0.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
"""Interpolation weights between the two images of a pair."""
EDITED = 2
STARTS = (0.8, 0.6, 0.4, 0.2)
"""Times to which an image is noised before it is edited; a smaller time keeps less of the image."""
BOXED = SamplingProtocol(sampler="euler", steps=100, guidance=4.0, shift=0.4)
"""Sampling settings for edits in a box, from appendix C of arXiv 2510.15301."""
BOX_START = 0.25
"""Time up to which an image is inverted before an edit in a box (our choice)."""
BOX_SHARE, BOX_BLUR = 0.5, 1 / 16
"""Side of the box and standard deviation of its blur, as shares of the latent grid's side (our choice)."""
WAYS = {"linear": edits.linear, "spherical": edits.spherical}
NOISE_PAIRS = 2
"""Number of pairs of noises; each pair has one class."""


@torch.no_grad()
def residual_left_out(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Validation images decoded from their features alone; the mask token, which the decoder saw in training, replaces the residual.

    ``pictures.npy`` [2, N, 3, H, W]: originals, decoded; only the originals, [1, ...], if there is no residual or it was never
    dropped in training.
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

    ``pictures.npy`` [P, 2 + S, 3, H, W]: for each pair the two originals, then the images at the ``shares``.
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
    class), with Euler's method on the run's time grid, at its largest number of steps and largest guidance.

    ``pictures.npy`` [E, 2 + S, 3, H, W]: for each image the original, its reconstruction, then the edit from each of the ``starts``.
    """
    collection, places, about = _picked(inputs, EDITED)
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
    part = slice_["sampling"]
    sampling = protocol_of({**part, "sampler": "euler", "steps": max(part["steps"]), "guidance": max(part["guidance"])}, inputs)
    targets = [_opposite(label, len(collection.classes)) for label in about["labels"]]
    raw = latents(collection.val, places, tokenizer, runtime)
    data, labels = stats.standardise(raw), torch.tensor(targets, device=raw.device)
    velocity = _velocities(inputs, runtime)(labels, sampling)
    noise = draws.normal(draws.stream(0, "editing/noise"), places.to(raw.device), tuple(raw.shape[1:]))
    grid = shifted_times(sampling.steps, sampling.shift)
    columns = [collection.val.batch(places), to_uint8(tokenizer.decode(raw)).cpu()]
    for start in STARTS:
        after = [t for t in grid if t > start]
        passed = sampling.steps - len(after)  # the schedule depends on the step's index in the full grid

        def later(x: Tensor, t: float, step: int, passed: int = passed) -> Tensor:
            return velocity(x, t, step + passed)

        edited = euler(later, (1 - start) * noise + start * data, [start, *after])
        columns.append(_decoded(edited, tokenizer, stats))
    names = [collection.classes[label] for label in targets]
    how = {"targets": targets, "target_names": names, "starts": STARTS, "steps": sampling.steps, "guidance": sampling.guidance}
    return _write(out, torch.stack(columns, 1), {**about, **how})


@torch.no_grad()
def box_editing(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Images edited inside and outside a box (``nets.edits``, after appendix C of arXiv 2510.15301): inverted along the ODE with their true
    class and without guidance, then denoised with another class in 100 Euler steps, guidance 4, shift 0.4.

    ``pictures.npy`` [E, 5, 3, H, W]: for each image the original, its reconstruction, the image sampled from its fully inverted noise, the
    edit inside and the edit outside the box. ``pictures.json``: the box in pixels, and root mean square distances to the image in
    standardised latents, for the image sampled from its inversion and for each edit, inside and outside the box.
    """
    collection, places, about = _picked(inputs, EDITED)
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
    targets = [_opposite(label, len(collection.classes)) for label in about["labels"]]
    raw = latents(collection.val, places, tokenizer, runtime)
    data = stats.standardise(raw)
    own, other = (torch.tensor(labels, device=raw.device) for labels in (about["labels"], targets))
    times, velocities = shifted_times(BOXED.steps, BOXED.shift), _velocities(inputs, runtime)
    unguided, guided_away = velocities(own, BOXED.model_copy(update={"guidance": 1.0})), velocities(other, BOXED)
    trajectory = edits.inverted(unguided, data, times)
    back = euler(unguided, trajectory[0], times)
    begin = min(range(len(times)), key=lambda step: abs(times[step] - BOX_START))
    noise = draws.normal(draws.stream(0, "box-editing/noise"), places.to(raw.device), tuple(raw.shape[1:]))
    side = raw.shape[-1]
    inside = edits.box(side, BOX_SHARE).to(raw.device)
    pictures, distances = [collection.val.batch(places), to_uint8(tokenizer.decode(raw)).cpu(), _decoded(back, tokenizer, stats)], []
    for part, region in (("inside", inside), ("outside", 1 - inside)):
        made = edits.edited(
            lambda x, t, step: guided_away(x, t, step + begin), trajectory[begin:], times[begin:], noise,
            edits.softened(region, BOX_BLUR * side),
        )  # fmt: skip
        pictures.append(_decoded(made, tokenizer, stats))
        error = (made - data).square().mean(1)
        means = [((error * where).sum((1, 2)) / where.sum()).sqrt().tolist() for where in (inside, 1 - inside)]
        distances += [{"edit": part, "inside": means[0], "outside": means[1]}]
    corners = inside.nonzero()
    first, last = int(corners.min()) * tokenizer.stride, (int(corners.max()) + 1) * tokenizer.stride
    how = {
        "targets": targets, "target_names": [collection.classes[label] for label in targets], "start": times[begin], "box": [first, last],
        "steps": BOXED.steps, "guidance": BOXED.guidance, "shift": BOXED.shift, "blur": BOX_BLUR * side, "distances": distances,
        "back": (back - data).square().mean((1, 2, 3)).sqrt().tolist(),
    }  # fmt: skip
    return _write(out, torch.stack(pictures, 1), {**about, **how})


@torch.no_grad()
def noise_interpolation(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Samples from interpolations of two noises with one class, along a straight line and along a great circle, with Euler's method on the
    run's time grid, at its largest number of steps and largest guidance.

    ``pictures.npy`` [P, 2, S, 3, H, W]: for each pair of noises and each of the two ``ways`` (lines), the samples at the ``shares``.
    """
    part = slice_["sampling"]
    sampling = protocol_of({**part, "sampler": "euler", "steps": max(part["steps"]), "guidance": max(part["guidance"])}, inputs)
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
    model, classes = open_transformer(inputs["diffusion"], runtime)
    shape = (model.channels, model.grid, model.grid)
    ends = draws.normal(draws.stream(0, "noise-interpolation/noise"), torch.arange(2 * NOISE_PAIRS, device=runtime.torch_device), shape)
    labels = [pair * len(classes) // NOISE_PAIRS for pair in range(NOISE_PAIRS)]
    velocities, times, rows, norms = _velocities(inputs, runtime), shifted_times(sampling.steps, sampling.shift), [], []
    for pair, label in enumerate(labels):
        velocity = velocities(torch.full((len(SHARES),), label, device=runtime.torch_device), sampling)
        for way in WAYS.values():
            noise = torch.stack([way(ends[2 * pair], ends[2 * pair + 1], share) for share in SHARES])
            norms.append((noise.flatten(1).norm(dim=1) / noise[0].numel() ** 0.5).tolist())
            rows.append(_decoded(euler(velocity, noise, times), tokenizer, stats))
    about = {
        "images": [], "labels": labels, "names": [classes[label] for label in labels], "ways": list(WAYS), "shares": SHARES, "norms": norms,
        "steps": sampling.steps, "guidance": sampling.guidance,
    }  # fmt: skip
    pictures = torch.stack(rows)
    _write(out, pictures.unflatten(0, (NOISE_PAIRS, len(WAYS))), about)
    return {"images_seen": len(rows) * len(SHARES)}


def _velocities(inputs: dict[str, Path], runtime: Runtime) -> Callable[[Tensor, SamplingProtocol], Field]:
    """(labels [B], settings) -> the guided velocity of the trained transformer (of any objective), zero in the first
    ``sampling.zero_init`` steps. Opens the transformer once."""
    model: Any = as_velocity(open_transformer(inputs["diffusion"], runtime)[0])

    def velocity(labels: Tensor, sampling: SamplingProtocol) -> Field:
        weak = as_velocity(open_weak(inputs["diffusion"], runtime)) if sampling.against == "weak" else None
        field = guided(model, labels, sampling, null=model.classes, weak=weak)
        return lambda x, t, step: torch.zeros_like(x) if step < sampling.zero_init else field(x, t, step)

    return velocity


def _decoded(latents_: Tensor, tokenizer: Tokenizer | Codec, stats: LatentStats) -> Tensor:
    """Decodes standardised latents [B, C, h, w] to pictures uint8 [B, 3, H, W] on the CPU."""
    return to_uint8(tokenizer.decode(stats.restore(latents_).float())).cpu()


def _picked(inputs: dict[str, Path], count: int) -> tuple[Images, Tensor, dict[str, Any]]:
    """The image store, ``count`` validation indices (of different classes as far as possible), and their description for JSON."""
    collection = open_images(inputs["images"])
    places = balanced(collection.val, len(collection.val))[0][:count]
    labels = torch.as_tensor(collection.val.labels)[places].tolist()
    return collection, places, {"images": places.tolist(), "labels": labels, "names": [collection.classes[label] for label in labels]}


def _opposite(label: int, classes: int) -> int:
    """The class that is half the number of classes away, cyclically."""
    return (label + classes // 2) % classes


def _write(out: Path, pictures: Tensor, about: dict[str, Any]) -> dict[str, Any]:
    np.save(out / "pictures.npy", pictures.numpy())
    write_atomic(out / "pictures.json", (json.dumps(about) + "\n").encode())
    return {"images_seen": len(about["images"])}
