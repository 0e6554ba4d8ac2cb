"""Measured runs in the layout of a paper's table: its columns, and a row for each tokenizer or recipe with the facts that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from svgbench.config.contrasts import FEWEST_SCALES
from svgbench.config.records import canonical
from svgbench.tables.collect import RunRecord
from svgbench.tables.differences import difference_table
from svgbench.tables.facts import Row, fact, title_of
from svgbench.tables.figures.series import curves
from svgbench.tables.footnotes import Footnotes
from svgbench.tables.labels import row_numbers
from svgbench.tables.layouts import Column, Contested, Layout
from svgbench.tables.measures import MEASURES, upstream
from svgbench.tables.published import Published
from svgbench.tables.published_tables import published_table
from svgbench.tables.ratios import ratio_table
from svgbench.tables.seeds import value_of
from svgbench.tables.standings import Entry, fields_of, shared_protocol, standings
from svgbench.tables.surface import surface_tables
from svgbench.tables.table import Cell, Table
from svgbench.tables.tuned_guidance import GUIDED_ONLY, TunedGuidance, scales_of, tuned


def paper_tables(
    layout: Layout, records: Sequence[RunRecord], published: Sequence[Published], facts: Sequence[Contested], *, against: str | None = None
) -> list[Table]:
    """The layout's table of these runs, the differences from the row ``against``, the published rows, and the headline ratios."""
    laid = _laid_out(layout, records)
    tables = surface_tables(layout, records) or [_measured(layout, laid)]
    if against is not None:
        rows, columns = list(laid.rows), list(laid.titles)
        names = list(row_numbers(records))
        difference = difference_table(
            layout.title, laid.entries, rows=rows, columns=columns, baseline=against, by_design=laid.differing, names=names
        )
        tables.append(difference)
    absent = [wanted.text() for wanted in layout.published if not any(wanted.holds(row) for row in published)]
    tables[0].notes += [f"no published row matches {words}, which the layout '{layout.name}' names" for words in absent]
    if layout.published:
        tables.append(published_table(layout, published, facts))
    if layout.ratios is not None:
        contested = [f"contested: {fact.says}" for fact in facts if fact.ratios]
        for guidance in layout.ratios.guidance:
            measured = curves(records, layout.ratios.over, guidance, layout.shows)
            ratios = ratio_table(measured, baseline=layout.ratios.baseline, targets=layout.ratios.targets, notes=contested)
            tables += [] if ratios is None else [ratios]
    return [table for table in tables if table.rows]


class _Laid(NamedTuple):
    """The scores of a layout, by row and column."""

    rows: dict[str, Row]
    titles: dict[str, _Titled]
    entries: list[Entry]
    differing: list[str]
    """Fields of the protocol that each row shows."""
    chosen: list[tuple[Column, str, Key, dict[str, Any]]]


def _laid_out(layout: Layout, records: Sequence[RunRecord]) -> _Laid:
    rows = _rows(records)
    chosen = [(column, row, key, score) for column in layout.columns for row in rows for key, score in _chosen(column, rows[row])]
    differing = _differing(layout.shows, [(column, score) for column, _, _, score in chosen])
    titles: dict[str, _Titled] = {}
    for column in layout.columns:
        keys = dict.fromkeys(key for other, _, key, _ in chosen if other is column)
        untuned = column.guidance == "tuned" and not keys and len(layout.columns) > 1
        if untuned or _left_out(column, rows):  # a note says so
            continue
        for key in sorted(keys, key=lambda k: (k[0] or 0, k[1] or 0)) or [(None, None)]:
            titles.setdefault(_title(column, key, differing), _Titled(column, [])).keys.append(key)
    entries = [Entry(row, _title(column, key, differing), score) for column, row, key, score in chosen]
    return _Laid(rows, titles, entries, differing, chosen)


def measured_table(layout: Layout, records: Sequence[RunRecord]) -> Table:
    """The measured rows of a layout; a missing number is a dash or ``failed``, with a footnote."""
    return _measured(layout, _laid_out(layout, records))


