"""FDr6: the mean Frechet ratio over six feature spaces (Yang et al. 2026, arXiv 2604.28190).

In each space the distance of the samples is divided by that of ImageNet's validation images (``validation_fd`` in ``extractors.yaml``, the
authors' values), so that real images have a mean of 1 and no space dominates. Protocol: six Frechet distances to ImageNet's training images
at 256 px with the authors' extractors (Inception, and ``timm_extractor``) and 50,000 samples. Limit: with another reference or another
number of samples the ratios are of different things; the protocol shows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from svgbench.config.records import Score, digest
from svgbench.config.scoring import SPACES
from svgbench.metrics.generation import Comparison
from svgbench.metrics.judges import row
from svgbench.metrics.protocol import Judge


def fdr6(comparisons: Sequence[Comparison]) -> Score:
    """The mean ratio of six comparisons of the same samples, in the order of ``SPACES``. The interval comes from the same resamples of the
    samples in all spaces."""
    ratios, replicates = [], []
    for name, one in zip(SPACES, comparisons, strict=True):
        assert one.judge.name == name
        divisor = row("features", name)["validation_fd"]
        value, each = one.frechet
        ratios.append(value / divisor)
        replicates.append(each.double().cpu() / divisor)
    value, first = sum(ratios) / len(ratios), comparisons[0]
    groups = [one.reference.group for one in comparisons]
    together = replace(
        first,
        judge=Judge(name="fdr6", digest=digest([one.judge.digest for one in comparisons])),
        reference=replace(first.reference, group=replace(groups[0], digest=digest([group.digest for group in groups]))),
    )
    bounds = together.interval(value, torch.stack(replicates).mean(0), floor=0.0)
    note = {"ratios": {name: round(ratio, 6) for name, ratio in zip(SPACES, ratios, strict=True)}}
    return together.score("fdr6", value, bounds, together.name("fd-ratio"), **together.interval_note(), **note)
