"""What predicts gFID: rank correlations over tokenizers of every other figure with gFID, and of gFIDs early and late in the training, or of
a small and a large transformer.

A tokenizer is a row of a report; its seeds are averaged first, so that seeds of one tokenizer do not count as several. Rows of several
experiments that share a trained transformer are one tokenizer too. gFIDs are compared
only under one protocol. Correlations are Kendall's tau-b (Biometrika 30, 1938; ties: Biometrika 33, 1945) and Spearman's rho. Intervals are
95 % percentiles over bootstrap resamples of the tokenizers; with the few tokenizers of most reports they are wide, and say so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from svgbench.config.records import canonical
from svgbench.tables.collect import RunRecord
from svgbench.tables.measures import MEASURES
from svgbench.tables.seeds import measured_once, value_of
from svgbench.tables.standings import shared_protocol
from svgbench.tables.table import Cell, Table

NAME = "predictors"
"""The name of the page for ``svgbench report``."""
FEWEST = 4
"""Smallest number of tokenizers for a rank correlation."""
RESAMPLES = 2_000
TRANSFORMERS = ("diffusion", "continued-diffusion")
"""The stages that train a transformer."""
SIZE = ("size", "transformer")
"""Fields of ``diffusion`` in which a small and a large transformer differ."""

Values = Mapping[str, float]
"""Row -> a figure, averaged over the row's seeds."""


class Correlation(NamedTuple):
    """A rank correlation with its bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def cell(self) -> Cell:
        """``+0.60 (-0.20, +1.00)``; ``-1.00`` of a perfect order, which every resample keeps, so that it has no interval."""
        if math.isclose(self.low, self.high):
            return Cell(f"{self.value:+.2f}", value=self.value)
        return Cell(f"{self.value:+.2f} ({self.low:+.2f}, {self.high:+.2f})", value=self.value, low=self.low, high=self.high)


def kendall(one: Sequence[float], other: Sequence[float]) -> Correlation | None:
    """Kendall's tau-b of two figures of the same tokenizers; None if one of them is constant."""
    return _ranks(one, other, _signs)


