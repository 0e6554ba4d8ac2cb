"""The guidance scale of a tokenizer, chosen on one seed and scored on the others, so that no score takes part in the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from svgbench.config.contrasts import FEWEST_SCALES
from svgbench.config.records import Protocol
from svgbench.stages.graph import UNGUIDED, UNGUIDED_LEFT_OUT
from svgbench.tables.collect import RunRecord
from svgbench.tables.measures import MEASURES
from svgbench.tables.standings import shared_protocol

GUIDED_ONLY = (*UNGUIDED, *UNGUIDED_LEFT_OUT)
"""Sampling fields that do not affect scores at guidance 1."""


class TunedGuidance(NamedTuple):
    """Scores at the tuned scale, or why there are none."""

    scores: list[dict[str, Any]]
    """One for each seed except the one on which the scale was chosen, in order; their protocol says how it was chosen."""
    text: str
    """The choice: ``2 of 1, 1.5, 2, 3, chosen on seed 0``; empty if there is none."""
    lacks: str
    """Why there are no scores, to follow the words "tuned guidance"; empty if there are some."""


def tuned(scores: Sequence[dict[str, Any]], records: Sequence[RunRecord]) -> TunedGuidance:
    """``scores``: of one metric, at one number of steps and one point of the training, of the runs ``records`` of one row, which differ in
    their seeds alone.

    The scale with the best score of the run with the smallest seed (the smallest scale if equal) is taken for all others; that seed is left
    out. The candidates are the scales that the runs draw (``sampling.guidance``). The seeds that remain are independent of the choice, so
    tests and intervals over them hold. To choose for each seed on the others would lose no seed, but these choices share seeds, and a
    t-test then rejects true hypotheses too often (``tests/tables/test_tuned_guidance.py``)."""
    scales = scales_of(records, scores)
    listed = ", ".join(f"{scale:g}" for scale in scales)
    if len(scales) < FEWEST_SCALES:
        return _none(f"needs {FEWEST_SCALES} scales or more in sampling.guidance, not {listed or 'none'}")
    if len({record.seed for record in records}) < 2:
        return _none("needs two seeds or more: one to choose the scale, and others to score it")
    if len({shared_protocol(score, GUIDED_ONLY) for score in scores}) > 1:
        return _none("needs scores of one protocol, and the row has several")
    seed = min(record.seed for record in records)
    by_scale = {score["guidance"]: score for score in scores if score["seed"] == seed}
    if missing := [scale for scale in scales if scale not in by_scale]:
        return _none(f"is chosen on seed {seed}, which has no score at scale {', '.join(f'{scale:g}' for scale in missing)}")
    sign = 1 if MEASURES[scores[0]["metric"]].better == "lower" else -1
    best = min(scales, key=lambda scale: sign * by_scale[scale]["value"])
    others = sorted((score for score in scores if score["guidance"] == best and score["seed"] != seed), key=lambda score: score["seed"])
    if not others:
        return _none(f"is {best:g}, chosen on seed {seed}, and no other seed has a score at this scale")
    guided = next(by_scale[scale] for scale in scales if scale != 1)
    how = f"guidance-tuned-of-{listed.replace(', ', ',')}-on-seed{seed}"
    edge = best == scales[-1] or (best == scales[0] and best != 1)
    beyond = " (at the edge of the candidates, so a better one may lie beyond)" if edge else ""
    return TunedGuidance([_marked(score, guided, how) for score in others], f"{best:g} of {listed}, chosen on seed {seed}{beyond}", "")


def scales_of(records: Sequence[RunRecord], scores: Sequence[Mapping[str, Any]]) -> list[float]:
    """The guidance scales that the runs of a row draw, in order, also those not yet scored; of records without a configuration those of
    their scores of samples."""
    drawn = (record.config().get("sampling", {}).get("guidance") or () for record in records)
    return sorted(set().union(*drawn) or {score["guidance"] for score in scores} - {None})


def _none(why: str) -> TunedGuidance:
    return TunedGuidance([], "", why)


def _marked(score: Mapping[str, Any], guided: Mapping[str, Any], how: str) -> dict[str, Any]:
    """A score whose protocol says how its guidance was chosen, so that rows with other candidates are not ranked with it. The settings of
    guidance are those of ``guided``: at scale 1 they have no effect and are not recorded, and rows would seem to differ in them."""
    fields = dict(score["protocol_fields"])
    settings = {name.removeprefix("sampling.") for name in GUIDED_ONLY}
    same = {name: value for name, value in guided["protocol_fields"]["sampling"].items() if name in settings}
    fields["sampling"] = {**fields["sampling"], **same}
    fields["details"] = [*fields.get("details", ()), how]
    return {**score, "protocol_fields": fields, "protocol": Protocol.model_validate(fields).text}
