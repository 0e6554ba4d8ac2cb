"""Curves of gFID: against sampling steps, and against the images seen in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from svgbench.config.records import Protocol, SamplingProtocol, canonical, flat
from svgbench.tables.collect import RunRecord
from svgbench.tables.seeds import half_interval
from svgbench.tables.standings import shared_protocol

Over = Literal["steps", "images_seen"]
Guidance = Literal["none", "most"]
SAMPLING = tuple(f"sampling.{name}" for name in SamplingProtocol.model_fields)
LENGTH = ("seed", "diffusion.training.total_images", "diffusion.training.checkpoint_images")
"""Fields in which the configurations of the runs of one curve over images seen may differ."""


@dataclass(frozen=True)
class Curve:
    """gFID of one row of a table, separately for each seed."""

    name: str
    over: Over
    guidance: float
    steps: int | None
    """For a curve over images seen: the number of sampling steps; else None."""
    protocol: str
    """The protocol fields that two curves must share to be compared."""
    sampled: str
    """How its samples were drawn, except for steps and guidance: ``euler-shift0.15``."""
    seeds: dict[int, tuple[tuple[float, float], ...]]
    """Seed -> (steps or images seen, gFID), left to right."""
    records: tuple[RunRecord, ...]

    def points(self) -> list[tuple[float, float, float | None]]:
        """(steps or images seen, mean gFID, half of the 95 % t-interval, or None for fewer than two seeds), left to right."""
        values: dict[float, list[float]] = {}
        for points in self.seeds.values():
            for x, y in points:
                values.setdefault(x, []).append(y)
        return [(x, mean(ys), half_interval(ys) if len(ys) > 1 else None) for x, ys in sorted(values.items())]

    def whole(self) -> dict[int, tuple[tuple[float, float], ...]]:
        """The seeds that have every point of the curve: a missing point (failed, or not run yet) does not mean an unreached gFID."""
        every = {x for points in self.seeds.values() for x, _ in points}
        return {seed: points for seed, points in self.seeds.items() if {x for x, _ in points} == every}

    def is_of(self, word: str) -> bool:
        """Whether the curve has this name, family or encoder."""
        abouts = [record.about for record in self.records]
        return word == self.name or any(word in (about["family"], about["encoder"]) for about in abouts)


def curves(records: Sequence[RunRecord], over: Over, guidance: Guidance = "none", by_design: Sequence[str] = ()) -> list[Curve]:
    """Every curve of two points or more from these runs, in their order; ``most``: at each run's largest guidance scale."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(_same_run(record, over), []).append(record)
    candidates = [_curve(group, over, guidance, by_design) for group in groups.values()]
    return [curve for curve in candidates if curve is not None]


def panels(records: Sequence[RunRecord], over: Over, guidance: Guidance) -> list[list[Curve]]:
    """The curves by panel: those of one panel share judge and reference, but may differ in their sampling."""
    panel_curves: dict[tuple[str, float, int | None], list[Curve]] = {}
    for curve in curves(records, over, guidance, SAMPLING):
        panel_curves.setdefault((curve.protocol, curve.guidance, curve.steps), []).append(curve)
    return list(panel_curves.values())


def _same_run(record: RunRecord, over: Over) -> str:
    if over == "steps":
        return record.row
    kept = {name: value for name, value in flat(record.config()).items() if name not in LENGTH}
    return canonical(kept) if kept else record.row


def _curve(group: list[RunRecord], over: Over, guidance: Guidance, by_design: Sequence[str]) -> Curve | None:
    scores = [s for record in group for s in record.scores if s["metric"] == "gfid" and s[over]]
    scales = {s["guidance"] for s in scores}
    wanted = 1.0 if guidance == "none" else max(scales, default=1.0)
    if guidance == "most" and wanted == 1.0:
        return None
    scores = [s for s in scores if s["guidance"] == wanted]
    if over == "steps":  # only networks at the end of their training
        last = max((s["images_seen"] or 0 for s in scores), default=0)
        scores = [s for s in scores if (s["images_seen"] or 0) == last]
    steps = max((s["steps"] for s in scores), default=0) if over == "images_seen" else None
    scores = [s for s in scores if steps in (None, s["steps"])]
    protocols = {shared_protocol(s, by_design) for s in scores}
    points: dict[int, dict[float, float]] = {}
    for s in scores:
        points.setdefault(s["seed"], {})[s[over]] = s["value"]
    if len(protocols) != 1 or len({x for value_at in points.values() for x in value_at}) < 2:
        return None
    seeds = {seed: tuple(sorted(value_at.items())) for seed, value_at in sorted(points.items())}
    how = Protocol.model_validate(scores[0]["protocol_fields"]).sampling
    return Curve(_shared_name(group), over, wanted, steps, protocols.pop(), how.how if how else "", seeds, tuple(group))


def _shared_name(group: Sequence[RunRecord]) -> str:
    """The parts that the names of all runs of a curve share."""
    sign = ", " if group[0].label else "."
    names = [record.row.split(sign) for record in group]
    return sign.join(part for part in names[0] if all(part in name for name in names)) or group[0].row
