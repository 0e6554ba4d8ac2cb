"""A table as LaTeX with booktabs: fits a paper's column or page without scaling; the best of a column in bold, the second best
underlined."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from svgbench.tables.table import Table, place_of, what_and_how

HEAD = "% needs \\usepackage{booktabs} and \\usepackage{array}"
COLUMN, TEXT = 52, 78
"""Widths in letters of \\footnotesize, including gaps, of a column of a two-column paper and of the text of a 10 pt page. A wider table is
split into groups of columns, one below the other."""
GAP = 2
"""Width in letters of the gap between two columns."""
SMALLER = 0.2
"""Share by which the letters of an interval are narrower than others."""
PROSE = 28
"""Letters; a wider column of text is wrapped to lines of this length."""

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$",
    "×": r"$\times$", "∞": r"$\infty$", "[": "{[}", "]": "{]}", "'": "'", "\n": " ",
}  # fmt: skip
"""Brackets are wrapped because TeX reads one after a line's end (``\\\\``) as its argument."""
OPENING = re.compile(r'(?<![^\s(\[{])"')
"""A straight opening quotation mark: the fonts of a default document have none."""
AROUND = re.compile(r"(?<=\d) (± [\d.,]+|\([^()]*\))(?=$| \[)")
"""The interval after a number."""
MARK = re.compile(r" ?(\[(?:[a-z]{1,2}|\d+)\])$")
"""The mark of a footnote at the end of a title."""


def latex(tables: Iterable[Table]) -> str:
    """The tables as floats to paste into a document, each with a unique label: ``\\ref{tab:reconstruction}``."""
    labels: dict[str, int] = {}
    floats = []
    for table in tables:
        label = "-".join(re.findall(r"[a-z0-9]+", table.title.lower())) or "table"
        labels[label] = labels.get(label, 0) + 1
        floats.append(_float(table.plain(), label if labels[label] == 1 else f"{label}-{labels[label]}"))
    return "\n".join([HEAD, *floats]) + "\n"


def escape(text: str) -> str:
    """Text escaped for TeX."""
    text = OPENING.sub("``", text).replace('"', "''")
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _float(table: Table, label: str) -> str:
    """One table: caption, label, its groups of columns, and the notes below. It spans both columns of a two-column page if necessary."""
    groups = _groups(table)
    kind = "table" if len(groups) == 1 and _letters(table, groups[0]) <= COLUMN else "table*"
    lines = [rf"\begin{{{kind}}}[t]", r"\centering", rf"\caption{{{escape(table.title)}}}", rf"\label{{tab:{label}}}"]
    lines += [r"\footnotesize", r"\setlength{\tabcolsep}{4pt}"]
    for number, columns in enumerate(groups):
        lines += [*([r"\par\medskip"] if number else []), *_tabular(table, columns)]
    if table.notes:
        lines += [r"\par\smallskip\begin{minipage}{\linewidth}\scriptsize\raggedright"]
        lines += [escape(note).replace("/", r"/\allowbreak{}") + r"\par" for note in table.notes]
        lines += [r"\end{minipage}"]
    return "\n".join([*lines, rf"\end{{{kind}}}", ""])


def _groups(table: Table) -> list[list[int]]:
    """The columns in groups that fit the width of a page; each starts with the table's leading columns. Columns that share a head stay
    together if they fit."""
    keys = list(range(min(table.keys, len(table.columns))))
    groups: list[list[int]] = [[]]
    for _, run in itertools.groupby(range(len(keys), len(table.columns)), key=lambda i: _head(table.columns[i])):
        shared = list(run)
        for part in [shared] if _letters(table, [*keys, *shared]) <= TEXT else [[column] for column in shared]:
            if groups[-1] and _letters(table, [*keys, *groups[-1], *part]) > TEXT:
                groups.append([])
            groups[-1] += part
    return [[*keys, *group] for group in groups]


def _head(title: str) -> str:
    """A column's title up to its first comma, without its mark."""
    return what_and_how(MARK.sub("", title))[0]


def _letters(table: Table, columns: Sequence[int]) -> float:
    """Width in letters of the widest row."""
    heads = _heads(table, columns)
    return sum(max(len(sub), _width(table, column)) + GAP for (_, sub), column in zip(heads, columns, strict=True)) - GAP


def _width(table: Table, column: int) -> float:
    longest = max((_length(row[column]) for row in table.rows), default=0.0)
    return longest if table.is_numeric(column) else min(longest, PROSE)


def _length(text: str) -> float:
    """Width of a cell in letters; those of an interval count as narrower."""
    around = AROUND.search(text)
    return len(text) - (SMALLER * len(around[1]) if around else 0)


def _heads(table: Table, columns: Sequence[int]) -> list[tuple[str, str]]:
    """The two lines of each column's head: what is measured, shared by neighbours, and how; all in the second line if nothing is shared."""
    heads: list[tuple[str, str]] = []
    for name, group in itertools.groupby((table.columns[i] for i in columns), key=_head):
        titles = list(group)
        if len(titles) == 1:
            heads.append(("", titles[0]))
            continue
        rests = [title.removeprefix(name).removeprefix(", ").strip() for title in titles]
        if any("guid" in rest for rest in rests):
            rests = [rest if MARK.sub("", rest) else f"no guidance {rest}".strip() for rest in rests]
        heads += [(name, rest) for rest in rests]
    return heads


def _tabular(table: Table, columns: Sequence[int]) -> list[str]:
    """One group of columns with its rules."""
    heads = _heads(table, columns)
    spec = "".join(_spec(table, column) for column in columns)
    lines = [rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}", r"\toprule"]
    shared = [(name, len(list(group))) for name, group in itertools.groupby(heads, key=lambda head: head[0])]
    if any(name for name, _ in shared):
        tops, rules, first = [], [], 1
        for name, count in shared:
            tops += [rf"\multicolumn{{{count}}}{{c}}{{{escape(name)}}}"] if name else [""] * count
            rules += [rf"\cmidrule(lr){{{first}-{first + count - 1}}}"] if name else []
            first += count
        lines += [" & ".join(tops) + r" \\", "".join(rules)]
    subs = [
        rf"\multicolumn{{1}}{{c}}{{{escape(sub)}}}" if table.is_numeric(column) else escape(sub)
        for (_, sub), column in zip(heads, columns, strict=True)
    ]
    rows = [" & ".join(_cell(row[column]) for column in columns) + r" \\" for row in table.rows]
    return [*lines, " & ".join(subs) + r" \\", r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]


def _spec(table: Table, column: int) -> str:
    """The alignment of a column: numbers right, text left, long text wrapped."""
    if table.is_numeric(column):
        return "r"
    if max((len(row[column]) for row in table.rows), default=0) <= PROSE:
        return "l"
    return rf">{{\raggedright\arraybackslash}}p{{{PROSE / 2:g}em}}"


def _cell(text: str) -> str:
    """A cell: only the number is bold or underlined; the interval is in small letters."""
    command = {1: r"\textbf", 2: r"\underline"}.get(place_of(text))
    around = AROUND.search(text)
    number, interval, rest = (text[: around.start()], around[1], text[around.end() :]) if around else (str(text), "", "")
    shown = f"{command}{{{escape(number)}}}" if command else escape(number)
    return shown + (rf" {{\scriptsize {escape(interval)}}}" if interval else "") + escape(rest)
