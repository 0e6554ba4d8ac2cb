"""One self-contained HTML page: sortable tables, curves, sample sheets. Readable without script, network or colour vision."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from svgbench.errors import printable
from svgbench.lab.store import Store
from svgbench.tables.collect import RunRecord
from svgbench.tables.figures.charts import chart, swatch
from svgbench.tables.figures.inline_sheets import RunSheets, SampleSheet, embedded, run_sheets
from svgbench.tables.figures.series import panels
from svgbench.tables.labels import row_numbers, row_of
from svgbench.tables.provenance import made_by
from svgbench.tables.table import Cell, Table, leading, place_of, what_and_how

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Content security policy: the browser loads nothing from outside the page."""
KINDS = {
    "measured": "", "differences": "paired by seed", "contrasts": "paired by seed, Holm's correction",
    "published": "published elsewhere, not ranked",
    "ratios": "computed from the curves above", "cost": "",
}  # fmt: skip
HERE = Path(__file__).parent
PROSE = 40
"""Letters; longer text is wrapped."""


class _Figure(NamedTuple):
    """A PNG figure."""

    path: Path
    title: str
    caption: str


def report_page(tables: Sequence[Table], records: Sequence[RunRecord], out: Path, *, title: str, asks: str = "") -> str:
    """The page of a report: the question it ``asks``, its tables, the curves and samples of its runs, and the PNG figures in
    ``out/figures`` that show only these runs."""
    drawn = [panel for over in ("steps", "images_seen") for way in ("none", "most") for panel in panels(records, over, way)]
    figures = [figure for path in sorted((out / "figures").glob("*.png")) if (figure := _figure_of(path, {r.name for r in records}))]
    rows = row_numbers(records)
    charts = [chart(panel, i, rows) for i, panel in enumerate(drawn)]
    about = made_by(records, Store(out / "store"))
    return page(tables, title=title, asks=asks, about=about, rows=rows, charts=charts, sheets=run_sheets(records, out), figures=figures)


def page(
    tables: Sequence[Table],
    *,
    title: str,
    asks: str = "",
    about: str = "",
    rows: Mapping[str, int] = MappingProxyType({}),
    charts: Sequence[str] = (),
    sheets: Sequence[RunSheets] = (),
    figures: Sequence[_Figure] = (),
) -> str:
    """Tables, charts, samples and figures as one HTML document. ``rows``: name of each row -> its number, which determines its colour."""
    tables, title = [table.plain() for table in tables], printable(title)
    sections = [(f"table-{i}", table.title, _section(table, i, rows)) for i, table in enumerate(tables)]
    costs = {
        f"table-{i}" for i, table in enumerate(tables) if table.kind == "cost"
    }  # last, because they are long and few readers need them
    if charts:
        body = f'<section id="curves"><h2>Curves</h2><div class="charts">{"".join(charts)}</div></section>'
        first = next((i for i, table in enumerate(tables) if table.kind == "ratios"), min(1, len(sections)))
        while first < len(tables) and tables[first].kind == "differences":
            first += 1
        sections.insert(first, ("curves", "Curves", body))
    if sheets:
        sections.append(("samples", "Samples", _samples(sheets)))
    if figures:
        sections.append(("figures", "Figures", f'<section id="figures"><h2>Figures</h2>{"".join(map(_figure, figures))}</section>'))
    sections.sort(key=lambda section: section[0] in costs)
    beside = {table.title for table in tables if table.kind in ("published", "differences")}  # these follow the table that they belong to
    links = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections if heading not in beside)
    question = f'<p class="asks">{escape(printable(asks))}</p>' if asks else ""
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">Skip to the tables</a>\n<header><h1>{escape(title)}</h1>{question}'
        f'<p class="about">{escape(about)}</p><nav aria-label="Contents"><ul>{links}</ul></nav></header>\n<main id="main">\n'
        + "\n".join(section for _, _, section in sections)
        + '\n</main>\n<div id="hint" role="tooltip" hidden></div>\n<div id="announced" class="unseen" aria-live="polite"></div>\n'
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _section(table: Table, number: int, rows: Mapping[str, int]) -> str:
    """One table with its notes."""
    name, kind = f"table-{number}", KINDS[table.kind]
    tag = f'<p class="tag">{kind}</p>' if kind else ""
    head = "".join(_header(table, i) for i in range(len(table.columns)))
    body = "".join(f"<tr>{''.join(_cell(table, i, text, rows) for i, text in enumerate(row))}</tr>" for row in table.rows)
    notes = "".join(f"<li>{_noted(note)}</li>" for note in table.notes)
    folded = "" if len(table.notes) > 6 else " open"
    return (
        f'<section id="{name}" class="{table.kind}"><h2>{escape(table.title)}</h2>{tag}'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f'<table class="sortable" data-roving><caption class="unseen">{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        + (f'<details class="notes"{folded}><summary>Protocols and notes</summary><ul>{notes}</ul></details>' if notes else "")
        + "</section>"
    )


def _header(table: Table, column: int) -> str:
    """A column's header: a button that sorts; hover or focus shows the protocol to which its mark refers."""
    text = table.columns[column]
    mark = re.search(r" (\[\d+\])$", text)
    hint = next((note for note in table.notes if mark and note.startswith(mark[1])), "")
    title = f' title="{escape(hint)}"' if hint else ""
    first = "descending" if "↑" in text else "ascending"
    side = ' class="num"' if table.is_numeric(column) else ""
    return f'<th scope="col"{side}><button type="button" class="sort" data-first="{first}"{title}>{_headed(text)}</button></th>'


