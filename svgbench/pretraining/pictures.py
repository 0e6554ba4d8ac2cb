"""The training data of the tiny networks: embedded images, labels and captions of seeds that the benchmark does not use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.images import shapes
from svgbench.machine.order import Batch

RESOLUTION = 32
"""Side of the images the tiny networks are trained on."""
CLASSES = len(shapes.CLASSES)


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption can contain, in alphabetical order."""
    names = {kind.name for kind in shapes.KINDS}
    places = {"left", "right", "middle", "top", "bottom", "centre"}
    return tuple(sorted({"a", "and", "at", "the", "on", "small", "medium", "large", *names, *places, *shapes.TEXTURES, *shapes.COLOURS}))


@dataclass(frozen=True)
class Pictures:
    """Images uint8 [N, 3, 32, 32], labels int64 [N], and captions as word indices int64 [N, words per caption], on one device."""

    images: Tensor
    labels: Tensor
    captions: Tensor

    @classmethod
    def drawn(cls, count: int, *, seed: int, split: str = "train", device: torch.device | str = "cpu") -> Pictures:
        """The first ``count`` images of a seed. All captions have the same number of words, so they need no padding."""
        drawn = shapes.draw(np.arange(count), seed=seed, resolution=RESOLUTION, split=split, captions=True)
        numbers = {word: number for number, word in enumerate(vocabulary())}
        captions = [[numbers[word] for word in caption.split()] for caption in drawn.captions or ()]
        images, labels = torch.from_numpy(drawn.images), torch.from_numpy(drawn.labels)
        return cls(images.to(device), labels.to(device), torch.tensor(captions).to(device))

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, indices: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] in [0, 1]."""
        return self.images[indices.to(self.images.device)].float().div_(255)

    def words(self, indices: Tensor) -> Tensor:
        """1.0 for each word of the vocabulary that a caption contains, else 0.0: float [B, words]."""
        captions = self.captions[indices.to(self.captions.device)]
        return torch.zeros(len(captions), len(vocabulary()), device=captions.device).scatter_(1, captions, 1.0)


class OnDevice:
    """A task whose pictures are on its device already."""

    def load(self, batch: Batch) -> Mapping[str, Any]:
        """Nothing."""
        return {}