def _measured(layout: Layout, laid: _Laid) -> Table:
    rows, titles, entries, differing, chosen = laid
    marks = Footnotes()

    def absent(row: str, title: str) -> str:
        return _absent(titles[title], rows[row], marks)

    table = standings(layout.title, entries, rows=list(rows), columns=list(titles), by_design=differing, absent=absent)
    _mark_missing_seeds(table, rows, titles, entries, marks)
    lead = [(title_of(name), name) for name in layout.rows]
    lead += [(name.removeprefix("sampling.").replace("_", " "), name) for name in differing]
    table.columns[1:1] = [title for title, _ in lead]
    for texts, (name, row) in zip(table.rows, rows.items(), strict=True):
        row_scores = [score for _, r, _, score in chosen if r == name]
        texts[1:1] = [_shown(field, row_scores) if field in differing else fact(field, row) for _, field in lead]
    named = [f"layout of {layout.paper} of arXiv 2510.15301"] if layout.paper else []
    unscored = dict.fromkeys(MEASURES[column.metric].title for column in layout.columns if _left_out(column, rows))
    named += [f"without a column, because no row has it: {', '.join(unscored)}"] if unscored else []
    table.notes += [*_tuned_scales(layout, rows), *marks.notes(), *add_marks(table, layout, rows), *named, *layout.notes]
    return table


def _left_out(column: Column, rows: Mapping[str, Row]) -> bool:
    """Whether an optional column is left out: no row has its metric, and none failed to get it."""
    if not column.optional or any(_chosen(column, row) for row in rows.values()):
        return False
    titled = _Titled(column, [(None, None)])
    return not any(_failures(titled, row, record) for row in rows.values() for record in row.records)


def _tuned_scales(layout: Layout, rows: Mapping[str, Row]) -> list[str]:
    """A note for each column of tuned guidance: the scales of its rows, or why the column is left out although scales were drawn for it."""
    notes = []
    for column in layout.columns:
        if column.guidance != "tuned":
            continue
        found = {(name, steps): one for name, row in rows.items() for steps, one in _at_tuned_guidance(column, row).items()}
        several = len({steps for _, steps in found}) > 1
        texts = [f"{name}{f', {steps} steps' if several else ''}: {one.text}" for (name, steps), one in found.items() if one.scores]
        title = MEASURES[column.metric].title
        if texts:
            notes.append(f"tuned guidance for {title}; the seed on which it is chosen is left out. {'; '.join(texts)}")
        elif found:
            why = "; ".join(dict.fromkeys(f"it {one.lacks}" for one in found.values()))
            notes.append(f"no column of {title} at tuned guidance: {why}")
    return notes


def add_marks(table: Table, layout: Layout, rows: Mapping[str, Row]) -> list[str]:
    """Appends the layout's columns of marks and returns notes with their rules. Only numbers of one protocol are compared."""
    notes = []
    for mark in layout.marks:
        groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for name, row in rows.items():
            for _, score in _chosen(mark.column, row):
                groups.setdefault(shared_protocol(score, ()), {}).setdefault(name, []).append(score)
        measure = MEASURES[mark.metric]
        texts = dict.fromkeys(rows, "-")
        for of_rows in groups.values():
            values = {name: value_of(scores) for name, scores in of_rows.items()}
            best = (max if measure.better == "higher" else min)(values.values())
            texts |= {name: "✓" if abs(value - best) <= mark.within * abs(best) else "✗" for name, value in values.items()}
        table.columns.append(mark.title)
        for cells, name in zip(table.rows, rows, strict=True):
            cells.append(texts[name])
        notes.append(f"{mark.title} ✓: {measure.title} within {100 * mark.within:g} % of the best row")
    return notes


def _differing(shows: Sequence[str], chosen: list[tuple[Column, dict[str, Any]]]) -> list[str]:
    """The fields in ``shows`` in which the numbers of at least one column differ."""
    values: dict[tuple[str, int], set[str]] = {}
    for column, score in chosen:
        fields = fields_of(score)
        unused = GUIDED_ONLY if score["guidance"] == 1 else ("sampling.guidance",) if column.guidance == "tuned" else ()
        for name in [name for name in shows if name not in unused]:
            values.setdefault((name, id(column)), set()).add(canonical(fields.get(name)))
    return [name for name in shows if any(len(seen) > 1 for (field, _), seen in values.items() if field == name)]


