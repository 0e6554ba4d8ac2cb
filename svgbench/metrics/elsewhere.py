"""Scores of images made by other programs against reference images or statistics, for ``svgbench eval``.

Protocol: that of ``generation``. Samples are named ``given``, because it is unknown how their labels were drawn; the reference is named by
its kind (images or statistics) and digest. Images that are identical in every byte are refused, because samples never are; if they are
allowed (real images and their reconstructions may repeat) and occur, the protocol records ``with-doubles``. If images are resized here, it
records ``resized-N``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from svgbench.config.records import Score
from svgbench.config.scoring import SPACES
from svgbench.errors import BadData
from svgbench.metrics.features import GROUPS, Extractor, extract_each
from svgbench.metrics.frechet_ratio import fdr6
from svgbench.metrics.generation import Comparison, all_scores, check_counts, distances
from svgbench.metrics.image_sets import GivenImages, drawn_evenly, open_set
from svgbench.metrics.judges import row
from svgbench.metrics.reference import Progress, open_reference
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.samples import check_samples, doubled, doubled_note


def elsewhere_scores(
    images: Path | GivenImages,
    reference: Path | GivenImages,
    extractor: Extractor,
    *,
    further: Sequence[Extractor] = (),
    statistics: Mapping[str, Path] | None = None,
    limit: int | None = None,
    resize: int | None = None,
    allow_doubles: bool = False,
    neighbours: int = 3,
    resampling: Resampling = Resampling(),
    progress: Progress = lambda label, count: lambda done: None,
) -> list[Score]:
    """gfid, gfid_infinity, sfid, is, kid, precision and recall of a set of images (``image_sets.open_set``); kid, precision and recall need
    a reference with images. Every ``further`` extractor adds the distance on its features, from the same pass over the images; the
    extractors of ``config.scoring.SPACES`` together also give fdr6.

    ``statistics``: an extractor's name -> published statistics that replace the reference for it.

    ``limit``: a trial on this number of images, drawn evenly over the classes. ``resize``: side in pixels to which both sets are cropped
    and resized (ADM's centre crop). The protocol records both. ``allow_doubles``: accept images that are identical in every byte.
    ``progress``: called with a label and a number of images; returns a function that is called with the size of each batch.
    """
    given = open_set(images, resize)
    limit = limit if limit and limit < len(given) else None  # otherwise all images are scored
    given = drawn_evenly(given, limit) if limit else given
    check_counts(len(given), neighbours=neighbours, classes="logits" in row("features", extractor.name))
    check_samples(given, None, len(given), distinct=False)
    copies = doubled(given)
    if copies and not allow_doubles:
        raise BadData(
            f"{given.path}: {doubled_note(copies, len(given))}; draw samples again, or leave the copies out; "
            "real images or reconstructions that repeat are scored with --allow-doubles."
        )
    judges, own = [extractor, *further], statistics or {}
    against = [
        open_reference(own.get(one.name, reference), one, expected=given.shape[2:], least=neighbours + 1, progress=progress, resize=resize)
        for one in judges
    ]
    check_samples(given, None, len(given), size=against[0].size, distinct=False)
    found = extract_each(judges, given, groups=GROUPS, done=progress("features of the images", len(given)))
    comparisons = {
        judge.name: Comparison(
            samples=samples, reference=real, judge=judge.judge, labels="given", resampling=resampling, sampling=None, doubles=len(copies),
            details=(f"resized-{resize}",) if resize else (),
        )
        for judge, samples, real in zip(judges, found, against, strict=True)
    }  # fmt: skip
    scores = all_scores(comparisons[extractor.name], extractor.frechet, neighbours)
    for judge in further:
        scores += distances(comparisons[judge.name], judge.frechet)
    if set(SPACES) <= set(comparisons):
        scores.append(fdr6([comparisons[name] for name in SPACES]))
    return [score.marked(limit) for score in scores]
