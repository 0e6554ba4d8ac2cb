"""Measured runs in a paper's table: a layout's columns, a row for each tokenizer or recipe, beside its name what the layout shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svgbench.config.records import canonical
from svgbench.tables.collect import RunRecord
from svgbench.tables.curves import curves
from svgbench.tables.facts import Row, fact, title_of
from svgbench.tables.footnotes import Footnotes
from svgbench.tables.layouts import Column, Contested, Layout
from svgbench.tables.measures import MEASURES, upstream
from svgbench.tables.published import Published
from svgbench.tables.published_tables import published_table
from svgbench.tables.ratios import ratio_table
from svgbench.tables.report import group_name
from svgbench.tables.standings import Entry, flat, standings
from svgbench.tables.table import Cell, Table


def paper_tables(
    layout: Layout, records: Sequence[RunRecord], published: Sequence[Published], facts: Sequence[Contested]
) -> list[Table]:
    """The layout's table of these runs, the published rows under it, and its headline ratios."""
    tables = [measured_table(layout, records)]
    if layout.published:
        tables.append(published_table(layout, published, facts))
    if layout.ratios is not None:
        said = [f"contested: {fact.says}" for fact in facts if fact.ratios]
        for guidance in layout.ratios.guidance:
            found = curves(records, layout.ratios.over, guidance, layout.shows)
            tables.append(ratio_table(found, baseline=layout.ratios.baseline, targets=layout.ratios.targets, notes=said))
    return [table for table in tables if table is not None and table.rows]


def measured_table(layout: Layout, records: Sequence[RunRecord]) -> Table:
    """The measured rows of a layout; what a run does not have is a dash, what failed is said, both with a footnote."""
    rows = _rows(records)
    chosen = [(column, row, key, score) for column in layout.columns for row in rows for key, score in _chosen(column, rows[row].scores)]
    differing = _differing(layout.shows, [(column, score) for column, _, _, score in chosen])
    titles: dict[str, Column] = {}
    for column in layout.columns:
        keys = dict.fromkeys(key for own, _, key, _ in chosen if own is column)
        for key in sorted(keys, key=lambda k: (k[0] or 0, k[1] or 0)) or [(None, None)]:
            titles[_title(column, key, differing)] = column
    entries = [Entry(row, _title(column, key, differing), score) for column, row, key, score in chosen]
    marks = Footnotes()

    def absent(row: str, title: str) -> str:
        return _absent(titles[title], rows[row], marks)

    table = standings(layout.title, entries, rows=list(rows), columns=list(titles), by_design=differing, absent=absent)
    _say_missing_seeds(table, rows, titles, marks)
    lead = [(title_of(name), name) for name in layout.rows]
    lead += [(name.removeprefix("sampling.").replace("_", " "), name) for name in differing]
    table.columns[1:1] = [title for title, _ in lead]
    for texts, (name, row) in zip(table.rows, rows.items(), strict=True):
        own = [score for _, r, _, score in chosen if r == name]
        texts[1:1] = [_shown(field, own) if field in differing else fact(field, row) for _, field in lead]
    table.notes += [*marks.notes(), *layout.notes]
    return table


def _differing(shows: Sequence[str], chosen: list[tuple[Column, dict[str, Any]]]) -> list[str]:
    """Those fields of the protocol in which the numbers of some column really differ."""
    values: dict[tuple[str, int], set[str]] = {}
    for column, score in chosen:
        fields = flat(score["protocol_fields"])
        for name in shows:
            values.setdefault((name, id(column)), set()).add(canonical(fields.get(name)))
    return [name for name in shows if any(len(found) > 1 for (field, _), found in values.items() if field == name)]


def _rows(records: Sequence[RunRecord]) -> dict[str, Row]:
    """Name of a row -> its runs (seeds) and their scores; a run scored at several points of its training has a row for each."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(group_name(record.name), []).append(record)
    rows: dict[str, Row] = {}
    for name, own in groups.items():
        scores = [score for record in own for score in record.scores]
        seen = sorted({s["images_seen"] or 0 for s in scores if s["metric"] == "gfid"})
        if len(seen) < 2:
            rows[name] = Row(own, scores)
        for images in seen if len(seen) > 1 else []:
            rows[f"{name}, {images:,} images"] = Row(own, [s for s in scores if s["steps"] is None or s["images_seen"] == images])
    return rows


Key = tuple[int | None, float | None]
"""Steps and guidance that a column's title has to say."""


