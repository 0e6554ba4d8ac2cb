"""Rows of a table compared with one of them, seed by seed.

Cells of an experiment with the same seed share images, order and noise, so the effect of the seed cancels in their difference. The interval
of paired differences therefore supports a claim about two rows; whether the intervals of the rows overlap does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from svgbench.tables.labels import row_of
from svgbench.tables.measures import MEASURES
from svgbench.tables.seeds import apart, half_interval
from svgbench.tables.standings import Entry, shared_protocol
from svgbench.tables.table import Cell, Table

Values = dict[tuple[str, str, str], dict[int, Entry]]
"""Row, column and protocol -> the score of each seed."""


def difference_table(
    title: str,
    entries: Sequence[Entry],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    baseline: str,
    by_design: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Table:
    """Each row minus the baseline at the same seed and protocol, in the columns of the entries' table. ``by_design``: fields of the
    protocol in which rows may differ. ``names``: names that may have several rows, such as one for each kind of latents; each kind is
    compared with the same kind of the baseline."""
    values: Values = {}
    for entry in entries:
        place = (entry.row, entry.column, shared_protocol(entry.score, by_design))
        values.setdefault(place, {})[entry.score["seed"]] = entry
    pairs: set[int] = set()
    compared = [(row, other) for row in rows if (other := beside(row, baseline, names)) in rows and row != other]
    cells = {column: [_cell(values, row, other, column, pairs) for row, other in compared] for column in columns}
    cells = {column: texts for column, texts in cells.items() if set(texts) != {"-"}}
    differences = [[row, *(texts[i] for texts in cells.values())] for i, (row, _) in enumerate(compared) if cells]
    table = Table(f"{title}: differences from {baseline}", ["run", *cells], differences, kind="differences")
    counts = " or ".join(map(str, sorted(pairs)))
    spread = [f"mean ± half of the 95 % t-interval over {counts} pairs"] if pairs - {1} else []
    spread += ["a single pair has no interval"] if 1 in pairs else []
    table.notes = [f"each row minus {baseline} at the same seed, under the protocols of the table above", *spread]
    return table


def beside(row: str, baseline: str, names: Sequence[str]) -> str:
    """The row of the baseline that matches a row's kind: ``base, residual`` for ``name, residual``."""
    name = row_of(row, names)
    return baseline if name is None else baseline + row.removeprefix(name)


def _cell(values: Values, row: str, baseline: str, column: str, pairs: set[int]) -> str:
    """The mean difference and its interval; a dash if there is no pair."""
    mine = {protocol: seeds for (r, c, protocol), seeds in values.items() if (r, c) == (row, column)}
    theirs = {protocol: seeds for (r, c, protocol), seeds in values.items() if (r, c) == (baseline, column)}
    if not mine or not theirs:
        return "-"
    protocol = next((p for p in mine if p in theirs), None)
    if protocol is None:
        return "other protocol"
    seeds = apart({s: (mine[protocol][s].score, theirs[protocol][s].score) for s in mine[protocol].keys() & theirs[protocol].keys()})
    if not seeds:
        return "no seed of the baseline"
    differences = {s: mine[protocol][s].score["value"] - theirs[protocol][s].score["value"] for s in seeds}
    pairs.add(len(differences))
    return difference_cell(differences, mine[protocol][seeds[0]].score)


def difference_cell(differences: Mapping[int, float], score: Mapping[str, Any]) -> Cell:
    """Seed -> difference as ``mean ± half of the 95 % t-interval``; one seed has no interval. ``score``: one of the two, for its metric,
    count and protocol."""
    values = list(differences.values())
    digits, centre = MEASURES[score["metric"]].digits, mean(values)
    half = half_interval(values) if len(values) > 1 else None
    text = f"{centre:+.{digits}f}" + (f" ± {half:.{digits}f}" if half is not None else "")
    hint = ", ".join(f"{value:+.{digits}f} (seed {seed})" for seed, value in differences.items())
    ends: dict[str, Any] = {} if half is None else {"low": centre - half, "high": centre + half}
    return Cell(text, value=centre, hint=hint, metric=score["metric"], count=score["count"], protocol=score["protocol"], **ends)