def _rows(records: Sequence[RunRecord]) -> dict[str, Row]:
    """Name of a row -> its runs (seeds) and their scores; a run scored at several points of its training has a row for each."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.row, []).append(record)
    rows: dict[str, Row] = {}
    for name, group in groups.items():
        scores = [score for record in group for score in record.scores]
        seen = sorted({s["images_seen"] or 0 for s in scores if s["metric"] == "gfid"})
        if len(seen) < 2:
            rows[name] = Row(group, scores)
        for images in seen if len(seen) > 1 else []:
            rows[f"{name}, {images:,} images"] = Row(group, [s for s in scores if s["steps"] is None or s["images_seen"] == images], images)
    return rows


Key = tuple[int | None, float | None]
"""Steps and guidance that a column's title names."""


class _Titled(NamedTuple):
    """The contents of a title: a layout's column, and the steps and guidance of its numbers."""

    column: Column
    keys: list[Key]


def _chosen(column: Column, row: Row) -> list[tuple[Key, dict[str, Any]]]:
    """The scores of a row that belong to a layout's column."""
    if not column.sampled:
        matching = [s for s in row.scores if s["metric"] == column.metric]
        parts = {s["detail"].get("latents") for s in matching}
        wanted = column.latents if column.latents != "whole" else "both" if "both" in parts else "features"
        return [((None, None), s) for s in matching if s["detail"].get("latents") in (None, wanted)]
    if column.guidance == "tuned":
        return [((steps, None), score) for steps, found in _at_tuned_guidance(column, row).items() for score in found.scores]
    return [((s["steps"], s["guidance"]), s) for s in _of_column(column, row.scores)]


