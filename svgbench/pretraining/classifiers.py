"""ShapesCNN and ShapesVGG, trained with supervision to predict the class and the words of the caption."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.config.networks import Training
from svgbench.machine.order import Batch
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import adam
from svgbench.nets.classifier import ShapesCNN, ShapesVGG
from svgbench.pretraining.pictures import CLASSES, OnDevice, Pictures, vocabulary
from svgbench.pretraining.shipped import Shipped

WORDS_WEIGHT = 4.0
"""Weight of the words' mean binary cross-entropy relative to the class's cross-entropy; at the start both are then equally large."""


class ClassAndWordTraining(OnDevice):
    """A training task with the class's cross-entropy and the binary cross-entropy of the caption's words."""

    def __init__(self, network: nn.Module, pictures: Pictures, training: Training) -> None:
        self.network, self.pictures = network, pictures
        self.modules = {"network": network}
        self.averaged = "network"
        self.optimisers = {"network": adam(network.parameters(), training.optimiser)}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update; returns both losses, averaged over the batch's images."""
        outputs = self.network(self.pictures.floats(batch.indices))
        labels, words = self.pictures.labels[batch.indices], self.pictures.words(batch.indices)
        class_loss = F.cross_entropy(outputs.logits, labels, reduction="sum") / batch.size
        word_loss = F.binary_cross_entropy_with_logits(outputs.words, words, reduction="sum") / (batch.size * words.shape[1])
        (class_loss + WORDS_WEIGHT * word_loss).backward()
        apply("network")
        return {"class": class_loss.detach(), "words": word_loss.detach()}


def shapes_cnn(pictures: Pictures, training: Training, runtime: Runtime) -> Shipped:
    """The feature extractor ``shapes-cnn``."""
    network = ShapesCNN(classes=CLASSES, words=len(vocabulary())).to(runtime.torch_device)
    return Shipped(ClassAndWordTraining(network, pictures, training), network, averaged=True)


def shapes_vgg(pictures: Pictures, training: Training, runtime: Runtime) -> Shipped:
    """The network of the perceptual distance, ``shapes-vgg``."""
    network = ShapesVGG(classes=CLASSES, words=len(vocabulary())).to(runtime.torch_device)
    return Shipped(ClassAndWordTraining(network, pictures, training), network, averaged=True)
