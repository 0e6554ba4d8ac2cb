"""Where a run's gFID comes from: cumulative levels of the Frechet distance, the steps between them, and further parts.

The levels are distances to the same reference on the same extractor, of equally many images: real validation images, their
reconstructions, reconstructions from latents noised by the model's own error, samples at infinitely many steps, samples at the run's steps.
Frechet distances are not linear, so the steps between levels are not amounts that causes add: another order would give other steps. What
was not measured says why, and how to measure it. The stage ``explanation`` measures what needs networks; the rest is from the run's scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from svgbench.config.choices import SAMPLERS
from svgbench.config.records import Protocol
from svgbench.errors import BadInput
from svgbench.tables.collect import RunRecord
from svgbench.tables.table import Cell, Table

FEWEST = 3
"""Smallest number of step counts for a fit of two numbers that can be checked."""
Z95 = 1.959964
NOT_MEASURED = "not measured"
NOT_ADDITIVE = (
    "Frechet distances are not linear and do not add up exactly: a step is the difference from the level above it, in this order; "
    "another order would give other steps"
)


class StepFit(NamedTuple):
    """gFID = a + b / steps^p, fitted to gFIDs at several numbers of steps."""

    a: float
    """The value at infinitely many steps."""
    b: float
    residual: float
    """The largest distance of a gFID from the curve."""
    half: float | None
    """Half of the 95 % interval of ``a``, if every gFID has one."""
    half_to_last: float | None
    """The same of the difference between the gFID at the most steps and ``a``."""


def fit_steps(points: Mapping[int, tuple[float, float | None]], order: int) -> StepFit:
    """Least squares over steps -> (gFID, half of its 95 % interval). Errors of the gFIDs are taken to be independent."""
    y = np.array([value for value, _ in points.values()])
    x = np.stack([np.ones(len(points)), np.array([float(steps) for steps in points]) ** -order], 1)
    rows = np.linalg.pinv(x)
    a, b = rows @ y
    halves = [half for _, half in points.values() if half is not None]
    last = np.array([float(steps == max(points)) for steps in points])
    known = len(halves) == len(points)
    half, to_last = (float(np.sqrt(np.sum((each * halves) ** 2))) if known else None for each in (rows[0], last - rows[0]))
    return StepFit(float(a), float(b), float(np.abs(x @ np.array([a, b]) - y).max()), half, to_last)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A level, or a part: a number, or the reason why there is none."""

    name: str
    title: str
    how: str
    """How it was measured, or why it was not."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    count: int | None = None
    """Number of images."""
    protocol: str | None = None
    share: bool = False
    """Whether the number is a share instead of a Frechet distance."""
    step: float | None = None
    """For a level: its difference from the last measured level above it."""
    step_low: float | None = None
    step_high: float | None = None
    """The 95 % interval of this difference, if it is known: of the same images by paired resamples; of other images, as of independent
    numbers."""


@dataclass(frozen=True)
class Explanation:
    """A run's levels from real images to its samples, and further parts."""

    run: str
    metric: str
    steps: int
    guidance: float
    levels: tuple[Quantity, ...]
    parts: tuple[Quantity, ...]


def explained_cell(run: str, scores: Sequence[Mapping[str, Any]], metric: str) -> tuple[int, float]:
    """(steps, guidance) of the samples that are explained: the most steps without guidance, or at the smallest scale if there are no
    unguided samples. Raises BadInput if the run has no such score."""
    rows = _of_end(scores, metric)
    if not rows:
        raise BadInput(f"run '{run}' has no {metric} to explain; run its command again to score its samples.")
    scales = {row["guidance"] for row in rows}
    guidance = 1.0 if 1.0 in scales else min(scales)
    return max(row["steps"] for row in rows if row["guidance"] == guidance), guidance