def _cell(table: Table, column: int, text: str, rows: Mapping[str, int]) -> str:
    """A cell. The first cell of a row is its header, with the row's colour. Numbers are sorted by their unrounded value."""
    value = text.value if isinstance(text, Cell) else leading(text) if table.is_numeric(column) else None
    data = "" if value is None else f' data-value="{value!r}"'
    if column == 0:
        name = re.sub(r"(?<=\w)([.-])(?=[A-Za-z])", r"\1<wbr>", _marked(text))  # a run's name breaks between its words
        row = None if table.kind == "published" else row_of(str(text), rows)
        return f'<th scope="row">{"" if row is None else swatch(rows[row])}{name}</th>'
    classes = ["num"] if table.is_numeric(column) else ["prose"] if len(text) > PROSE else []
    classes += [*([("best", "second")[place_of(text) - 1]] if place_of(text) else [])]
    kind = f' class="{" ".join(classes)}"' if classes else ""
    place = {1: '<span class="unseen">best: </span>', 2: '<span class="unseen">second best: </span>'}.get(place_of(text), "")
    hint = f' title="{escape(text.hint)}" tabindex="-1"' if isinstance(text, Cell) and text.hint else ""
    return f"<td{kind}{data}{hint}>{place}{_marked(text)}</td>"


def _marked(text: str) -> str:
    """Text with superscript footnote marks and a dimmed interval."""
    shown = re.sub(r" ?\[([a-z]{1,2}|\d+)\]", r"&nbsp;<sup>\1</sup>", escape(str(text)))
    return re.sub(r"( ± [\d.,]+|(?<=\d) \([^()]*\))", r'<span class="around">\1</span>', shown)


def _headed(text: str) -> str:
    """A column's title: the metric with its arrow, and the settings on a second line."""
    what, how = what_and_how(text)
    return re.sub(r" (?=[↓↑])", "&nbsp;", _marked(what)) + (f'<small><span class="unseen">, </span>{_marked(how)}</small>' if how else "")


def _noted(note: str) -> str:
    """A note with its mark; lines may break at the separators of a protocol."""
    return re.sub(r"^\[(\w+)\]", r'<b class="mark">\1</b>', escape(note).replace("/", "/<wbr>"))


def _samples(runs: Sequence[RunSheets]) -> str:
    """The sheets of all runs, with one slider for the steps and one choice of guidance."""
    steps = sorted({sheet.steps for run in runs for sheet in run.sheets})
    scales = sorted({sheet.guidance for run in runs for sheet in run.sheets})
    choices = "".join(
        f'<label><input type="radio" name="guidance" value="{g:g}"{" checked" if g == scales[0] else ""}> {g:g}</label>' for g in scales
    )
    last = len(steps) - 1
    slider = f'<input type="range" id="steps" min="0" max="{last}" step="1" value="{last}" aria-valuetext="{steps[-1]} steps">'
    return (
        '<section id="samples"><h2>Samples</h2><p>The first samples of each row\'s first seed, not selected by hand: the same classes and, '
        f'for latents of the same shape, the same noise.</p><form class="ways" data-steps="{escape(json.dumps(steps))}">'
        f'<label for="steps">Sampling steps</label>{slider}<output for="steps">{steps[-1]}</output>'
        f"<fieldset><legend>Guidance</legend>{choices}</fieldset></form>"
        f'<div class="sheets">{"".join(_sheets(run, steps[-1], scales[0]) for run in runs)}</div></section>'
    )


def _sheets(run: RunSheets, steps: int, guidance: float) -> str:
    """The sheets of a run; one of them is visible."""
    images = ""
    for sheet in run.sheets:
        hidden = "" if (sheet.steps, sheet.guidance) == (steps, guidance) else " hidden"
        size = f'width="{run.side * len(sheet.labels)}" height="{run.side}"'
        which = f'data-steps="{sheet.steps}" data-guidance="{sheet.guidance:g}"'
        images += f'<img src="{sheet.data}" {which} alt="{_alt(run.name, sheet)}" {size}{hidden}>'
    return f'<figure><figcaption>{escape(run.name)}</figcaption>{images}<p class="none" hidden>no samples with these settings</p></figure>'


def _alt(name: str, sheet: SampleSheet) -> str:
    classes = ", ".join(map(str, sheet.labels))
    return escape(f"Samples of {name} with {sheet.steps} steps and guidance {sheet.guidance:g}, of classes {classes}")


def _figure_of(path: Path, runs: set[str]) -> _Figure | None:
    """A PNG figure with the title and caption of the JSON file beside it; None if that file names other runs, or none."""
    try:
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        shown = {run for one in content["tokenizers"] for run in one["runs"]}
        return _Figure(path, content["title"], content["caption"]) if shown and shown <= runs else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _figure(figure: _Figure) -> str:
    """A figure; its title is in the picture, and in the text for screen readers."""
    title, caption = escape(figure.title), escape(figure.caption)
    image = f'<img src="{embedded(figure.path)}" alt="{caption}">'
    return f'<figure class="drawn"><h3 class="unseen">{title}</h3>{image}<figcaption>{caption}</figcaption></figure>'
