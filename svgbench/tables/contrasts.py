"""The table of an experiment's contrasts: paired differences over seeds, Holm's correction, and which were declared before the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from svgbench.config.contrasts import Contrast
from svgbench.lab.contrasts import identity, runs_of
from svgbench.tables.collect import RunRecord
from svgbench.tables.differences import difference_cell
from svgbench.tables.footnotes import Footnotes
from svgbench.tables.measures import MEASURES
from svgbench.tables.pretrainings import PAIR, weights_of
from svgbench.tables.seeds import apart
from svgbench.tables.significance import LEVEL, holm, paired_p
from svgbench.tables.standings import fields_of
from svgbench.tables.table import Cell, Table
from svgbench.tables.tuned_guidance import tuned

COLUMNS = ["contrast", "metric", "difference", "seeds", "expected", "p", "p (Holm)", f"holds at {100 * LEVEL:g} %", "declared"]
EXPECTED = {"two-sided": "other than 0", "less": "below 0", "greater": "above 0"}
LATE = (
    "added after the runs, or not recorded before them: some of these scores existed when it was declared, so it is exploratory. "
    "Its p is corrected over all contrasts, the p of the others over those declared before the runs"
)


class _Tested(NamedTuple):
    """A contrast and the scores that it pairs."""

    contrast: Contrast
    differences: dict[int, float]
    """By seed."""
    score: dict[str, Any] | None
    """One of the scores, for its protocol and count."""
    remarks: list[str]
    early: str | None
    """Time of the declaration if it was before the runs, else None."""

    @property
    def p(self) -> float | None:
        return paired_p(list(self.differences.values()), self.contrast.alternative)


def contrast_table(
    contrasts: Sequence[Contrast], records: Sequence[RunRecord], cells: Mapping[str, str], known: Mapping[str, Mapping[str, Any]]
) -> Table:
    """One row for each contrast. ``cells``: name of each run of the experiment -> its cell; ``known``: entries of
    ``lab.contrasts.declared``."""
    tested = [_tested(contrast, records, cells, known) for contrast in contrasts]
    corrected = [_corrected(one, tested) for one in tested]
    marks, rows = Footnotes(), []
    for one, p in zip(tested, corrected, strict=True):
        name = f"{one.contrast.name}: {one.contrast.between[0]} minus {one.contrast.between[1]} {marks.mark(one.contrast.why)}"
        found = _difference(one)
        for remark in one.remarks:
            found = found.marked(marks.mark(remark))
        verdict = "untested" if p is None else "yes" if p < LEVEL else "no"
        declared = f"before the runs, {one.early[:10]}" if one.early else f"after the runs {marks.mark(LATE)}"
        texts = [_title(one.contrast), found, str(len(one.differences)), EXPECTED[one.contrast.alternative], _p(one.p), _p(p), verdict]
        rows.append([name, *texts, declared])
    table = Table("Contrasts", list(COLUMNS), rows, kind="contrasts")
    table.notes = [
        "difference: the first cell minus the second at the same seed, mean ± half of the 95 % t-interval; p: paired t-test over seeds, "
        "one-sided where the expected sign is given",
        f"p (Holm): corrected over the {sum(one.early is not None for one in tested)} contrasts declared before the runs, so that the "
        f"probability of any false positive among these stays below {100 * LEVEL:g} %; contrasts that cannot be tested yet are counted",
        *marks.notes(),
    ]
    return table


def _corrected(one: _Tested, every: Sequence[_Tested]) -> float | None:
    """Holm's p of a contrast. The correction is over the contrasts declared before the runs, or over all contrasts if this one was not."""
    if one.p is None:
        return None
    family = [other for other in every if other.early] if one.early else list(every)
    ps = [1.0 if other.p is None else other.p for other in family]
    return holm(ps)[next(i for i, other in enumerate(family) if other is one)]


def _tested(contrast: Contrast, records: Sequence[RunRecord], cells: Mapping[str, str], known: Mapping[str, Mapping[str, Any]]) -> _Tested:
    entry = known.get(identity(contrast, cells))
    early = entry["declared"] if entry is not None and entry["before"] else None
    named = {record.name: record for record in records}
    sides = [[named[run] for run in runs if run in named] for runs in runs_of(contrast, cells)]
    (one, said), (other, said_other) = (_scores(contrast, side) for side in sides)
    shared = one.keys() & other.keys()
    seeds = apart({seed: (one[seed], other[seed]) for seed in shared})
    remarks = []
    remarks += [f"{cell}: {text}" for cell, text in zip(contrast.between, (said, said_other), strict=True) if text]
    if not seeds:
        absent = [(cell, side) for cell, side, scores in zip(contrast.between, sides, (one, other), strict=True) if not scores]
        elsewhere = [cell for cell, side in absent if any(row["metric"] == contrast.metric for record in side for row in record.scores)]
        missing = [cell for cell, _ in absent if cell not in elsewhere]
        remarks += [f"no score yet for {' and '.join(missing)}"] if missing else []
        remarks += [f"{' and '.join(elsewhere)}: scored, but not as this contrast compares ({_way(contrast)})"] if elsewhere else []
        remarks += [] if absent else ["no seed for which both cells have a score"]
        return _Tested(contrast, {}, None, remarks, early)
    made = [_apart(one[seed], other[seed]) for seed in seeds]
    if any(not comparable for comparable, _ in made):
        remarks.append(f"not comparable: the protocols differ in {next(how for comparable, how in made if not comparable)}")
        return _Tested(contrast, {}, None, remarks, early)
    remarks += list(dict.fromkeys(f"the cells are sampled differently: {how}" for _, how in made if how))
    if len(seeds) < 2:
        together = "the seeds share one autoencoder, so this is one difference: no test is possible; train it again with other seeds"
        remarks.append(together if len(shared) > 1 else "one seed: no test is possible; run two or more")
    weights = [set().union(*(weights_of(record) for record in side)) for side in sides]
    if all(len(files) == 1 for files in weights) and weights[0] != weights[1]:
        remarks.append(PAIR)
    return _Tested(contrast, {seed: one[seed]["value"] - other[seed]["value"] for seed in seeds}, one[seeds[0]], remarks, early)


