"""Scores of generated images: Frechet distances, Inception score, kernel distance, precision and recall, from one pass over features.

Protocol: all samples are compared with the reference that the protocol names.

- gFID and sFID: see ``frechet``. gFID at infinitely many samples: see ``extrapolation``. IS: see ``inception_score``; it uses no reference.
- KID (arXiv 1801.01401): the unbiased squared MMD under the kernel (x.y / D + 1)^3, over at most 5,000 images of each set (a fixed choice).
  The usual mean over random subsets has the same expectation, but a larger variance, and needs random numbers.
- Precision and recall (arXiv 1904.06991): the share of samples inside the k-nearest-neighbour balls of the reference, and vice versa. Both
  sets have the same number of images (a fixed choice of the reference), because balls shrink as their number grows. If the reference has
  fewer images, all are used, and the protocol states both numbers: the images ``arr_0`` of an ADM ``.npz`` are 10,000, against 50,000
  samples, as in ADM's evaluator (openai/guided-diffusion, ``evaluations/evaluator.py``, with distances in float16; ours are in float32).

Features of at most 50,000 images per set are kept. Intervals resample the samples and keep the reference fixed; recall's interval resamples
the reference images. When only part of the features is kept, the spread is multiplied by sqrt(kept / all). sFID keeps no features: its
interval is a jackknife over ten random tenths of the samples.

Limits: no metric detects memorised samples; IS ignores the reference; a few outliers with large balls strongly increase recall (samples of
one class of ten of the drawn images: recall 0.4); recall's interval does not include the spread of the samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from svgbench.config.records import Protocol, SamplingProtocol, Score
from svgbench.errors import BadData
from svgbench.machine.runtime import Runtime
from svgbench.metrics.extrapolation import RESAMPLES, frechet_at_infinity, subset_sizes
from svgbench.metrics.features import ImageFeatures
from svgbench.metrics.frechet import frechet_distance, frechet_replicates, jackknife_error, united
from svgbench.metrics.inception_score import SPLITS, inception_replicates
from svgbench.metrics.protocol import ROUNDING, ImageGroup, Judge, protocol
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import Resampling, chosen

KERNEL_IMAGES = 5_000
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % quantile of Student's t by the number of groups of a jackknife."""


def kernel_distance(samples: Tensor, reference: Tensor, counts: Tensor | None = None, block: int = 256) -> tuple[float, Tensor]:
    """Unbiased squared MMD of features [N, D] and [M, D] under (x.y / D + 1)^3, and of resampled samples: [R] from counts [R, N]."""
    x, y = samples.double(), reference.double()
    n, m, width = len(x), len(y), x.shape[1]
    if min(n, m) < 2:
        raise BadData(f"a kernel distance needs two images of each set, there are {n} and {m}; give more.")
    weights = torch.ones(1, n, dtype=torch.float64, device=x.device)
    if counts is not None:
        weights = torch.cat([weights, counts.to(x.device)])
    inner, cross, reference_sum = torch.zeros(len(weights), dtype=torch.float64, device=x.device), x.new_zeros(n), 0.0
    diagonal = _kernel_of((x * x).sum(1) / width)
    for start in range(0, n, block):
        rows = slice(start, start + block)
        inner += (weights[:, rows] @ _kernel_of(x[rows] @ x.T / width) * weights).sum(1)
        cross[rows] = _kernel_of(x[rows] @ y.T / width).mean(1)
    for start in range(0, m, block):
        reference_sum += _kernel_of(y[start : start + block] @ y.T / width).sum().item()
    reference_sum -= _kernel_of((y * y).sum(1) / width).sum().item()
    distances = (inner - weights @ diagonal) / (n * (n - 1)) + reference_sum / (m * (m - 1)) - 2 * (weights @ cross) / n
    return distances[0].item(), distances[1:]


def _kernel_of(product: Tensor) -> Tensor:
    """(a + 1)^3 of the scaled inner products, in place."""
    return product.add_(1).pow_(3)


