"""Published rows in a layout's columns: a separate table below the measured one, with sources and without ranking."""

from __future__ import annotations

from collections.abc import Sequence

from svgbench.tables.footnotes import Footnotes
from svgbench.tables.layouts import Column, Contested, Layout
from svgbench.tables.measures import MEASURES
from svgbench.tables.published import Published, disagreements
from svgbench.tables.table import Cell, Table

APART = "published numbers, each under the protocol of its source; not ranked, neither against measured rows nor among themselves"
DIGITISED = "read off a plot, ± 0.3"
UNSTATED = "the source does not say whether guidance was used"


def published_table(layout: Layout, rows: Sequence[Published], facts: Sequence[Contested]) -> Table:
    """The published rows that a layout names, in its columns."""
    chosen = [row for row in rows if any(wanted.holds(row) for wanted in layout.published)]
    columns = [(column, steps) for column in layout.columns for steps in _steps(column, chosen)]
    columns = [(c, s) for c, s in columns if any(_fits(row, c, s) for row in chosen)]
    shown = {column.metric for column in layout.columns if column.published}
    left = [row for row in chosen if row.metric in shown and not any(_fits(row, c, s) for c, s in columns)]
    in_rows = any(row.steps is not None for row in chosen) and all(column.steps == "most" for column in layout.columns)
    groups: dict[tuple[str, ...], list[Published]] = {}
    for row in chosen:
        if any(_fits(row, column, steps) for column, steps in columns):
            groups.setdefault(_label(row, in_rows), []).append(row)
    marks, sources = Footnotes(), list(dict.fromkeys(row.source for group in groups.values() for row in group))
    head = ["system", "tokenizer", "network", "epochs", *(["steps"] if in_rows else [])]
    table = Table(f"{layout.title} (published)", [*head, *(_title(c, s) for c, s in columns), "source"], [], kind="published")
    for label, group in groups.items():
        fitting = [[row for row in group if _fits(row, column, steps)] for column, steps in columns]
        numbers = [_cell(printed, rows, facts, marks) for printed in fitting]
        cited = sorted({sources.index(row.source) + 1 for printed in fitting for row in printed})
        table.rows.append([*(text or "-" for text in label), *numbers, " ".join(f"[{n}]" for n in cited)])
    without = ["no column here for: " + "; ".join(map(_whole, left))] if left else []
    table.notes = [APART, *without, *marks.notes(), *(f"[{i + 1}] {source}" for i, source in enumerate(sources))]
    return table


def _whole(row: Published) -> str:
    """A published number as a phrase: ``RAE DINOv2-B DiT-DH-XL, recall 0.59, not guided``."""
    who = " ".join(text for text in (row.system, row.tokenizer, row.network) if text)
    guided = {True: ", guided", False: ", not guided", None: ""}[row.guided] if MEASURES[row.metric].of_samples else ""
    steps = f", {row.steps} steps" if row.steps is not None else ""
    return f"{who}{f', {row.epochs} epochs' if row.epochs is not None else ''}, {MEASURES[row.metric].title} {row.text}{steps}{guided}"


def _label(row: Published, steps: bool) -> tuple[str, ...]:
    shown = ["" if row.steps is None or not MEASURES[row.metric].of_samples else str(row.steps)] if steps else []
    return (row.system, row.tokenizer, row.network, "" if row.epochs is None else str(row.epochs), *shown)


def _steps(column: Column, rows: Sequence[Published]) -> list[int | None]:
    """The steps of the published columns for a layout's column: each printed number (None: not stated), the layout's own, or None if rows
    show the steps."""
    if column.steps == "all":
        return sorted({row.steps for row in rows if row.metric == column.metric}, key=lambda steps: (steps is None, steps))
    return [column.steps if isinstance(column.steps, int) else None]


def _fits(row: Published, column: Column, steps: int | None) -> bool:
    """Whether a published number belongs in a column; unstated guidance counts as guided and is marked. None is known to be tuned on a
    seed that it leaves out."""
    if row.metric != column.metric or not column.published or column.guidance == "tuned":
        return False
    if row.steps != steps and (steps is not None or column.steps == "all"):
        return False
    return not column.sampled or column.guidance == "all" or (row.guided is False) == (column.guidance == "none")


def _title(column: Column, steps: int | None) -> str:
    measure = MEASURES[column.metric]
    guided = ", guided" if column.sampled and column.guidance not in ("none", "all") else ""
    at = f", {steps} steps" if steps is not None else ", steps not stated" if column.steps == "all" and column.sampled else ""
    return f"{column.title or measure.title} {measure.arrow}{at}{guided}"


def _cell(printed: Sequence[Published], rows: Sequence[Published], facts: Sequence[Contested], marks: Footnotes) -> str:
    """The printed values of one cell, with marks of contested facts."""
    if not printed:
        return "-"
    texts: dict[str, list[str]] = {}
    several = len({(row.text, row.guidance) for row in printed if row.guided}) > 1
    for row in printed:
        text = ("≈ " if row.digitised else "") + row.text + (f" ({row.guidance})" if several else "")
        texts.setdefault(text, []).extend(_remarks(row, rows, facts, marks))
    cells = [" ".join([text, *dict.fromkeys(remarks)]) for text, remarks in texts.items()]
    source = "; ".join(dict.fromkeys(row.source for row in printed))
    return Cell(" / ".join(cells), value=printed[0].value, hint=source, metric=printed[0].metric, source=source)


def _remarks(row: Published, rows: Sequence[Published], facts: Sequence[Contested], marks: Footnotes) -> list[str]:
    """Footnote marks of one published number."""
    notes = [DIGITISED] if row.digitised else []
    if row.guided is None and MEASURES[row.metric].of_samples:
        notes.append(UNSTATED)
    notes += [fact.says for fact in facts if any(wanted.holds(row) for wanted in fact.where)]
    others = list(dict.fromkeys(f"{other.text} ({_short(other.source)})" for other in disagreements(row, rows)))
    if others:
        notes.append(f"{row.text} is elsewhere printed as {', '.join(others)}")
    return [marks.mark(text) for text in notes]


def _short(source: str) -> str:
    """A source's first words."""
    return " ".join(source.split()[:2])