def _scores(contrast: Contrast, side: Sequence[RunRecord]) -> tuple[dict[int, dict[str, Any]], str]:
    """Seed -> the score of a cell that a contrast compares; and a remark on tuned guidance, if there is one."""
    if not MEASURES[contrast.metric].of_samples:
        return {record.seed: score for record in side if (score := _of_latents(contrast, record))}, ""
    rows = [row for record in side for row in _of_samples(contrast, record)]
    if contrast.guidance == "tuned" and rows:
        found = tuned(rows, side)
        said = f"guidance {found.text}" if found.scores else f"tuned guidance {found.lacks}"
        return {score["seed"]: score for score in found.scores}, said
    return {row["seed"]: row for row in reversed(rows)}, ""  # the first of each seed


def _of_latents(contrast: Contrast, record: RunRecord) -> dict[str, Any] | None:
    """The score of a run's images or latents that a contrast compares."""
    rows = [row for row in record.scores if row["metric"] == contrast.metric]
    parts = {row["detail"].get("latents") for row in rows}
    wanted = contrast.latents if contrast.latents != "whole" else "both" if "both" in parts else "features"
    return next((row for row in rows if row["detail"].get("latents") in (None, wanted)), None)


def _of_samples(contrast: Contrast, record: RunRecord) -> list[dict[str, Any]]:
    """The scores of a run's samples that a contrast compares: one, or one for each guidance scale if it is tuned."""
    rows = [row for row in record.scores if row["metric"] == contrast.metric]
    seen = record.images_at(contrast.trained)
    if seen is None and contrast.trained != 1:  # a released transformer has no snapshots
        return []
    rows = [row for row in rows if seen is None or row["images_seen"] == seen]
    if contrast.guidance != "tuned":
        guided = [row["guidance"] for row in rows if row["guidance"] != 1]
        scale = 1 if contrast.guidance == "none" else max(guided, default=None) if contrast.guidance == "most" else contrast.guidance
        rows = [row for row in rows if row["guidance"] == scale]
    drawn = record.config().get("sampling", {}).get("steps") or [row["steps"] for row in rows]  # also those whose samples failed
    steps = max(drawn, default=0) if contrast.steps == "most" else contrast.steps
    return [row for row in rows if row["steps"] == steps]


def _apart(one: dict[str, Any], other: dict[str, Any]) -> tuple[bool, str]:
    """Whether two scores may be compared, and the fields in which their protocols differ. Only the sampling may differ, including how
    labels are drawn."""
    mine, theirs = fields_of(one), fields_of(other)
    differing = [name for name in mine | theirs if mine.get(name) != theirs.get(name)]
    barred = [name for name in differing if not name.startswith("sampling.") and name != "balance"]
    told = barred or differing
    return not barred, ", ".join(f"{name.removeprefix('sampling.')} ({mine.get(name)}, {theirs.get(name)})" for name in told)


def _title(contrast: Contrast) -> str:
    """The metric, and the steps and guidance at which it is compared."""
    measure = MEASURES[contrast.metric]
    return ", ".join([f"{measure.title} {measure.arrow}", *_ways(contrast)])


def _way(contrast: Contrast) -> str:
    return ", ".join(_ways(contrast)) or "without guidance"


def _ways(contrast: Contrast) -> list[str]:
    """The part of the latents, or the steps, guidance and point of the training, if they are not the defaults."""
    if not MEASURES[contrast.metric].of_samples:
        return [] if contrast.latents == "whole" else [contrast.latents]
    named = {"none": [], "most": ["guided"], "tuned": ["tuned guidance"]}
    guidance = named.get(str(contrast.guidance), [f"guidance {contrast.guidance}"])
    trained = [] if contrast.trained == 1 else [f"after {100 * contrast.trained:g} % of the training"]
    return [*([] if contrast.steps == "most" else [f"{contrast.steps} steps"]), *guidance, *trained]


def _difference(one: _Tested) -> Cell:
    """The mean difference and its interval; a dash if there is none."""
    return difference_cell(one.differences, one.score) if one.differences and one.score is not None else Cell("-")


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
