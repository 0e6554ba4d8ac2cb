"""A table as LaTeX with booktabs: the best of a column in bold, the second best underlined."""

from __future__ import annotations

import re
from collections.abc import Iterable

from svgbench.tables.table import Table, place_of

HEAD = "% needs \\usepackage{booktabs}, \\usepackage{graphicx} and \\usepackage{rotating}"
WIDE, SIDEWAYS = 66, 132
"""Letters of a row, the gaps between its columns among them, that a page of 10 pt holds; beyond the first a table is brought to the width
of the text, beyond the second, where that would halve its letters, to its height."""
GAP = 2
"""Letters as wide as the gap between two columns."""

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$",
    "×": r"$\times$", "[": "{[}", "]": "{]}", "'": "'", "\n": " ",
}  # fmt: skip
"""Brackets are wrapped because one behind a line's end would be read as its argument."""
OPENING = re.compile(r'(?<![^\s(\[{])"')
"""A straight quotation mark that opens: a default document's fonts have no straight ones."""


def latex(tables: Iterable[Table]) -> str:
    """The tables as floats to paste into a document."""
    return "\n".join([HEAD, *map(_float, tables)]) + "\n"


def escape(text: str) -> str:
    """Text that TeX prints as it stands."""
    text = OPENING.sub("``", text).replace('"', "''")
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _float(table: Table) -> str:
    """One table: caption, rules, and the notes below."""
    table = table.plain()
    spec = "".join("r" if table.is_numeric(i) else "l" for i in range(len(table.columns)))
    letters = sum(max(map(len, column)) + GAP for column in zip(table.columns, *table.rows, strict=True))
    wide, kind = letters > WIDE, "sidewaystable" if letters > SIDEWAYS else "table"
    rows = [" & ".join(_cell(cell) for cell in row) + r" \\" for row in table.rows]
    lines = [rf"\begin{{{kind}}}" + ("[htbp]" if kind == "table" else ""), r"\centering", rf"\caption{{{escape(table.title)}}}"]
    lines += [r"\resizebox{\linewidth}{!}{%"] if wide else []
    lines += [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", " & ".join(map(escape, table.columns)) + r" \\", r"\midrule", *rows]
    lines += [r"\bottomrule", r"\end{tabular}" + ("}" if wide else "")]
    if table.notes:
        lines += [r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize\raggedright"]
        lines += [escape(note).replace("/", r"/\allowbreak{}") + r"\par" for note in table.notes]
        lines += [r"\end{minipage}"]
    return "\n".join([*lines, rf"\end{{{kind}}}", ""])


def _cell(text: str) -> str:
    command = {1: r"\textbf", 2: r"\underline"}.get(place_of(text))
    return f"{command}{{{escape(text)}}}" if command else escape(text)
