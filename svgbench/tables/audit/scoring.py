"""Items about how numbers were made: size and rounding of images, reference images, counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from svgbench.config.records import Protocol
from svgbench.errors import UnknownName
from svgbench.metrics import judges
from svgbench.metrics.declared import METRICS
from svgbench.metrics.npz import stored
from svgbench.metrics.protocol import ROUNDING
from svgbench.tables.audit.findings import AuditFinding, CannotTell, failed, passed
from svgbench.tables.audit.subjects import AuditedRun, AuditedSet, side_of

USUAL = 50_000
"""Samples of the usual protocol."""
LOOKED_AT = 64
"""Images of a file whose range of values is looked at."""
OF_FEATURES = ("fd", "kd", "is", "pr")
"""Measures whose judge may resize images."""


def rounding_of_run(run: AuditedRun) -> AuditFinding:
    """Whether the judged images were rounded to bytes, and samples have the size of their references."""
    scores = [*run.scored("reconstruction"), *run.scored("generation")]
    if not scores:
        raise CannotTell("The run has no scores of images")
    again = "run the command of the run again"
    for row, made in scores:
        if made.rounding != ROUNDING:
            said = "does not state how pixels were rounded" if made.rounding is None else f"was made with the rounding '{made.rounding}'"
            return failed(f"{_title(row)} {said}, not {ROUNDING}", again)
        if made.judge and made.measure in OF_FEATURES and not made.resize:
            return failed(f"{_title(row)} does not state how {made.judge} resizes", again)
    resized = " and ".join(sorted({f"{made.judge} {made.resize}" for _, made in scores if made.judge and made.resize}))
    stated = f"rounded by {ROUNDING}" + (f"; resize of {resized}" if resized else "")
    if not run.scored("generation"):
        return passed(f"Reconstructions {stated}")
    size = side_of(run.place(run.entry("references")))
    if size is None:
        raise CannotTell("The reference holds statistics, which do not state the size of their images")
    for _, place in run.samples():
        samples = np.load(place / "samples.npy", mmap_mode="r")
        if samples.dtype != np.uint8:
            return failed(f"Samples are stored as {samples.dtype}, not as bytes", again)
        if samples.shape[2:] != size:
            return failed(f"Samples have {_pixels(samples.shape[2:])}, the references {_pixels(size)}", "resize both sets in one way")
    return passed(f"Bytes of {_pixels(size)} as the references, {stated}")


def rounding_of_set(given: AuditedSet) -> AuditFinding:
    """Whether the images of a file are bytes of the size of their references."""
    if given.images is None:
        raise CannotTell("The file has statistics only, which do not state size and rounding of their images")
    kind = np.dtype(given.images.dtype)
    if kind != np.uint8:
        return failed(f"Images are stored as {kind}, not as bytes", "save round(255 x) of values in [0, 1] as uint8")
    if int(max(given.images[index].max() for index in range(min(len(given.images), LOOKED_AT)))) <= 1:
        return failed("All bytes are 0 or 1, so values in [0, 1] were stored without scaling", "save round(255 x) as uint8")
    mine = _pixels(given.size)
    if given.reference is None:
        raise CannotTell(f"Bytes of {mine}; the size of the references is unknown without --reference")
    if given.reference_size is None:
        raise CannotTell(f"Bytes of {mine}; the reference holds statistics, which do not state a size")
    if given.size != given.reference_size:
        return failed(f"Images have {mine}, the references {_pixels(given.reference_size)}", "resize both sets in one way (eval --resize)")
    return passed(f"Bytes of {mine} as the references; a file does not state how its program rounded")


def _title(row: dict[str, Any]) -> str:
    """A score's metric as tables show it."""
    return METRICS[row["metric"]].title


def _pixels(size: tuple[int, ...] | None) -> str:
    return "x".join(map(str, size or ())) + " px"


