"""The measurements in the notes of the tiny cards. They use the benchmark's images, on which no tiny network was trained.

Protocol: the recipe's drawn images of seed 0, 10,000 for training and 2,000 for validation. Encoders: top-1 in percent of the tiny preset's
linear probe (``metrics.probe``) on features averaged over positions, for the trained and for random weights (seed 0); for ``scenes`` also
``linear_psnr``, with 4,500 training images. Codecs: mean PSNR in
dB of the validation images and their reconstructions from the posterior's mean, rounded to uint8. Classifiers: top-1 in percent on the
validation images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from svgbench.backends.open import open_encoder
from svgbench.config.build import build
from svgbench.images.sources import drawer
from svgbench.machine.runtime import Runtime
from svgbench.metrics.judges import weights_file
from svgbench.metrics.pixels import psnr
from svgbench.metrics.probe import linear_probe, pool
from svgbench.metrics.samples import to_uint8
from svgbench.nets.classifier import EXTRACTORS, PERCEPTUAL, SELF_TAUGHT, Trunk
from svgbench.pretraining.families import card_of
from svgbench.pretraining.linear import linear_psnr
from svgbench.pretraining.recipes import RECIPES, Recipe

CLASSIFIERS = {**EXTRACTORS, **PERCEPTUAL}
BATCH = 500
RIDGE = 4_500
"""Training images of the ridge regression."""


class LabelledImages(NamedTuple):
    """Images of the benchmark."""

    images: Tensor
    """uint8 [N, 3, S, S]"""
    labels: Tensor
    """int64 [N]"""
    classes: int

    @classmethod
    def of(cls, recipe: Recipe, count: int, split: str) -> LabelledImages:
        """The first ``count`` images of a split of the recipe's source."""
        world = drawer(recipe.source)
        drawn = world.draw(range(count), seed=0, resolution=recipe.resolution, split=split)
        return cls(torch.from_numpy(drawn.images), torch.from_numpy(drawn.labels), len(world.CLASSES))

    def batches(self, runtime: Runtime) -> list[Tensor]:
        """All images in [0, 1] on the device, in order."""
        return [part.to(runtime.torch_device).float() / 255 for part in self.images.split(BATCH)]


@torch.no_grad()
def figures(
    name: str,
    runtime: Runtime,
    *,
    weights: Path | None = None,
    train: int = 10_000,
    val: int = 2_000,
    untrained: bool = True,
    ridge: bool = True,
) -> dict[str, float]:
    """``probe_top1`` and ``probe_top1_random`` of an encoder or of a judge trained without labels, ``psnr`` of a codec, or ``top1`` of a
    classifier, for a recipe's name.

    ``weights``: a file to use instead of the shipped one; ``train``, ``val``: numbers of images, by default those of the notes;
    ``untrained``, ``ridge``: whether random weights are measured too, and ridge regression.
    """
    recipe = RECIPES[name]
    val_images = LabelledImages.of(recipe, val, "val")
    if name in CLASSIFIERS:
        state = load_file(weights or weights_file("features" if name in EXTRACTORS else "pairs", name))
        network = CLASSIFIERS[name].filled(state).to(runtime.torch_device)
        predicted = torch.cat([network(batch).logits.argmax(1).cpu() for batch in val_images.batches(runtime)])
        return {"top1": 100 * (predicted == val_images.labels).double().mean().item()}
    if name in SELF_TAUGHT:
        networks = _self_taught(name, weights)
    else:
        card = card_of(name)
        encoder = open_encoder(card, weights=weights, device=runtime.torch_device)
        if card.kind == "codec":
            decoded = torch.cat([to_uint8(encoder.decode(encoder.encode(images))).cpu() for images in val_images.batches(runtime)])
            return {"psnr": psnr(decoded, val_images.images).mean().item()}
        networks = encoder.encode, open_encoder(card, device=runtime.torch_device, random_weights_seed=0).encode
    train_images = LabelledImages.of(recipe, train, "train")
    found = {}
    for suffix, encode in zip(("", "_random"), networks[: 2 if untrained else 1], strict=False):
        x, val_x = (torch.cat([encode(batch).cpu() for batch in part.batches(runtime)]) for part in (train_images, val_images))
        found[f"probe_top1{suffix}"] = _probed(x, train_images, val_x, val_images)
        if ridge and recipe.source == "scenes" and name not in SELF_TAUGHT:
            psnr_ = linear_psnr(x[:RIDGE], train_images.images[:RIDGE], val_x, val_images.images, stride=card.stride)
            found |= {f"ridge_psnr{suffix}": psnr_.alone, f"ridge_psnr_8_more{suffix}": psnr_.more}
    return found


def _self_taught(name: str, weights: Path | None) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Features [B, 128, 1, 1] of a judge trained without labels, on the CPU: with its weights, and with random ones (seed 0)."""
    kind = SELF_TAUGHT[name]
    trained = kind.filled(load_file(weights or weights_file("features", name)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = kind().eval()

    def of(network: Trunk) -> Callable[[Tensor], Tensor]:
        return lambda images: network.features(images.cpu())[:, :, None, None]

    return of(trained), of(untrained)


def _probed(x: Tensor, train: LabelledImages, val_x: Tensor, val: LabelledImages) -> float:
    """Validation accuracy in percent of the tiny preset's linear probe."""
    settings = build({}, preset="tiny").scores.probe
    result = linear_probe(pool(x), train.labels, pool(val_x), val.labels, settings, classes=train.classes)
    return 100 * result.top1.double().mean().item()