def explanation_of(record: RunRecord, metric: str, content: Mapping[str, Any]) -> Explanation:
    """The levels and parts of a run. ``content``: its ``explanation.json``; ``metric``: the Frechet distance on its extractor."""
    steps, guidance = explained_cell(record.name, record.scores, metric)
    cells = {(row["steps"], row["guidance"]): row for row in _of_end(record.scores, metric)}
    scored, few = cells[steps, guidance], content["images"] < content["samples"]
    measured = content["levels"]
    count, of = content["images"], f"{content['images']:,} of {content['validation']:,} validation images"
    error = content["error"]
    how = {
        "real": f"{of}, themselves: not 0, because they are few and of another split; perfect samples would have it too",
        "decoder": f"the same images, encoded and decoded: rFID, but to the reference {content['reference']['name']}",
        "noised": f"the latents of these images with Gaussian noise of the model's own error, decoded: on standardised latents "
        f"{error['mean']:.3g}, the root mean square error over the channels of the data predicted in one step from true latents of "
        f"{error['images']:,} images at times {error['times'][0]:g} to {error['times'][-1]:g} (1 is data); it includes what no model "
        "can predict",
    }  # fmt: skip
    titles = {"real": "real validation images", "decoder": "their reconstructions", "noised": "noised reconstructions"}
    levels = [Quantity(name=name, title=titles[name], how=how[name], **measured[name]) for name in titles]
    at = {n: content["cells"][f"samples {n}"] if few else row for (n, scale), row in cells.items() if scale == guidance}
    guided = "" if guidance == 1 else f", guidance {guidance:g}"
    infinite, to_last = _infinite(at, scored, guidance)
    levels.append(infinite)
    how_many = f"{count:,} of {content['samples']:,} samples, as many as there are validation images" if few else f"{count:,} samples"
    levels.append(_level("samples", f"samples, {steps} steps{guided}", how_many, at[steps]))
    levels = _with_steps(levels, to_last)
    if few:
        title = f"all {content['samples']:,} of these samples"
        all_of_them = _level("all_samples", title, "gFID as the run's score; the step is the bias of fewer images", scored)
        levels.append(replace(all_of_them, step=scored["value"] - at[steps]["value"]))
    parts = [_rest(levels), _guidance(cells, steps), _bias(record.scores, scored, metric, content), *_memorised(content["memorised"])]
    return Explanation(record.name, metric, steps, guidance, tuple(levels), tuple(parts))