def reference_images(run: AuditedRun) -> AuditFinding:
    """Whether samples are compared with training images and reconstructions with validation images."""
    sides = {"generation": ("train", "val"), "reconstruction": ("val", "train")}
    found: dict[str, Protocol] = {}
    for group, (wanted, wrong) in sides.items():
        for row, made in run.scored(group):
            if made.reference is None:
                continue
            same = [split for split, digest in run.digests.items() if digest == made.reference_digest]
            if wrong in (made.reference, *same):
                words = {"train": "training", "val": "validation"}
                return failed(
                    f"{_title(row)} compares with the {words[wrong]} images, not the {words[wanted]} images",
                    "leave scores.reference empty" if group == "generation" else "run the command of the run again",
                )
            if wanted not in (made.reference, *same):
                raise CannotTell(f"{_title(row)} compares with given {made.reference}, which does not state its images")
            found.setdefault(group, made)
    if not found:
        raise CannotTell("The run has no score with reference images")
    words = {"generation": "samples against {:,} training images", "reconstruction": "reconstructions against {:,} validation images"}
    text = ", ".join(words[group].format(made.reference_count or 0) for group, made in found.items())
    return passed(text[0].upper() + text[1:])


def counts_of_run(run: AuditedRun) -> AuditFinding:
    """Whether each Frechet distance has more images than features."""
    rows = [(row, made) for group in ("generation", "reconstruction") for row, made in run.scored(group)]
    rows = [(row, made) for row, made in rows if made.measure == "fd" and made.judge]
    if not rows:
        raise CannotTell("The run has no Frechet distance")
    for row, made in rows:
        features = _features(made.judge or "")
        counts = {"images": made.count, "references": made.reference_count}
        for what, count in counts.items():
            if count is not None and count <= features:
                return failed(
                    f"{_title(row)} has {count:,} {what} for {features:,} features of {made.judge}: the covariance is singular",
                    "use more images (sampling.count, data.train_images, no --limit)",
                )
    made = min((made for _, made in rows), key=lambda one: one.count or 0)
    few = f"fewer than the usual {USUAL:,}, as its protocol states" if (made.count or 0) < USUAL else f"the usual {USUAL:,} or more"
    return passed(f"{made.count or 0:,} images for {_features(made.judge or ''):,} features; {few}")


def counts_of_set(given: AuditedSet) -> AuditFinding:
    """Whether statistics have a covariance of full rank, and images are more than the extractor's features."""
    if given.statistics is not None:
        return _rank(given.statistics["sigma"], rounded=stored(given.path, "sigma").dtype.itemsize < 8)
    count, features = len(given.images), _features(given.extractor)
    if count <= features:
        return failed(
            f"{count:,} images for {features:,} features of {given.extractor}: the covariance is singular",
            f"draw more than {features:,} samples, the usual number is {USUAL:,}",
        )
    few = f"fewer than the usual {USUAL:,}: state the count" if count < USUAL else f"the usual {USUAL:,} or more"
    return passed(f"{count:,} images for {features:,} features of {given.extractor}; {few}")


def _rank(sigma: np.ndarray, *, rounded: bool) -> AuditFinding:
    """The finding for a covariance [D, D]; ``rounded``: it was stored in less than float64, whose rounding hides small eigenvalues."""
    values = np.linalg.eigvalsh(sigma)
    precision = np.finfo(np.float32 if rounded else np.float64).eps
    rank = int((values > values.max() * len(values) * precision).sum())
    if rank == len(values):
        return passed(f"The covariance of {rank:,} features has full rank")
    if rounded:
        raise CannotTell("The covariance is stored in float32, whose rounding hides whether it is singular")
    return failed(
        f"The covariance of {len(values):,} features has rank {rank:,}: it is singular",
        f"compute the statistics from more than {len(values):,} images",
    )


def _features(judge: str) -> int:
    """Number of a judge's features."""
    try:
        return int(judges.row("features", judge)["dim"])
    except UnknownName:
        raise CannotTell(f"The number of features of '{judge}' is unknown") from None
