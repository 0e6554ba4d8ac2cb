"""The measurements in the notes of the tiny cards. They use the benchmark's images, on which no tiny network was trained.

Protocol: the drawn images of seed 0 at 32 px, 10,000 for training and 2,000 for validation. Encoders: top-1 in percent of the tiny preset's
linear probe (``metrics.probe``) on features averaged over positions, for the trained and for random weights (seed 0). Codecs: mean PSNR in
dB of the validation images and their reconstructions from the posterior's mean, rounded to uint8. Classifiers: top-1 in percent on the
validation images.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from svgbench.backends.open import FrozenEncoder, open_encoder
from svgbench.config.build import build
from svgbench.images import shapes
from svgbench.machine.runtime import Runtime
from svgbench.metrics.pixels import psnr
from svgbench.metrics.probe import linear_probe, pool
from svgbench.metrics.samples import to_uint8
from svgbench.nets.classifier import ShapesCNN, ShapesVGG
from svgbench.pretraining.families import card_of
from svgbench.pretraining.pictures import RESOLUTION
from svgbench.shelf import folder

CLASSIFIERS = {"shapes-cnn": ShapesCNN, "shapes-vgg": ShapesVGG}
BATCH = 500


class LabelledImages(NamedTuple):
    """Images of the benchmark."""

    images: Tensor
    """uint8 [N, 3, 32, 32]"""
    labels: Tensor
    """int64 [N]"""

    @classmethod
    def of(cls, count: int, split: str) -> LabelledImages:
        """The first ``count`` images of a split."""
        drawn = shapes.draw(range(count), seed=0, resolution=RESOLUTION, split=split)
        return cls(torch.from_numpy(drawn.images), torch.from_numpy(drawn.labels))

    def batches(self, runtime: Runtime) -> list[Tensor]:
        """All images in [0, 1] on the device, in order."""
        return [part.to(runtime.torch_device).float() / 255 for part in self.images.split(BATCH)]


@torch.no_grad()
def figures(name: str, runtime: Runtime, *, weights: Path | None = None, train: int = 10_000, val: int = 2_000) -> dict[str, float]:
    """``probe_top1`` and ``probe_top1_random`` of an encoder, ``psnr`` of a codec, or ``top1`` of a classifier, for a recipe's name.

    ``weights``: a file to use instead of the shipped one; ``train``, ``val``: numbers of images, by default those of the notes.
    """
    val_images = LabelledImages.of(val, "val")
    if name in CLASSIFIERS:
        state = load_file(weights or folder("encoders") / "tiny" / f"{name}.safetensors")
        network = CLASSIFIERS[name].filled(state).to(runtime.torch_device)
        predicted = torch.cat([network(batch).logits.argmax(1).cpu() for batch in val_images.batches(runtime)])
        return {"top1": 100 * (predicted == val_images.labels).double().mean().item()}
    card = card_of(name)
    encoder = open_encoder(card, weights=weights, device=runtime.torch_device)
    if card.kind == "codec":
        decoded = torch.cat([to_uint8(encoder.decode(encoder.encode(images))).cpu() for images in val_images.batches(runtime)])
        return {"psnr": psnr(decoded, val_images.images).mean().item()}
    untrained = open_encoder(card, device=runtime.torch_device, random_weights_seed=0)
    train_images = LabelledImages.of(train, "train")
    return {
        key: _probed(one, train_images, val_images, runtime) for key, one in (("probe_top1", encoder), ("probe_top1_random", untrained))
    }


def _probed(encoder: FrozenEncoder, train: LabelledImages, val: LabelledImages, runtime: Runtime) -> float:
    """Validation accuracy in percent of the tiny preset's linear probe."""
    x, val_x = (torch.cat([pool(encoder.encode(images)) for images in part.batches(runtime)]) for part in (train, val))
    settings = build({}, preset="tiny").scores.probe
    result = linear_probe(x, train.labels, val_x, val.labels, settings, classes=len(shapes.CLASSES))
    return 100 * result.top1.double().mean().item()