def inside(points: Tensor, centres: Tensor, neighbours: int, block: int = 2048) -> Tensor:
    """Whether each point [N, D] is inside the ball of at least one centre [M, D]; a ball's radius is the distance to the k-th nearest other
    centre. Returns bool [N]."""
    if len(centres) <= neighbours:
        raise BadData(
            f"precision and recall by neighbour {neighbours} need more than {neighbours} images, there are {len(centres)}; give more."
        )
    radii = torch.cat([torch.cdist(part, centres).kthvalue(neighbours + 1).values for part in centres.split(block)])
    return torch.cat([(torch.cdist(part, centres) <= radii).any(1) for part in points.split(block)])


def check_counts(samples: int, *, neighbours: int, reference: int | None = None, classes: bool = True) -> None:
    """Raises BadData for a set that is too small for a metric, before features are computed; ``classes``: whether IS will be computed."""
    least = {"a Frechet distance needs": 2, f"precision and recall by neighbour {neighbours} need": neighbours + 1}
    needs = {**least, f"an Inception score over {SPLITS} parts needs": SPLITS} if classes else least
    for what, count, wanted in (("samples", samples, needs), ("reference images", reference, least)):
        metric = max(wanted, key=lambda name: wanted[name])
        if count is not None and count < wanted[metric]:
            raise BadData(f"there are {count} {what}, and {metric} {wanted[metric]} or more; give more.")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Samples, their reference, and the facts that each of their scores records."""

    samples: ImageFeatures
    reference: Reference
    judge: Judge
    labels: str
    """How the samples' labels were drawn."""
    resampling: Resampling
    sampling: SamplingProtocol | None
    """How the samples were drawn; None if it is unknown."""
    doubles: int = 0
    """Number of samples that equal an earlier one in every byte, if that is allowed; protocols then have the part ``with-doubles``."""
    details: tuple[str, ...] = ()
    """Further parts of every protocol, such as ``resized-256``."""
    runtime: Runtime | None = None
    """Its ranks share the resamples of Frechet distances; None: a single process."""

    def name(self, measure: str, *details: str, against: Literal["all", "kept", "nothing"] = "all") -> Protocol:
        """The protocol of a measure; ``against``: what the samples are compared with: the reference's moments, the images whose features it
        keeps (for published statistics these are other images), or nothing."""
        images = ImageGroup(name=self.labels, count=self.samples.count)
        groups = {"all": self.reference.group, "kept": self.reference.kept_group or self.reference.group}
        reference = groups.get(against)
        details = (*details, *self.details, *(("with-doubles",) if self.doubles else ()))
        return protocol(
            measure, judge=self.judge, reference=reference, images=images, rounding=ROUNDING, details=details, sampling=self.sampling
        )

    def score(self, metric: str, value: float, bounds: tuple[float | None, float | None], name: Protocol, **detail: Any) -> Score:
        """A score with a value and its interval."""
        low, high = bounds
        facts = {**self.resampling.stated("samples"), **detail, **({"doubles": self.doubles} if self.doubles else {})}
        return Score(metric=metric, value=value, low=low, high=high, count=self.samples.count, protocol=name, detail=facts)

    @cached_property
    def frechet(self) -> tuple[float, Tensor]:
        """The Frechet distance of the pooled features, and that of each resample of the samples [R]."""
        value = frechet_distance(self.samples.moments.gaussian(), self.reference.gaussian)
        counts = self.resampling.counts(len(self.samples.kept), self.samples.kept.device)
        return value, frechet_replicates(self.samples.kept, self.reference.gaussian, counts, self.runtime)

    def interval(self, value: float, replicates: Tensor, **limits: float) -> tuple[float | None, float | None]:
        """The interval from resamples of the kept samples, scaled to the number of all samples."""
        return self.resampling.interval(value, replicates * (len(self.samples.kept) / self.samples.count) ** 0.5, **limits)

    def interval_note(self, how: str = "") -> dict[str, str]:
        """How the interval was computed, if only part of the features is kept or ``how`` adds something; otherwise empty."""
        kept, count = len(self.samples.kept), self.samples.count
        if kept == count:
            return self.resampling.stated(f"samples{how}") if how else {}
        return self.resampling.stated(f"{kept} of {count} samples{how}, scaled by the root of their share")