def p_of(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p of Kendall's tau if the figures were not associated; exact if no values are equal."""
    from scipy.stats import kendalltau

    return float(kendalltau(one, other).pvalue)


def spearman(one: Sequence[float], other: Sequence[float]) -> Correlation | None:
    """Spearman's rho of two figures of the same tokenizers; None if one of them is constant."""
    return _ranks(one, other, _centred_ranks)


def _signs(values: np.ndarray) -> np.ndarray:
    """Signs of the differences of all pairs, [r, n n], of rows [r, n]; their cosine is tau-b."""
    return np.sign(values[:, :, None] - values[:, None, :]).reshape(len(values), -1)


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Correlation minus their mean, [r, n], of rows [r, n]; equal values share their mean rank. Their cosine is Spearman's rho."""
    from scipy.stats import rankdata

    return rankdata(values, axis=1) - (values.shape[1] + 1) / 2


def _ranks(one: Sequence[float], other: Sequence[float], of: Callable[[np.ndarray], np.ndarray]) -> Correlation | None:
    a, b = np.asarray(one, float), np.asarray(other, float)
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    picked = np.random.Generator(np.random.Philox(key=[len(a), 1])).integers(0, len(a), (RESAMPLES, len(a)))
    picked[0] = np.arange(len(a))
    x, y = of(a[picked]), of(b[picked])
    length = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    found = (x * y).sum(1)[length > 0] / length[length > 0]  # a resample of one tokenizer alone has no correlation
    low, high = np.percentile(found, [2.5, 97.5])
    return Correlation(float(found[0]), float(low), float(high))


def predictor_tables(records: Sequence[RunRecord], more: Mapping[str, Mapping[str, float]] | None = None) -> list[Table]:
    """The tables of these runs; those without rows are left out. ``more``: title of a further figure -> row -> its value."""
    tokenizers = _tokenizers(records)
    titles = {record.name: tokenizers[record.row] for record in records}
    ends = [row for record in records for row in record.scores if _at_end(record, row)]
    gfids = _by_protocol((row for row in ends if row["metric"] == "gfid"), titles)
    further = {title: {tokenizers.get(row, row): value for row, value in rows.items()} for title, rows in (more or {}).items()}
    figures = {**_figures(ends, titles), **further}
    tables = [_of_figures(title, values, figures) for title, values in gfids.items()]
    tables += [_of_training(records, titles), _of_sizes(records)]
    return [table for table in tables if table.rows]


def _tokenizers(records: Sequence[RunRecord]) -> dict[str, str]:
    """Row -> the first of the rows that share a trained transformer with it, directly or through others."""
    first = {record.row: record.row for record in records}
    rows_of: dict[str, list[str]] = {}
    for record in records:
        for stage in record.about["stages"]:
            if stage["stage"] in TRANSFORMERS and "key" in stage:
                rows_of.setdefault(stage["key"], []).append(record.row)
    for rows in rows_of.values():
        joined = {first[row] for row in rows}
        one = next(row for row in first if row in joined)
        first = {row: one if other in joined else other for row, other in first.items()}
    return first


def _at_end(record: RunRecord, row: Mapping[str, Any]) -> bool:
    """Whether a score is of the finished transformer, or of no transformer."""
    return not row["images_seen"] or record.images_seen is None or row["images_seen"] == record.images_seen


def _by_protocol(rows: Iterable[dict[str, Any]], titles: Mapping[str, str]) -> dict[str, Values]:
    """Steps, guidance and protocol of a gFID as a title -> row -> gFID."""
    found: dict[tuple[int, float, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        place = row["steps"], row["guidance"], shared_protocol(row, ())
        found.setdefault(place, {}).setdefault(titles[row["run"]], []).append(row)
    named: dict[str, Values] = {}
    for (steps, guidance, _), cells in sorted(found.items(), key=lambda item: item[0]):
        title = f"{steps} steps" + (f", guidance {guidance:g}" if guidance != 1 else "")
        same = sum(name.split(" [")[0] == title for name in named)
        first = next(iter(cells.values()))[0]
        named[f"{title} [{first['protocol']}]" if same else title] = {row: value_of(measured_once(scores)) for row, scores in cells.items()}
    return named


def _figures(rows: Iterable[dict[str, Any]], titles: Mapping[str, str]) -> dict[str, Values]:
    """Title of each figure of the autoencoder (reconstruction, perception) -> row -> its value; of latents, those of the whole."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        measure = MEASURES[row["metric"]]
        if measure.group in ("reconstruction", "perception"):
            found.setdefault(row["metric"], {}).setdefault(titles[row["run"]], []).append(row)
    return {MEASURES[metric].title: {row: value_of(_whole(scores)) for row, scores in cells.items()} for metric, cells in found.items()}


def _whole(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of whole latents, once for each measurement."""
    parts = {score["detail"].get("latents") for score in scores}
    wanted = "both" if "both" in parts else "features"
    return measured_once(score for score in scores if score["detail"].get("latents") in (None, wanted))


def _of_figures(title: str, gfids: Values, figures: Mapping[str, Values]) -> Table:
    """Each figure's correlation with gFID over the tokenizers that have both."""
    table = Table(f"What predicts gFID at {title}", ["figure", "tokenizers", "Kendall's τ with gFID", "p", "Spearman's ρ"], [])
    for name, values in figures.items():
        rows = [row for row in gfids if row in values]
        if len(rows) >= FEWEST:
            a, b = [values[row] for row in rows], [gfids[row] for row in rows]
            tau = kendall(a, b)
            table.rows.append([name, str(len(rows)), _cell(tau), "-" if tau is None else f"{p_of(a, b):.3f}", _cell(spearman(a, b))])
    table.rows.sort(key=lambda row: -abs(row[2].value or 0.0) if isinstance(row[2], Cell) else 1.0)
    table.notes = [
        "value (95 % bootstrap interval over tokenizers; a perfect order has none); p: of τ if there were no association, exact without "
        "ties, not corrected for the number of figures; τ below 0: where the figure is higher, gFID is lower, which is better",
        "strongest first: of many figures one is strong by chance, so test it on other tokenizers before you rely on it",
    ]
    return table


def _of_training(records: Sequence[RunRecord], titles: Mapping[str, str]) -> Table:
    """The order of tokenizers at each share of the training against that at its end."""
    table = Table(
        "Does a short training show the order?", ["share of the training", "tokenizers", "sampled", "Kendall's τ with the end"], []
    )
    found: dict[tuple[float, int, float, str], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        for row in record.scores:
            if row["metric"] == "gfid" and row["images_seen"] and record.images_seen:
                place = row["images_seen"] / record.images_seen, row["steps"], row["guidance"], shared_protocol(row, ())
                found.setdefault(place, {}).setdefault(titles[row["run"]], []).append(row)
    for (share, steps, guidance, protocol), cells in sorted(found.items()):
        end = found.get((1.0, steps, guidance, protocol), {})
        rows = [row for row in cells if row in end]
        if share < 1 and len(rows) >= FEWEST:
            ranks = kendall(*([value_of(measured_once(part[row])) for row in rows] for part in (cells, end)))
            table.rows.append([f"{100 * share:g} %", str(len(rows)), f"{steps} steps, guidance {guidance:g}", _cell(ranks)])
    table.notes = ["1: the order of the tokenizers is that at the end of the training; value (95 % bootstrap interval over tokenizers)"]
    return table


def _of_sizes(records: Sequence[RunRecord]) -> Table:
    """The order of tokenizers with one size of the transformer against that with another."""
    table = Table("Does a small transformer show the order?", ["sizes", "tokenizers", "sampled", "Kendall's τ"], [])
    found: dict[tuple[int, float, str], dict[str, dict[str, list[dict[str, Any]]]]] = {}
    for record in records:
        config = record.config()
        diffusion = config.get("diffusion") or {}
        if not diffusion.get("size"):
            continue
        rest = {name: value for name, value in diffusion.items() if name not in SIZE}
        tokenizer = canonical([config.get(part) for part in ("data", "encoder", "autoencoder", "latents")] + [rest])
        for row in record.scores:
            if row["metric"] == "gfid" and _at_end(record, row):
                place = row["steps"], row["guidance"], shared_protocol(row, ())
                found.setdefault(place, {}).setdefault(diffusion["size"], {}).setdefault(tokenizer, []).append(row)
    for (steps, guidance, _), sizes in sorted(found.items(), key=lambda item: item[0][:2]):
        for one, other in itertools.combinations(sizes, 2):
            shared = [tokenizer for tokenizer in sizes[one] if tokenizer in sizes[other]]
            if len(shared) >= FEWEST:
                ranks = kendall(*([value_of(measured_once(sizes[size][tokenizer])) for tokenizer in shared] for size in (one, other)))
                table.rows.append([f"{one} and {other}", str(len(shared)), f"{steps} steps, guidance {guidance:g}", _cell(ranks)])
    table.notes = ["1: both sizes give the same order of the tokenizers; value (95 % bootstrap interval over tokenizers)"]
    return table


def _cell(ranks: Correlation | None) -> Cell | str:
    return "-" if ranks is None else ranks.cell
