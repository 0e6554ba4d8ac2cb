"""Scores of images that were made elsewhere against reference images or reference statistics: what ``svgbench eval`` prints.

Protocol: ``generation``'s; the samples are named ``given`` because nobody here knows how their labels were drawn, the reference is named by
what it is (images, statistics) and its digest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from svgbench.config.records import Score
from svgbench.errors import BadInput
from svgbench.metrics.features import Extractor, Features, extract
from svgbench.metrics.frechet import Gaussian, read_statistics
from svgbench.metrics.generation import generation_scores
from svgbench.metrics.image_sets import holds_statistics, open_set
from svgbench.metrics.protocol import ImageGroup
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.samples import check_samples
from svgbench.world.files import sha256_of

KEPT = 50_000
"""Reference images whose features are kept for KID, precision and recall; the moments are of all."""


def elsewhere_scores(
    images: Path,
    reference: Path,
    extractor: Extractor,
    *,
    neighbours: int = 3,
    resampling: Resampling = Resampling(),
    progress: Callable[[str, int], Callable[[int], None]] = lambda label, count: lambda done: None,
) -> list[Score]:
    """gfid, is, kid, precision and recall of a folder or ``.npz`` of images; only gfid and is against bare statistics.

    ``progress``: called with a label and a count of images, gives what hears of each batch.
    """
    given = open_set(images)
    against, group, size = _reference(reference, extractor, progress)
    check_samples(given, None, len(given), size=size)
    samples = extract(extractor, given, done=progress("features of the images", len(given)))
    return generation_scores(
        samples, against, judge=extractor.judge, reference_images=group, labels="given", neighbours=neighbours, resampling=resampling
    )


def _reference(
    path: Path, extractor: Extractor, progress: Callable[[str, int], Callable[[int], None]]
) -> tuple[Features | Gaussian, ImageGroup, int | None]:
    """What the images are held against, its name in a protocol, and the side in pixels it asks for."""
    if path.exists() and holds_statistics(path):
        gaussian = read_statistics(path)
        if len(gaussian.mean) != extractor.dim:
            raise BadInput(
                f"{path}: statistics of {len(gaussian.mean)} numbers, but '{extractor.name}' gives {extractor.dim}; "
                "take the extractor that the statistics were made with."
            )
        return gaussian, ImageGroup(name="statistics", count=None, digest=sha256_of(path)), None
    real = open_set(path)
    features = extract(extractor, real, keep=KEPT, done=progress("features of the reference", len(real)))
    height, width = real.shape[2:]
    return features, ImageGroup(name="images", count=len(real), digest=real.digest()), height if height == width else None