def _of_end(scores: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """The scores of samples from the end of the training."""
    rows = [row for row in scores if row["metric"] == metric and row["steps"] is not None]
    longest = max((row["images_seen"] or 0 for row in rows), default=0)
    return [row for row in rows if (row["images_seen"] or 0) == longest]


def _level(name: str, title: str, how: str, row: Mapping[str, Any]) -> Quantity:
    facts: dict[str, Any] = {fact: row.get(fact) for fact in ("value", "low", "high", "count", "protocol")}
    return Quantity(name=name, title=title, how=how, **facts)


def _with_steps(levels: Sequence[Quantity], to_last: float | None) -> list[Quantity]:
    """The levels, each with its difference from the last measured one above it and this difference's interval. ``to_last``: half of the
    interval from infinitely many steps to the most steps, whose gFID is part of the fit."""
    found: list[Quantity] = []
    before: Quantity | None = None
    for level in levels:
        if before is not None and level.value is not None and before.value is not None:
            step = level.value - before.value
            level = replace(level, step=step)
            if level.name in ("infinite_steps", "samples"):  # the levels before have paired intervals from the stage
                half = to_last if before.name == "infinite_steps" else _independent(level, before)
                level = level if half is None else replace(level, step_low=step - half, step_high=step + half)
        found.append(level)
        before = before if level.value is None else level
    return found


def _independent(one: Quantity, other: Quantity) -> float | None:
    """Half of the 95 % interval of the difference of two numbers of different images."""
    if one.high is None or other.high is None or one.value is None or other.value is None:
        return None
    return float(np.hypot(one.high - one.value, other.high - other.value))


def _infinite(at: Mapping[int, Mapping[str, Any]], scored: Mapping[str, Any], guidance: float) -> tuple[Quantity, float | None]:
    """The level of samples at infinitely many steps, from the cells ``at`` each number of steps, and half of the interval of the difference
    from it to the most steps."""
    found = Quantity(name="infinite_steps", title="samples, infinite steps", how="")
    how = Protocol.model_validate(scored["protocol_fields"]).sampling
    sampler = how.sampler if how else "unknown"
    choice = SAMPLERS.get(sampler)
    if choice is None or choice.evaluations is None:
        what = "chooses its steps by their error" if choice else "has no known order of its error"
        why = f"{NOT_MEASURED}: the sampler {sampler} {what}, so gFID cannot be extrapolated in the number of steps"
        return replace(found, how=why), None
    counts = sorted(at)
    if len(counts) < FEWEST:
        has = ", ".join(map(str, counts))
        why = f"{NOT_MEASURED}: it needs gFID at {FEWEST} numbers of steps or more at guidance {guidance:g}, and the run has {has}; run "
        return replace(found, how=f"{why}its command again with --set 'sampling.steps={_more_steps(counts)}'"), None
    order = 1 if how and how.zero_init else choice.order  # a skipped step has an error of order 1
    fit = fit_steps({n: (at[n]["value"], _half(at[n])) for n in counts}, order)
    low, high = (None, None) if fit.half is None else (fit.a - fit.half, fit.a + fit.half)
    power = "steps" if order == 1 else f"steps^{order}"
    stated = f"gFID = {fit.a:.2f} {fit.b:+.2f} / {power}, fitted to {', '.join(map(str, counts))} steps ({sampler}); the curve is off by "
    how_fitted = f"{stated}{fit.residual:.2f} at most"
    return replace(found, value=fit.a, low=low, high=high, count=at[counts[-1]]["count"], how=how_fitted), fit.half_to_last


def _more_steps(counts: Sequence[int]) -> str:
    """These numbers of steps and as many others as a fit needs, as a value of ``sampling.steps``."""
    most, wanted = max(counts), set(counts)
    for steps in (most // 2, most // 4, 2 * most, 4 * most):
        if len(wanted) < FEWEST and steps:
            wanted.add(steps)
    return f"[{','.join(map(str, sorted(wanted)))}]"


def _half(row: Mapping[str, Any]) -> float | None:
    return None if row["high"] is None else row["high"] - row["value"]


def _rest(levels: Sequence[Quantity]) -> Quantity:
    """What the diffusion model and its sampler cost."""
    of = {level.name: level for level in levels}
    rest = of["samples"].value - of["noised"].value  # type: ignore[operator]
    half = _independent(of["samples"], of["noised"])
    low, high = (None, None) if half is None else (rest - half, rest + half)
    how = "gFID of the samples minus that of noised reconstructions: what diffusion model and sampler cost beyond the one-step error"
    return Quantity(name="diffusion_model", title="the rest: samples minus noised reconstructions", value=rest, low=low, high=high, how=how)


def _guidance(cells: Mapping[tuple[int, float], Mapping[str, Any]], steps: int) -> Quantity:
    """The best guidance scale minus none, at the same number of steps."""
    plain = cells.get((steps, 1.0))
    guided = {scale: row for (n, scale), row in cells.items() if n == steps and scale != 1}
    found = Quantity(name="guidance", title="best guidance scale minus none", how="")
    if plain is None or not guided:
        lacks = "without guidance" if plain is None else "with guidance"
        scales = sorted({1.0, *guided} if guided else {1.0, 1.5, 2.0, 4.0})
        listed = ",".join(f"{scale:g}" for scale in scales)
        again = f"run its command again with --set 'sampling.guidance=[{listed}]'"
        return replace(found, how=f"{NOT_MEASURED}: the run has no samples {lacks} at {steps} steps; {again}")
    best = min(guided, key=lambda scale: guided[scale]["value"])
    value = guided[best]["value"]
    listed = ", ".join(f"{scale:g}" for scale in sorted(guided))
    how = f"gFID {value:.2f} at scale {best:g}, the best of {listed}, and {plain['value']:.2f} without, at {steps} steps"
    return replace(found, title=f"guidance {best:g} minus none", value=value - plain["value"], count=plain["count"], how=how)


def _bias(scores: Sequence[Mapping[str, Any]], scored: Mapping[str, Any], metric: str, content: Mapping[str, Any]) -> Quantity:
    """gFID minus gFID at infinitely many samples."""
    same = [
        row for row in _of_end(scores, f"{metric}_infinity") if (row["steps"], row["guidance"]) == (scored["steps"], scored["guidance"])
    ]
    found = Quantity(name="finite_samples", title="gFID minus gFID at infinitely many samples", how="")
    if not same:
        least = 4 * content["dim"]
        why = f"gFID at infinitely many samples needs {least:,} samples, and the run has {content['samples']:,}"
        if content["samples"] >= least:
            why = "the run has no score of gFID at infinitely many samples"
        again = f"run its command again with --set sampling.count={max(least, content['samples'])}"
        return replace(found, how=f"{NOT_MEASURED}: {why}; {again}")
    how = f"gFID {scored['value']:.2f} and {same[0]['value']:.2f} at infinitely many samples; the bias of {scored['count']:,} samples"
    return replace(found, value=scored["value"] - same[0]["value"], count=scored["count"], how=how)


def _memorised(found: Mapping[str, Any]) -> list[Quantity]:
    """The shares of samples and of validation images that are close to a training image."""
    titles = {"samples": "samples close to a training image", "validation": "validation images as close (control)"}
    names = {"samples": "memorised", "validation": "memorised_control"}
    if "reason" in found:
        return [Quantity(name=names[one], title=titles[one], how=f"{NOT_MEASURED}: {found['reason']}", share=True) for one in titles]
    searched, training = found["searched"], found["training"]
    among = f"{searched:,} training images" if searched == training else f"{searched:,} of {training:,} training images (a lower bound)"
    how = {
        "samples": f"nearer in the extractor's features to one of {among} than {found['threshold']:.4g}, below which "
        f"{100 * found['quantile']:g} % of these have their nearest other one",
        "validation": f"the same for images that were not trained on: about {100 * found['quantile']:g} % if nothing is memorised; samples "
        "above this share point to memorisation",
    }
    return [Quantity(name=names[one], title=titles[one], how=how[one], share=True, **found[one]) for one in titles]


def explanation_tables(explanation: Explanation) -> list[Table]:
    """The levels with their steps, and the further parts, each with notes on how it was measured."""
    levels = Table(f"{explanation.run}: from real images to its samples", ["level", "images", "FD", "step"], [])
    for number, level in enumerate(explanation.levels, 1):
        step = "-" if level.step is None else _step(level)
        levels.rows.append([f"{level.title} [{number}]", f"{level.count:,}" if level.count else "-", _cell(level), step])
    levels.notes = [f"[{number}] {level.how}" for number, level in enumerate(explanation.levels, 1)]
    levels.notes += [NOT_ADDITIVE, "FD: Frechet distance to the reference of the run's gFID; value (95 % bootstrap interval over images)"]
    levels.notes += ["step: its interval is of paired resamples where both levels are of the same images, else of independent numbers"]
    parts = Table(f"{explanation.run}: further parts", ["part", "value"], [])
    first = len(explanation.levels) + 1
    for number, part in enumerate(explanation.parts, first):
        parts.rows.append([f"{part.title} [{number}]", _cell(part, sign=not part.share)])
    parts.notes = [f"[{number}] {part.how}" for number, part in enumerate(explanation.parts, first)]
    return [levels, parts]


def _step(level: Quantity) -> Cell:
    """``+2.31 ± 0.29``"""
    assert level.step is not None
    if level.step_high is None:
        return Cell(f"{level.step:+.2f}", value=level.step)
    return Cell(f"{level.step:+.2f} ± {level.step_high - level.step:.2f}", value=level.step, low=level.step_low, high=level.step_high)


def _cell(found: Quantity, *, sign: bool = False) -> Cell:
    """``10.73 (10.12, 11.34)``; a share in percent; or that it was not measured."""
    if found.value is None:
        return Cell(NOT_MEASURED, metric=found.name)
    factor, digits, unit = (100, 1, " %") if found.share else (1, 2, "")
    text = f"{factor * found.value:{'+' if sign else ''}.{digits}f}{unit}"
    if found.low is not None and found.high is not None:
        text += f" ({factor * found.low:.{digits}f}, {factor * found.high:.{digits}f})"
    facts: dict[str, Any] = {"low": found.low, "high": found.high, "count": found.count, "protocol": found.protocol}
    return Cell(text, value=found.value, metric=found.name, **{name: fact for name, fact in facts.items() if fact is not None})


def explanation_content(explanation: Explanation, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON data, with the model's error (``measured``: the run's ``explanation.json``)."""
    groups = {"levels": explanation.levels, "parts": explanation.parts}
    rows = {
        group: [{name: value for name, value in vars(one).items() if group == "levels" or not name.startswith("step")} for one in found]
        for group, found in groups.items()
    }
    about = {"run": explanation.run, "metric": explanation.metric, "steps": explanation.steps, "guidance": explanation.guidance}
    return {**about, **rows, "error": measured["error"], "note": NOT_ADDITIVE}
