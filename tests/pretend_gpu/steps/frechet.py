"""How many eigenvalue problems a pass of generation scores solves, by size (on the CPU, with small features)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from common import arguments, leave, say

from svgbench.metrics import generation
from svgbench.metrics.features import ImageFeatures
from svgbench.metrics.frechet import Moments
from svgbench.metrics.inception_score import ClassSums
from svgbench.metrics.protocol import ImageGroup, Judge
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import Resampling

args = arguments(__doc__, images=400, width=64)
solved: Counter[str] = Counter()


def counted(name: str) -> None:
    """Counts calls of a function of torch.linalg."""
    real = getattr(torch.linalg, name)

    def call(matrix: torch.Tensor, *rest: Any, **more: Any) -> Any:
        solved[f"{name} of {matrix.shape[-1]}"] += 1
        return real(matrix, *rest, **more)

    setattr(torch.linalg, name, call)


def features(seed: int) -> ImageFeatures:
    """Random features of a set."""
    random = torch.Generator().manual_seed(seed)
    kept, spatial, logits = (torch.randn(args.images, width, generator=random) for width in (args.width, 48, 10))
    groups = tuple(Moments.empty(48).add(spatial[start::10]) for start in range(10))
    classes = ClassSums.empty(args.images, 10).add(logits, 0)
    return ImageFeatures(
        count=args.images, moments=Moments.empty(args.width).add(kept), kept=kept, logits=logits, classes=classes, spatial=groups
    )  # fmt: skip


for name in ("eigh", "eigvalsh"):
    counted(name)
group = ImageGroup(name="train", count=args.images, digest="x")
judge = Judge(name="inception", digest="a" * 64, resize="r")
resampling = Resampling()
scores = generation.generation_scores(features(0), Reference.of(features(1), group), judge=judge, resampling=resampling)
say(dict(solved), [score.metric for score in scores], f"{resampling.resamples} resamples")
leave()
