"""Checks that an encoder meets the benchmark's requirements; for authors of cards and backends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from svgbench.backends.open import FrozenEncoder
from svgbench.errors import BadConfig, BadInput


class Finding(NamedTuple):
    """The result of one check."""

    name: str
    ok: bool
    figure: str
    """The measured value, for the table."""


@torch.no_grad()
def examine(encoder: FrozenEncoder, seconds: float = 2.0) -> list[Finding]:
    """Runs every check on random images of the card's size; a check that raises counts as failed. If all pass, the speed is measured for
    about ``seconds``."""
    device = next(encoder.buffers()).device
    side = encoder.card.pixels.size
    images = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    findings = []
    for check in (_shape, _stride, _finite, _determinism, _batch, _pixels, _frozen, _gradient, _codec):
        try:
            findings += list(check(encoder, images))
        except Exception as error:  # a third-party backend may raise anything, and the table must still be printed
            findings.append(Finding(check.__name__.strip("_"), False, f"{type(error).__name__}: {str(error)[:160]}"))
    if all(finding.ok for finding in findings):
        findings.append(_speed(encoder, images, seconds))
    return findings


def _shape(encoder: FrozenEncoder, images: Tensor) -> Iterator[Finding]:
    grid = images.shape[-1] // encoder.stride
    expected, actual = (len(images), encoder.channels, grid, grid), tuple(encoder.encode(images).shape)
    yield Finding("shape", actual == expected, f"{list(actual)}" + ("" if actual == expected else f", the card says {list(expected)}"))
    actual = tuple(encoder.encode(images[:0]).shape)
    yield Finding("empty batch", actual == (0, *expected[1:]), f"{list(actual)}")


def _stride(encoder: FrozenEncoder, images: Tensor) -> Iterator[Finding]:
    side, stride = images.shape[-1], encoder.stride
    step = stride * encoder.scale.denominator  # sides that both the stride and the scale divide
    if encoder.network.side is None:
        larger = torch.nn.functional.pad(images[:1], (0, step, 0, 0), mode="replicate")
        actual = tuple(encoder.encode(larger).shape[2:])
        expected = (side // stride, (side + step) // stride)
        yield Finding("stride", actual == expected, f"{side} x {side + step} px give {actual[0]} x {actual[1]}")
    if stride > 1:
        try:
            encoder.encode(torch.zeros(1, 3, side + 1, side + 1, device=images.device))
        except (BadConfig, BadInput):
            yield Finding("odd sizes", True, f"{side + 1} px are refused")
        else:
            yield Finding("odd sizes", False, f"{side + 1} px are taken, which {stride} px do not divide")


def _finite(encoder: FrozenEncoder, images: Tensor) -> Iterator[Finding]:
    latents = encoder.encode(images)
    valid = latents.dtype == torch.float32 and bool(latents.isfinite().all())
    yield Finding("finite float32", valid, f"{latents.dtype}, mean {latents.mean():.3g}, std {latents.std():.3g}".removeprefix("torch."))


def _determinism(encoder: FrozenEncoder, images: Tensor) -> Iterator[Finding]:
    yield _equal("determinism", encoder.encode(images), encoder.encode(images))


def _batch(encoder: FrozenEncoder, images: Tensor) -> Iterator[Finding]:
    together = encoder.encode(images)
    alone = torch.cat([encoder.encode(image[None]) for image in images])
    reverse = encoder.encode(images.flip(0)).flip(0)
    brighter = encoder.encode(torch.cat([images[:1], images[1:] * 0.1 + 0.9]))[:1]
    differences = [(one - other).abs().max().item() for one, other in ((alone, together), (reverse, together), (brighter, together[:1]))]
    yield Finding(
        "batch independence", max(differences) == 0, f"largest difference when alone, reversed or in another batch {max(differences):.1e}"
    )


def _pixels(encoder: FrozenEncoder, images: Tensor) -> Iterator[Finding]:
    levels = torch.stack([torch.full_like(images[0], value) for value in (0.0, 0.25, 0.5, 0.75, 1.0)])
    latents = encoder.encode(levels)
    smallest = min((latents[i] - latents[i + 1]).abs().max().item() for i in range(len(levels) - 1))
    distinct = bool(latents.isfinite().all()) and smallest > 0
    yield Finding("pixel range", distinct, f"greys 0 to 1 differ by at least {smallest:.2g}")
    mean, std = encoder.network.mean, encoder.network.std
    if mean is not None and std is not None:
        ours = (encoder.mean.flatten().tolist(), encoder.std.flatten().tolist())
        same = all(
            abs(a - b) < 1e-4 for of_card, stated in zip(ours, (mean, std), strict=True) for a, b in zip(of_card, stated, strict=True)
        )
        yield Finding("pixel statistics", same, "those the library states" if same else f"the library states {mean} and {std}")
    try:
        encoder.encode((images * 255).to(torch.uint8))
    except BadInput:
        yield Finding("bytes", True, "uint8 images are refused")
    else:
        yield Finding("bytes", False, "uint8 images are taken for floats in [0, 1]")


def _frozen(encoder: FrozenEncoder, images: Tensor) -> Iterator[Finding]:
    before = encoder.encode(images)
    encoder.train()
    free = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    modes = sum(module.training for module in encoder.modules())
    yield Finding("frozen", free == 0 and modes == 0, f"{free} trainable numbers, {modes} modules in training")
    yield _equal("train() changes nothing", encoder.encode(images), before)


def _gradient(encoder: FrozenEncoder, images: Tensor) -> Iterator[Finding]:
    with torch.enable_grad():
        latents = encoder.encode(images[:1].clone().requires_grad_(True))
    carries = latents.requires_grad
    yield Finding("no gradient", not carries, "latents carry a gradient" if carries else "latents carry none")


def _codec(encoder: FrozenEncoder, images: Tensor) -> Iterator[Finding]:
    if encoder.card.kind != "codec":
        return
    latents = encoder.encode(images)
    decoded = encoder.decode(latents)
    valid = decoded.shape == images.shape and decoded.min().item() >= 0 and decoded.max().item() <= 1
    yield Finding("decoded images", valid, f"{list(decoded.shape)} in [{decoded.min():.2f}, {decoded.max():.2f}]")
    yield _equal("decoding alone", encoder.decode(latents[:1]), decoded[:1])


def _equal(name: str, one: Tensor, other: Tensor) -> Finding:
    difference = (one - other).abs().max().item()
    return Finding(name, torch.equal(one, other), f"largest difference {difference:.1e}")


def _speed(encoder: FrozenEncoder, images: Tensor, seconds: float) -> Finding:
    """Images per second after a warm-up; informative only."""
    batch = images.repeat(8, 1, 1, 1) if images.device.type != "cpu" else images
    encoder.encode(batch)
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < seconds:
        encoder.encode(batch)
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        count += len(batch)
    rate = count / (time.perf_counter() - start)
    return Finding("speed", True, f"{rate:.3g} images/s on {images.device.type}, {torch.get_num_threads()} threads")
