"""Items about samples: times and shift, labels, duplicates, the seed of tuning."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from svgbench.config.choices import OBJECTIVES, SAMPLERS
from svgbench.config.sampling import TUNED, SamplingProtocol, at_edge
from svgbench.lab.plan import shown_cell
from svgbench.tables.audit.findings import AuditFinding, CannotTell, failed, passed
from svgbench.tables.audit.subjects import AuditedRun, AuditedSet

MOST_CLASSES = 100_000
"""Whole numbers below this are taken for classes that count from 0."""
CHANCE = 5.0
"""Largest distance of a class's count from its mean, in standard deviations of a random draw."""


def time_and_shift(run: AuditedRun) -> AuditFinding:
    """Whether times run from noise to data, shifts are at most 1, steps at least 1, and a tuned shift lies inside its candidates."""
    config = run.settings
    if not OBJECTIVES[config.diffusion.objective].continuous:
        return passed(f"The objective {config.diffusion.objective} has no times that a shift moves")
    ways = run.samplings or _configured(run)
    shifts = [] if config.diffusion.release else [("training", config.diffusion.shift)]
    for name, shift in [*shifts, *(("sampling", way.shift) for way in ways)]:
        if not 0 < shift <= 1:
            return failed(
                f"The {name} shift {shift:g} is outside (0, 1]: times run from noise at 0 to data at 1, and it moves them towards data",
                f"set {'diffusion' if name == 'training' else name}.shift to 1 or less",
            )
    for way in ways:
        if way.steps < 1:
            return failed(f"The sampler takes {way.steps} steps", "set sampling.steps to 1 or more")
        times = SAMPLERS[way.sampler].times(way.steps, way.shift)
        if times[0] != 0 or times[-1] != 1 or any(b <= a for a, b in pairwise(times)):
            return failed(f"The times of {way.text} do not rise from 0 to 1", "use a sampler of svgbench sample --help")
        if way.tuned and way.shift < 1 and at_edge(way.shift, way.tuned):
            return failed(
                f"The tuned shift {way.shift:g} is the smallest or largest candidate",
                "add candidates beyond it to sampling.tuning.shifts",
            )
    steps = sorted({way.steps for way in ways})
    counted = f"{steps[0]} to {steps[-1]} steps" if len(steps) > 1 else f"{steps[0]} step{'s' * (steps[0] > 1)}"
    named = [f"{name} shift {shift:g}" for name, shift in shifts] + [f"sampling shift {ways[0].shift:g}"]
    return passed(f"{counted} from noise at 0 to data at 1, {', '.join(named)}")


def _configured(run: AuditedRun) -> list[SamplingProtocol]:
    """The ways of sampling that the configuration asks for, if no samples are scored."""
    part = run.settings.sampling
    if part.shift == TUNED:
        raise CannotTell("The shift is tuned, and no samples are scored")
    plain = part.model_dump(mode="json")
    return [SamplingProtocol.of({**plain, "steps": steps, "guidance": 1.0}) for steps in part.steps]


def tuning_seed(run: AuditedRun) -> AuditFinding:
    """Whether a shift was tuned on a seed whose scores a table shows."""
    ways = [way for way in run.samplings if way.tuned]
    if run.settings.sampling.shift != TUNED and not ways:
        return passed("The shift is fixed, so svgbench tuned nothing")
    part = run.settings.sampling.tuning
    texts = [way.tuned for way in ways if way.tuned]
    found = {int(match[1]) for text in texts if (match := re.search(r"-seed(\d+)", text))} | ({part.seed} if part else set())
    if not found:
        raise CannotTell("Neither the configuration nor a protocol states the tuning seed")
    known = {record.seed for record in (run.record, *run.seeds)}
    if found & known:
        seed = min(found & known)
        return failed(
            f"The shift was tuned on seed {seed}, which is also a seed of these scores", "set sampling.tuning.seed to another seed"
        )
    return passed(f"The shift was tuned on seed {min(found)}, the scores are of {_seeds(known)}")