def generation_scores(
    samples: ImageFeatures,
    reference: Reference,
    *,
    judge: Judge,
    frechet: str = "gfid",
    labels: str = "balanced",
    neighbours: int = 3,
    resampling: Resampling = Resampling(),
    sampling: SamplingProtocol | None = None,
    doubles: int = 0,
    details: tuple[str, ...] = (),
    runtime: Runtime | None = None,
) -> list[Score]:
    """The scores gfid, gfid_infinity, sfid, is, kid, precision and recall. gfid_infinity needs four times as many samples as features have
    dimensions, ``is`` needs logits, sfid needs spatial features, and kid, precision and recall need features of real images, which an ADM
    ``.npz`` with only statistics does not have.

    ``frechet``: the name of the Frechet distance on this judge's features; ``labels``: how the samples' labels were drawn (balanced,
    random, or given when unknown); ``sampling``: how the samples were drawn; ``doubles``, ``runtime``: see ``Comparison``. All ranks call
    this together; only the main rank gets the scores beyond Frechet distances, which take seconds.
    """
    reference_count = None if reference.kept is None else len(reference.kept)
    check_counts(samples.count, neighbours=neighbours, reference=reference_count, classes=samples.classes is not None)
    comparison = Comparison(
        samples=samples, reference=reference, judge=judge, labels=labels, resampling=resampling, sampling=sampling, doubles=doubles,
        details=details, runtime=runtime,
    )  # fmt: skip
    return all_scores(comparison, frechet, neighbours)


def all_scores(comparison: Comparison, frechet: str, neighbours: int) -> list[Score]:
    """The scores of ``generation_scores`` of a comparison."""
    scores, runtime = distances(comparison, frechet), comparison.runtime
    if runtime is not None and not runtime.is_main:
        return scores
    scores += _inception(comparison)
    without = comparison.reference.kept is None
    return scores if without else scores + _kernel(comparison) + _precision_recall(comparison, neighbours)


def distance_scores(
    samples: ImageFeatures,
    reference: Reference,
    *,
    judge: Judge,
    frechet: str,
    labels: str = "balanced",
    resampling: Resampling = Resampling(),
    sampling: SamplingProtocol | None = None,
    doubles: int = 0,
    details: tuple[str, ...] = (),
    runtime: Runtime | None = None,
) -> list[Score]:
    """Only the Frechet distances, for a second extractor."""
    check_counts(samples.count, neighbours=1, classes=False)
    comparison = Comparison(
        samples=samples, reference=reference, judge=judge, labels=labels, resampling=resampling, sampling=sampling, doubles=doubles,
        details=details, runtime=runtime,
    )  # fmt: skip
    return distances(comparison, frechet)


def distances(comparison: Comparison, frechet: str) -> list[Score]:
    """The Frechet distance on pooled features, and on spatial ones when both sides have them."""
    samples, reference = comparison.samples, comparison.reference
    value, replicates = comparison.frechet
    bounds = comparison.interval(value, replicates, floor=0.0)
    scores = [
        comparison.score(
            frechet, value, bounds, comparison.name("fd"), **comparison.interval_note(), **_singular(samples.count, samples.kept.shape[1])
        )
    ]
    scores += _at_infinity(comparison, f"{frechet}_infinity")
    if samples.spatial and reference.spatial is not None:
        scores.append(_spatial(comparison))
    return scores


