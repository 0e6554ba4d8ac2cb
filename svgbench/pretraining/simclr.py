"""SimCLR (arXiv 2002.05709): a judge of drawn images that has seen no labels learns to find the other view of an image among a batch.

Views are crops with changed brightness and contrast. Hue does not change, so that the judge sees colour, which the encoders for ``scenes``
lose.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from svgbench.machine.order import Batch
from svgbench.machine.training import adam
from svgbench.nets import draws
from svgbench.nets.classifier import SELF_TAUGHT, Trunk
from svgbench.pretraining.pictures import OnDevice
from svgbench.pretraining.shipped import Job, Shipped
from svgbench.pretraining.views import view

TEMPERATURE = 0.2
AREA = (0.3, 1.0)
LIGHT = 0.4


class Contrasting(OnDevice):
    """A training task: lightly's NT-Xent loss on a projection of the features. It compares the images of a batch, which is never split."""

    averaged = "trunk"

    def __init__(self, trunk: Trunk, job: Job, stream: int) -> None:
        from lightly.loss import NTXentLoss

        self.trunk, self.pictures, self.stream, self.loss = trunk, job.pictures, stream, NTXentLoss(temperature=TEMPERATURE)
        self.projector = nn.Sequential(nn.Linear(trunk.dim, trunk.dim), nn.ReLU(), nn.Linear(trunk.dim, 64)).to(job.runtime.torch_device)
        self.modules = {"trunk": trunk, "projector": self.projector}
        self.optimisers = {"trunk": adam([*trunk.parameters(), *self.projector.parameters()], job.training.optimiser)}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update; returns the loss."""
        images, size = self.pictures.floats(batch.indices), self.pictures.side
        streams = [draws.stream(self.stream, f"view/{number}") for number in range(2)]
        views = [view(images, batch.positions, stream=stream, size=size, area=AREA, light=LIGHT) for stream in streams]
        loss = self.loss(*self.projector(self.trunk.features(torch.cat(views))).chunk(2))
        loss.backward()
        apply("trunk")
        return {"contrast": loss.detach()}


def extractor(job: Job) -> Shipped:
    """The feature extractor of drawn images that has seen no labels."""
    trunk = SELF_TAUGHT[job.card]().to(job.runtime.torch_device)
    return Shipped(Contrasting(trunk, job, draws.stream(job.seed, job.card)), trunk, averaged=True)