def _chosen(column: Column, scores: list[dict[str, Any]]) -> list[tuple[Key, dict[str, Any]]]:
    """The scores of a row that belong to a layout's column."""
    own = [s for s in scores if s["metric"] == column.metric]
    if not column.sampled:
        parts = {s["detail"].get("latents") for s in own}
        wanted = column.latents if column.latents != "whole" else "both" if "both" in parts else "features"
        return [((None, None), s) for s in own if s["detail"].get("latents") in (None, wanted)]
    guided = [s["guidance"] for s in own if s["guidance"] != 1]
    scale = {"none": 1.0, "most": max(guided, default=None), "all": "all"}.get(column.guidance, column.guidance)  # type: ignore[call-overload]
    own = [s for s in own if scale in ("all", s["guidance"])]
    steps = max((s["steps"] for s in own), default=0) if column.steps == "most" else column.steps
    return [((s["steps"], s["guidance"]), s) for s in own if steps in ("all", s["steps"])]


def _title(column: Column, key: Key, differing: Sequence[str]) -> str:
    """A column's title: the metric, which way is better, and of samples the steps and the guidance that the rows do not say."""
    measure = MEASURES[column.metric]
    title = f"{column.title or measure.title} {measure.arrow}"
    if column.latents not in ("whole", "both") and not column.title:
        title += f", {column.latents}"
    steps, guidance = key
    if steps is not None and "sampling.steps" not in differing:
        title += f", {steps} steps"
    if column.sampled and column.guidance == "most" and (guidance is None or "sampling.guidance" in differing):
        return f"{title}, guided"
    if guidance is not None and (guidance != 1 or column.guidance == "all"):
        title += f", guidance {guidance:g}"
    return title


def _absent(column: Column, row: Row, marks: Footnotes) -> str:
    """What stands where a row has no number: ``failed`` with the reason, or a dash with why."""
    failed = [record for record in row.records if _failures(column, [record])]
    if failed and len(failed) == len(row.records):  # a seed that did not fail would have the number if it had been asked for
        return f"failed {marks.mark(_failures(column, row.records))}"
    if column.latents in ("residual", "both") and row.scores and all(s["residual_channels"] == 0 for s in row.scores):
        return f"- {marks.mark('has no residual')}"
    if any(s["metric"] == column.metric for s in row.scores):
        return f"- {marks.mark('not sampled with these steps and guidance')}"
    return f"- {marks.mark('not scored in this run')}"


def _failures(column: Column, records: list[RunRecord]) -> str:
    """Why the runs of a row have no such score, empty where nothing that it stands on failed."""
    if not any(record.about["failures"] for record in records):
        return ""
    behind = upstream(MEASURES[column.metric].stages)
    several = len(records) > 1
    return "; ".join(
        (f"seed {record.seed}, " if several else "") + f"{stage}: {reason.rstrip('.')}"
        for record in records
        for stage, reason in record.about["failures"].items()
        if stage in behind
    )


def _say_missing_seeds(table: Table, rows: dict[str, Row], titles: dict[str, Column], marks: Footnotes) -> None:
    """Marks the numbers that failed seeds are missing from."""
    for texts, row in zip(table.rows, rows.values(), strict=True):
        for i, text in enumerate(texts):
            column = titles.get(table.columns[i].rsplit(" [", 1)[0])
            failures = _failures(column, row.records) if column is not None and isinstance(text, Cell) else ""
            if failures and isinstance(text, Cell):
                texts[i] = Cell(f"{text} {marks.mark(f'without {failures}')}", place=text.place, value=text.value, hint=text.hint)


def _shown(name: str, scores: list[dict[str, Any]]) -> str:
    """The values of a protocol's field in a row, of samples where it is a way of sampling."""
    fields = [flat(s["protocol_fields"]) for s in scores]
    part = "sampling.sampler" if name.startswith("sampling.") else name
    values = list(dict.fromkeys(own.get(name) for own in fields if own.get(part) is not None))
    return ", ".join("-" if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in values) or "-"
