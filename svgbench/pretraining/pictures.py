"""The training data of the shipped networks: drawn images, labels and captions that the benchmark does not use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.images.sources import drawer
from svgbench.machine.order import Batch


@dataclass(frozen=True)
class Pictures:
    """Images uint8 [N, 3, S, S], labels int64 [N], and captions as word indices int64 [N, words per caption], on one device."""

    images: Tensor
    labels: Tensor
    captions: Tensor
    classes: int
    """Number of classes."""
    words: tuple[str, ...]
    """Every word that a caption can contain."""

    @classmethod
    def drawn(
        cls,
        count: int,
        *,
        seed: int,
        source: str = "shapes",
        resolution: int = 32,
        split: str = "train",
        device: torch.device | str = "cpu",
    ) -> Pictures:
        """The first ``count`` images of a seed. All captions of a source have the same number of words, so they need no padding."""
        world = drawer(source)
        drawn = world.draw(np.arange(count), seed=seed, resolution=resolution, split=split, captions=True)
        numbers = {word: number for number, word in enumerate(world.WORDS)}
        captions = torch.tensor([[numbers[word] for word in caption.split()] for caption in drawn.captions or ()])
        images, labels = torch.from_numpy(drawn.images), torch.from_numpy(drawn.labels)
        return cls(images.to(device), labels.to(device), captions.to(device), len(world.CLASSES), world.WORDS)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return self.images.shape[-1]

    def floats(self, indices: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1]."""
        return self.images[indices.to(self.images.device)].float().div_(255)

    def said(self, indices: Tensor) -> Tensor:
        """1.0 for each word that a caption contains, else 0.0: float [B, words]."""
        captions = self.captions[indices.to(self.captions.device)]
        return torch.zeros(len(captions), len(self.words), device=captions.device).scatter_(1, captions, 1.0)


class OnDevice:
    """A task whose pictures are on its device already."""

    def load(self, batch: Batch) -> Mapping[str, Any]:
        """Nothing."""
        return {}
