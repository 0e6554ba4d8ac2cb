"""The guidance scale of a tokenizer, chosen for each seed on its other seeds, so that no score is chosen by itself."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

from svgbench.config.contrasts import FEWEST_SCALES
from svgbench.tables.measures import MEASURES


class TunedGuidance(NamedTuple):
    """Scores at the tuned scale."""

    scores: list[dict[str, Any]]
    """One for each seed, in order; empty if nothing can be chosen."""
    scales: tuple[float, ...]
    """The candidates: the scales at which every seed has a score, in order."""

    @property
    def text(self) -> str:
        """The chosen scales: ``2 of 1, 1.5, 2, 3``; several with their seeds."""
        seeds: dict[float, list[str]] = {}
        for score in self.scores:
            seeds.setdefault(score["guidance"], []).append(str(score["seed"]))
        named = {scale: f" (seed{'s' * (len(of) > 1)} {', '.join(of)})" if len(seeds) > 1 else "" for scale, of in sorted(seeds.items())}
        text = " and ".join(f"{scale:g}{of}" for scale, of in named.items()) + f" of {', '.join(f'{scale:g}' for scale in self.scales)}"
        return text + ("; the largest candidate, so a better one may lie beyond it" if self.scales[-1] in seeds else "")


def tuned(scores: Sequence[dict[str, Any]]) -> TunedGuidance:
    """``scores``: of one metric of one row, at one number of steps and one point of the training, of several seeds and guidance scales.

    For each seed the scale with the best mean of this metric over the other seeds is chosen (the smallest if equal), among the scales at
    which every seed has a score. This is leave-one-out cross-validation: the mean over seeds is that of a choice made on all seeds but one,
    without the bias of choosing and scoring on the same seed. It needs two seeds and three scales."""
    by_seed: dict[int, dict[float, dict[str, Any]]] = {}
    for score in scores:
        by_seed.setdefault(score["seed"], {}).setdefault(score["guidance"], score)
    scales = tuple(sorted(set.intersection(*map(set, by_seed.values())))) if by_seed else ()
    if len(by_seed) < 2 or len(scales) < FEWEST_SCALES:
        return TunedGuidance([], scales)
    sign = 1 if MEASURES[scores[0]["metric"]].better == "lower" else -1

    def chosen(seed: int) -> float:
        others = [found for other, found in by_seed.items() if other != seed]
        return min(scales, key=lambda scale: sign * mean(found[scale]["value"] for found in others))

    picked = {seed: chosen(seed) for seed in sorted(by_seed)}
    return TunedGuidance([_as_guided(found[picked[seed]], found[scales[-1]]) for seed, found in sorted(by_seed.items())], scales)


def _as_guided(score: dict[str, Any], guided: dict[str, Any]) -> dict[str, Any]:
    """A score with the settings of guidance of another one. At scale 1 they have no effect and are not recorded, so that scores of one row
    at several scales would have several protocols."""
    if score["guidance"] != 1:
        return score
    fields, sampling = score["protocol_fields"], {**guided["protocol_fields"]["sampling"], "guidance": 1.0}
    return {**score, "protocol_fields": {**fields, "sampling": sampling}}