def _of_column(column: Column, scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scores of samples with a column's metric, steps and guidance; at all scales if the guidance is tuned."""
    matching = [s for s in scores if s["metric"] == column.metric]
    guided = [s["guidance"] for s in matching if s["guidance"] != 1]
    named: dict[Any, Any] = {"none": 1.0, "most": max(guided, default=None), "all": "all", "tuned": "all"}
    scale = named.get(column.guidance, column.guidance)
    matching = [s for s in matching if scale in ("all", s["guidance"])]
    steps = max((s["steps"] for s in matching), default=0) if column.steps == "most" else column.steps
    return [s for s in matching if steps in ("all", s["steps"])]


def _at_tuned_guidance(column: Column, row: Row) -> dict[int, TunedGuidance]:
    """Steps -> the row at its tuned guidance, for a column of tuned guidance; empty if the row draws too few scales to tune."""
    if len(scales_of(row.records, row.scores)) < FEWEST_SCALES:
        return {}
    groups: dict[int, list[dict[str, Any]]] = {}
    for score in _of_column(column, row.scores):
        groups.setdefault(score["steps"], []).append(score)
    return {steps: tuned(scores, row.records) for steps, scores in sorted(groups.items())}


def _title(column: Column, key: Key, differing: Sequence[str]) -> str:
    """A column's title: the metric, the arrow of its better direction, and for samples the steps and guidance that rows do not show."""
    measure = MEASURES[column.metric]
    title = f"{column.title or measure.title} {measure.arrow}"
    if column.latents not in ("whole", "both") and not column.title:
        title += f", {column.latents}"
    steps, guidance = key
    if steps is not None and "sampling.steps" not in differing:
        title += f", {steps} steps"
    if column.sampled and column.guidance == "most" and (guidance is None or "sampling.guidance" in differing):
        return f"{title}, guided"
    if column.guidance == "tuned":
        return f"{title}, tuned guidance"
    if guidance is not None and (guidance != 1 or column.guidance == "all"):
        title += f", guidance {guidance:g}"
    return title


def _absent(titled: _Titled, row: Row, marks: Footnotes) -> str:
    """The text of a cell without a number: ``failed`` or a dash, with a footnote that gives the reason."""
    column = titled.column
    failed = [record for record in row.records if _failures(titled, row, record)]
    if failed and len(failed) == len(row.records):  # a seed without failure would have the number if it had been requested
        return f"failed {marks.mark(_reasons(titled, row, failed))}"
    if column.latents in ("residual", "both") and row.scores and all(s["residual_channels"] == 0 for s in row.scores):
        return f"- {marks.mark('has no residual')}"
    lacking = [found.lacks for found in _at_tuned_guidance(column, row).values()] if column.guidance == "tuned" else []
    if lacking:
        return f"- {marks.mark(f'tuned guidance {lacking[-1]}')}"
    if any(s["metric"] == column.metric for s in row.scores):
        return f"- {marks.mark('not sampled with these steps and guidance')}"
    lacks = "has no such part" if MEASURES[column.metric].group == "cost" else "not scored in this run"
    return f"- {marks.mark(lacks)}"


def _failures(titled: _Titled, row: Row, record: RunRecord) -> list[str]:
    """Why a run has no such score; empty if nothing on which it depends failed. ``run.json`` names a failed node by its stage and its
    cell, such as ``samples steps 25 guidance 4 trained 0.5``; ``trained`` is omitted at the end of the training."""
    if not record.about["failures"]:
        return []
    column = titled.column
    behind = upstream(MEASURES[column.metric].stages)
    keys = [*titled.keys, *([] if _chosen(column, row) else [(None, None)])]  # a row without numbers may have requested others
    reasons = []
    for node, reason in record.about["failures"].items():
        stage, *words = node.split(" ")
        cell = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        if stage in behind and any(_fits(column, key, cell) for key in keys) and _of_row(row, record, cell):
            reasons.append(f"{node}: {reason.rstrip('.')}")
    return reasons


def _fits(column: Column, key: Key, cell: dict[str, float]) -> bool:
    """Whether a failed node's cell has these steps and guidance; (None, None): any that the column may show."""
    steps, guidance = key
    if key == (None, None):
        steps = column.steps if isinstance(column.steps, int) else None
        named: dict[Any, Any] = {"none": 1.0, "most": None, "all": None, "tuned": None}
        guidance = named.get(column.guidance, column.guidance)
        if column.guidance == "most" and cell.get("guidance") == 1:
            return False
    return all(wanted in (None, cell.get(name, wanted)) for name, wanted in (("steps", steps), ("guidance", guidance)))


def _of_row(row: Row, record: RunRecord, cell: dict[str, float]) -> bool:
    """Whether a failed node belongs to the snapshot of the training that a row shows, if a run has a row for each snapshot."""
    if row.point is None or not record.images_seen or not cell:  # a node without a cell belongs to all rows
        return True
    return record.images_at(cell.get("trained", 1.0)) == row.point


def _reasons(titled: _Titled, row: Row, failed: list[RunRecord]) -> str:
    """The failures of these runs of a row; with the seed if the row has several."""
    several = len(row.records) > 1
    return "; ".join((f"seed {record.seed} failed: " if several else "") + ", ".join(_failures(titled, row, record)) for record in failed)


def _mark_missing_seeds(table: Table, rows: dict[str, Row], titles: dict[str, _Titled], entries: Sequence[Entry], marks: Footnotes) -> None:
    """Adds footnotes to numbers from which failed seeds are missing."""
    there = {(entry.row, entry.column, entry.score["run"]) for entry in entries}
    for texts, (name, row) in zip(table.rows, rows.items(), strict=True):
        for i, text in enumerate(texts):
            title = table.columns[i].rsplit(" [", 1)[0]
            if title not in titles or not isinstance(text, Cell):
                continue
            titled = titles[title]
            failed = [record for record in row.records if _failures(titled, row, record)]
            lost = [record for record in failed if (name, title, record.name) not in there]
            if failed:
                have = len({run for row_name, column, run in there if (row_name, column) == (name, title)})
                counted = f"{'mean over ' if have > 1 else ''}{have} of {len(row.records)} seeds; " if lost else "without "
                mark = marks.mark(counted + _reasons(titled, row, lost or failed))
                texts[i] = text.marked(mark)


def _shown(name: str, scores: list[dict[str, Any]]) -> str:
    """The values of a protocol's field in a row; a sampling field counts only scores of samples."""
    guided = [s for s in scores if s["guidance"] not in (None, 1)] if name in GUIDED_ONLY else []
    fields = [fields_of(s) for s in guided or scores]  # guidance settings have no effect on unguided samples
    part = "sampling.sampler" if name.startswith("sampling.") else name
    values = list(dict.fromkeys(score_fields.get(name) for score_fields in fields if score_fields.get(part) is not None))
    return ", ".join("-" if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in values) or "-"