def _at_infinity(comparison: Comparison, metric: str) -> list[Score]:
    """The Frechet distance at infinitely many samples, if there are enough samples to fit a line."""
    features, resampling = comparison.samples.kept, comparison.resampling
    resampling = replace(resampling, resamples=min(resampling.resamples, RESAMPLES))
    found = frechet_at_infinity(features, comparison.reference.gaussian, resampling, comparison.runtime)
    if found is None:
        return []
    value, replicates = found
    sizes = subset_sizes(*features.shape)
    name = comparison.name("fd-infinity", f"line{len(sizes)}-{sizes[0]}-{sizes[-1]}")
    over = "samples, the line fitted to each"
    return [comparison.score(metric, value, resampling.interval(value, replicates), name, **resampling.stated(over))]


def _spatial(comparison: Comparison) -> Score:
    """sFID, with an interval from the moments of disjoint groups of samples."""
    groups, against, count = comparison.samples.spatial, comparison.reference.spatial, comparison.samples.count
    assert against is not None  # only called if the reference has them
    value = frechet_distance(united(groups).gaussian(), against)
    facts = {"interval": "none"}
    bounds: tuple[float | None, float | None] = (None, None)
    if comparison.resampling.resamples >= 2 and len(groups) > 1 and count >= 2 * len(groups):
        t = T_975[len(groups)]
        half = t * jackknife_error(groups, against, comparison.runtime)
        facts = {"interval": f"95 %, value ± {t} standard errors of a jackknife over {len(groups)} random groups of samples"}
        bounds = max(0.0, value - half), value + half
    return comparison.score("sfid", value, bounds, comparison.name("fd-spatial"), **facts, **_singular(count, len(against.mean)))


def _singular(count: int, width: int) -> dict[str, bool]:
    """A mark if the covariance is singular because there are no more images than features."""
    return {"singular": True} if count <= width else {}


def _inception(comparison: Comparison) -> list[Score]:
    """IS, if the extractor has class logits."""
    samples = comparison.samples
    if samples.classes is None or samples.logits is None:
        return []
    value = samples.classes.score()
    replicates = inception_replicates(samples.logits, comparison.resampling.draws(len(samples.logits), samples.logits.device))
    bounds = comparison.interval(value, replicates, floor=1.0)
    note = comparison.interval_note(f", each of {SPLITS} parts")
    return [comparison.score("is", value, bounds, comparison.name("is", f"{SPLITS}splits", against="nothing"), **note)]


def _kernel(comparison: Comparison) -> list[Score]:
    """KID of at most ``KERNEL_IMAGES`` of each set."""
    theirs = comparison.reference.kept
    assert theirs is not None  # only called if the reference has images
    features, reference = (kept[chosen(KERNEL_IMAGES, len(kept)).to(kept.device)] for kept in (comparison.samples.kept, theirs))
    value, replicates = kernel_distance(features, reference, comparison.resampling.counts(len(features), features.device))
    bounds = comparison.resampling.interval(value, replicates)
    return [comparison.score("kid", value, bounds, comparison.name("kd", f"poly3-{len(features)}x{len(reference)}", against="kept"))]


def _precision_recall(comparison: Comparison, neighbours: int) -> list[Score]:
    """Precision with an interval over samples, recall with one over reference images."""
    samples, reference = comparison.samples.kept, comparison.reference.kept
    assert reference is not None  # only called if the reference has images
    real = reference[chosen(len(samples), len(reference)).to(reference.device)]
    name = comparison.name("pr", f"k{neighbours}-{len(samples)}x{len(real)}", against="kept")
    inner, covered = (inside(a, b, neighbours).double() for a, b in ((samples, real), (real, samples)))
    scores = []
    for metric, hits, over in (("precision", inner, "samples"), ("recall", covered, "reference images")):
        bounds = comparison.resampling.of_mean(hits, floor=0.0, ceiling=1.0)
        scores.append(comparison.score(metric, hits.mean().item(), bounds, name, **comparison.resampling.stated(over)))
    return scores
