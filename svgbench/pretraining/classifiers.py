"""The judges of drawn images, trained with supervision to predict the class and the words of the caption."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.machine.order import Batch
from svgbench.machine.training import adam
from svgbench.nets.classifier import EXTRACTORS, PERCEPTUAL
from svgbench.pretraining.pictures import OnDevice
from svgbench.pretraining.shipped import Job, Shipped

WORDS_WEIGHT = 4.0
"""Weight of the words' mean binary cross-entropy relative to the class's cross-entropy; at the start both are then equally large."""


class ClassAndWordTraining(OnDevice):
    """A training task with the class's cross-entropy and the binary cross-entropy of the caption's words."""

    def __init__(self, network: nn.Module, job: Job) -> None:
        self.network, self.pictures = network.to(job.runtime.torch_device), job.pictures
        self.modules = {"network": network}
        self.averaged = "network"
        self.optimisers = {"network": adam(network.parameters(), job.training.optimiser)}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update; returns both losses, averaged over the batch's images."""
        outputs = self.network(self.pictures.floats(batch.indices))
        labels, words = self.pictures.labels[batch.indices], self.pictures.said(batch.indices)
        class_loss = F.cross_entropy(outputs.logits, labels, reduction="sum") / batch.size
        word_loss = F.binary_cross_entropy_with_logits(outputs.words, words, reduction="sum") / (batch.size * words.shape[1])
        (class_loss + WORDS_WEIGHT * word_loss).backward()
        apply("network")
        return {"class": class_loss.detach(), "words": word_loss.detach()}


def extractor(job: Job) -> Shipped:
    """The feature extractor of drawn images."""
    network = EXTRACTORS[job.card](classes=job.pictures.classes, words=len(job.pictures.words))
    return Shipped(ClassAndWordTraining(network, job), network, averaged=True)


def perceptual(job: Job) -> Shipped:
    """The network of the perceptual distance of drawn images."""
    network = PERCEPTUAL[job.card](classes=job.pictures.classes, words=len(job.pictures.words))
    return Shipped(ClassAndWordTraining(network, job), network, averaged=True)
