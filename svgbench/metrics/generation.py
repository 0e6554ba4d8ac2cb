"""Scores of generated images: Frechet distance, Inception score, kernel distance, precision and recall, from one pass over features.

Protocol: all samples, against the training images that the name carries. gFID: ``frechet``. IS (arXiv 1606.03498): exp of the mean
KL(p(y|x) || p(y)) over ten shuffled tenths, as torch-fidelity cuts them; no reference. KID (arXiv 1801.01401): unbiased squared MMD
under the kernel (x.y / D + 1)^3 over all features (at most 5,000 of each set, a fixed choice) instead of the usual mean over random
subsets: the same expectation, no random number, less spread. Precision and recall (arXiv 1904.06991): share of samples inside the
k-nearest-neighbour balls of the reference and the other way round, with as many reference images as samples (a fixed choice), because
the balls shrink with their number. Intervals draw samples again and keep the reference, but recall's, which draws reference images.
What they cannot tell: none sees a memorised sample, IS sees no reference, a few outliers with wide balls buy much recall (one class of
ten of the embedded images: 0.4), and recall's interval leaves out the spread of the samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgbench.config.records import Protocol, SamplingProtocol, Score
from svgbench.errors import BadData
from svgbench.metrics.features import Features
from svgbench.metrics.frechet import Gaussian, frechet_distance, frechet_replicates
from svgbench.metrics.protocol import ROUNDING, ImageGroup, Judge, protocol
from svgbench.metrics.resampling import Resampling, chosen

SPLITS = 10
KERNEL_IMAGES = 5_000


def inception_score(logits: Tensor, splits: int = SPLITS) -> float:
    """exp of the mean KL divergence of class probabilities from their marginal, the mean over shuffled splits of logits [N, K]."""
    if len(logits) < splits:
        raise BadData(f"an Inception score over {splits} splits needs {splits} images or more, there are {len(logits)}.")
    logits = logits.double().cpu()
    order = np.random.RandomState(2020).permutation(len(logits))
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    parts = [logits[order[a:b]] for a, b in itertools.pairwise(bounds)]
    return float(np.mean([_divergence(part, torch.ones(1, len(part), dtype=torch.float64)).exp().item() for part in parts]))


def inception_replicates(logits: Tensor, counts: Tensor) -> Tensor:
    """exp of the mean KL over all of logits [N, K] in each resample: [R] of counts [R, N]."""
    return _divergence(logits.double(), counts.to(logits.device)).exp()


def _divergence(logits: Tensor, counts: Tensor) -> Tensor:
    """Mean KL(p(y|x) || p(y)) [R] where image i occurs counts[r, i] times."""
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    share = counts / counts.sum(1, keepdim=True)
    return share @ (p * log_p).sum(1) - torch.special.xlogy(marginal := share @ p, marginal).sum(1)


def kernel_distance(samples: Tensor, reference: Tensor, counts: Tensor | None = None, block: int = 256) -> tuple[float, Tensor]:
    """Unbiased squared MMD of features [N, D] and [M, D] under (x.y / D + 1)^3; the same with resampled samples [R] of counts [R, N]."""
    x, y = samples.double(), reference.double()
    n, m, width = len(x), len(y), x.shape[1]
    if min(n, m) < 2:
        raise BadData(f"a kernel distance needs two images of each set, there are {n} and {m}.")
    weights = torch.ones(1, n, dtype=torch.float64, device=x.device)
    if counts is not None:
        weights = torch.cat([weights, counts.to(x.device)])
    inner, cross, own = torch.zeros(len(weights), dtype=torch.float64, device=x.device), x.new_zeros(n), 0.0
    diagonal = _kernel_of((x * x).sum(1) / width)
    for start in range(0, n, block):
        rows = slice(start, start + block)
        inner += (weights[:, rows] @ _kernel_of(x[rows] @ x.T / width) * weights).sum(1)
        cross[rows] = _kernel_of(x[rows] @ y.T / width).mean(1)
    for start in range(0, m, block):
        own += _kernel_of(y[start : start + block] @ y.T / width).sum().item()
    own -= _kernel_of((y * y).sum(1) / width).sum().item()
    distances = (inner - weights @ diagonal) / (n * (n - 1)) + own / (m * (m - 1)) - 2 * (weights @ cross) / n
    return distances[0].item(), distances[1:]


def _kernel_of(product: Tensor) -> Tensor:
    """(a + 1)^3 of the scaled inner products, in their place."""
    return product.add_(1).pow_(3)


def inside(points: Tensor, centres: Tensor, neighbours: int, block: int = 2048) -> Tensor:
    """Whether each point [N, D] lies in the ball of some centre [M, D] that reaches to its k-th nearest other centre: bool [N]."""
    if len(centres) <= neighbours:
        raise BadData(f"balls to the {neighbours}th neighbour need more than {neighbours} images, there are {len(centres)}.")
    radii = torch.cat([torch.cdist(part, centres).kthvalue(neighbours + 1).values for part in centres.split(block)])
    return torch.cat([(torch.cdist(part, centres) <= radii).any(1) for part in points.split(block)])


def generation_scores(
    samples: Features,
    reference: Features | Gaussian,
    *,
    judge: Judge,
    reference_images: ImageGroup,
    labels: str = "balanced",
    neighbours: int = 3,
    resampling: Resampling = Resampling(),
    sampling: SamplingProtocol | None = None,
) -> list[Score]:
    """gfid, is, kid, precision, recall; no is without logits, and only gfid and is against bare statistics (an ADM ``.npz``).

    ``labels``: how the samples' labels were drawn, balanced or random (``given`` where nobody knows); ``sampling``: how they were drawn.
    """
    if len(samples.kept) != samples.count:
        raise BadData(f"only {len(samples.kept)} of {samples.count} samples kept their features; keep all of them.")
    images = ImageGroup(name=labels, count=samples.count)
    counts = resampling.counts(samples.count, samples.kept.device)
    stated = resampling.stated("samples")

    def score(metric: str, value: float, replicates: Tensor | None, name: Protocol, limits: dict[str, float], **more: Any) -> Score:
        low, high = resampling.interval(value, replicates, **limits)
        return Score(metric=metric, value=value, low=low, high=high, count=samples.count, protocol=name, detail={**stated, **more})

    def named(measure: str, *details: str, against: ImageGroup | None = reference_images) -> Protocol:
        return protocol(
            measure, judge=judge, reference=against, images=images, rounding=ROUNDING, details=details, sampling=sampling
        )

    gaussian = reference.moments.gaussian() if isinstance(reference, Features) else reference
    distance = frechet_distance(samples.moments.gaussian(), gaussian)
    singular = {"singular": True} if samples.count <= samples.kept.shape[1] else {}
    scores = [score("gfid", distance, frechet_replicates(samples.kept, gaussian, counts), named("fd"), {"floor": 0.0}, **singular)]
    if samples.logits is not None:
        name, replicates = named("is", f"{SPLITS}splits", against=None), inception_replicates(samples.logits, counts)
        scores.append(score("is", inception_score(samples.logits), replicates, name, {"floor": 1.0}))
    if isinstance(reference, Features):
        mine, theirs = (kept[chosen(KERNEL_IMAGES, len(kept)).to(kept.device)] for kept in (samples.kept, reference.kept))
        value, replicates = kernel_distance(mine, theirs, resampling.counts(len(mine), mine.device))
        name = named("kd", f"poly3-{len(mine)}x{len(theirs)}")
        scores.append(score("kid", value, replicates, name, {}))
        scores += _precision_recall(samples.kept, reference.kept, neighbours, resampling, named, score)
    return scores


def _precision_recall(
    samples: Tensor, reference: Tensor, neighbours: int, resampling: Resampling, named: Callable[..., Protocol], score: Callable[..., Score]
) -> list[Score]:
    """Precision drawn again over samples, recall over reference images."""
    real = reference[chosen(len(samples), len(reference)).to(reference.device)]
    name, unit = named("pr", f"k{neighbours}-{len(samples)}x{len(real)}"), {"floor": 0.0, "ceiling": 1.0}
    found, covered = (inside(a, b, neighbours).double() for a, b in ((samples, real), (real, samples)))
    replicates = [resampling.counts(len(hits), hits.device) @ hits / len(hits) for hits in (found, covered)]
    return [
        score("precision", found.mean().item(), replicates[0], name, unit),
        score("recall", covered.mean().item(), replicates[1], name, unit, **resampling.stated("reference images")),
    ]