def _seeds(seeds: set[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"


def labels_of_run(run: AuditedRun) -> AuditFinding:
    """Whether each score of samples states how labels were drawn, and the samples' classes agree with it."""
    stated = {made.balance for _, made in run.scored("generation")}
    if None in stated:
        return failed("A score of samples does not state whether labels were balanced or random", "run the command of the run again")
    texts = []
    for cell, place in run.samples():
        labels = np.load(place / "labels.npy")
        balance = next(iter(stated)) if len(stated) == 1 else _drawn(run, cell)
        counts = np.bincount(labels, minlength=run.classes or 0)
        if problem := uneven(counts, balance):
            return failed(f"Samples of {_named(cell)}: {problem}", "draw the samples again, each class as the protocol states")
        texts.append(f"{str(balance).capitalize()}: {_range(counts)} of each of {len(counts)} classes")
    return passed("; ".join(dict.fromkeys(texts)))


def _drawn(run: AuditedRun, cell: dict[str, Any]) -> str:
    """How the labels of a cell were drawn, by the manifest of its samples."""
    entry = next(one for one in run.entries("samples") if one["cell"] == cell)
    drawn = run.manifest(entry).slice.get("sampling", {}).get("labels")
    if drawn is None:
        raise CannotTell("No score and no manifest states how labels were drawn")
    return drawn


def labels_of_set(given: AuditedSet) -> AuditFinding:
    """Whether the labels in a file are balanced, or as even as a random draw."""
    if given.images is None:
        raise CannotTell("The file has statistics only")
    if given.labels is None:
        raise CannotTell("The file has no labels (arr_1)")
    if len(given.labels) != len(given.images):
        return failed(f"{len(given.labels):,} labels for {len(given.images):,} images", "write one label for each image")
    numbers = _numbers(given.labels)
    if uneven(numbers, "balanced") is None:
        return passed(f"Balanced: {_range(numbers)} of each of {len(numbers)} classes")
    problem = uneven(numbers, "random")
    if problem is None:
        return passed(f"As even as a random draw: {_range(numbers)} of each of {len(numbers)} classes; state that they are random")
    return failed(f"The labels: {problem}", "draw labels balanced or uniformly at random, and state which")


def _numbers(labels: Sequence[Hashable]) -> np.ndarray:
    """Number of images of each class [K]; whole numbers also name the classes below them that have none."""
    counts = Counter(labels)
    whole = [label for label in counts if isinstance(label, int) and 0 <= label < MOST_CLASSES]
    if len(whole) < len(counts):
        return np.array(list(counts.values()))
    return np.array([counts[label] for label in range(max(whole) + 1)])


def uneven(counts: np.ndarray, balance: str | None) -> str | None:
    """What is wrong with the numbers of images of the classes [K]; None if they are what ``balanced`` or ``random`` labels give."""
    if balance == "balanced":
        return f"{_range(counts)} of a class, not equally many" if counts.max() - counts.min() > 1 else None
    expected, share = counts.sum() / len(counts), 1 / len(counts)
    if np.abs(counts - expected).max() > CHANCE * math.sqrt(expected * (1 - share)):
        return f"{_range(counts)} of a class, more uneven than a random draw of {expected:.0f} on average"
    return None


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def duplicates_of_run(run: AuditedRun) -> AuditFinding:
    """Whether two samples of one cell are equal in every byte."""
    from svgbench.metrics.samples import doubled

    total = 0
    for cell, place in run.samples():
        samples = np.load(place / "samples.npy", mmap_mode="r")
        total += len(samples)
        if pairs := doubled(samples):
            return _duplicated(pairs, len(samples), f"Samples of {_named(cell)}")
    return passed(f"No two of the {total // len(run.entries('samples')):,} samples of a cell are equal")


def duplicates_of_set(given: AuditedSet) -> AuditFinding:
    """The same for the images of a file."""
    from svgbench.metrics.samples import doubled

    if given.images is None:
        raise CannotTell("The file has statistics only")
    if pairs := doubled(given.images):
        return _duplicated(pairs, len(given.images), "The file")
    return passed(f"No two of {len(given.images):,} images are equal")


def _duplicated(pairs: Sequence[tuple[int, int]], count: int, where: str) -> AuditFinding:
    """The finding for index pairs (first, copy) among ``count`` images."""
    copies = [copy for _, copy in pairs]
    tail = copies == list(range(count - len(copies), count))
    which = f"the last {len(copies):,} repeat earlier ones" if tail and len(copies) > 1 else f"image {copies[0]} equals {pairs[0][0]}"
    advice = "leave out the padded tail" if tail else "draw the samples again, or leave the copies out"
    return failed(f"{where}: {len(copies):,} of {count:,} images are duplicates; {which}", advice)


def _named(cell: dict[str, Any]) -> str:
    """A cell in words."""
    return ", ".join(f"{name} {value:g}" for name, value in shown_cell(cell).items()) or "the run"
