"""A table as LaTeX with booktabs: the best of a column in bold, the second best underlined."""

from __future__ import annotations

from collections.abc import Iterable

from svgbench.tables.table import Table, place_of

HEAD = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}"
WIDE = 6
"""Columns from which a table is brought to the width of the text."""

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$",
    "×": r"$\times$", "[": "{[}", "]": "{]}", "'": "'",
}  # fmt: skip
"""Brackets are wrapped because one behind a line's end would be read as its argument."""


def latex(tables: Iterable[Table]) -> str:
    """The tables as floats to paste into a document."""
    return "\n".join([HEAD, *map(_float, tables)]) + "\n"


def escape(text: str) -> str:
    """Text that TeX prints as it stands."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _float(table: Table) -> str:
    """One table: caption, rules, and the notes below."""
    spec = "".join("r" if table.is_numeric(i) else "l" for i in range(len(table.columns)))
    wide = len(table.columns) >= WIDE
    rows = [" & ".join(_cell(cell) for cell in row) + r" \\" for row in table.rows]
    lines = [r"\begin{table}[htbp]", r"\centering", rf"\caption{{{escape(table.title)}}}"]
    lines += [r"\resizebox{\textwidth}{!}{%"] if wide else []
    lines += [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", " & ".join(map(escape, table.columns)) + r" \\", r"\midrule", *rows]
    lines += [r"\bottomrule", r"\end{tabular}" + ("}" if wide else "")]
    if table.notes:
        lines += [r"\par\smallskip\begin{minipage}{\textwidth}\footnotesize\raggedright"]
        lines += [escape(note).replace("/", r"/\allowbreak{}") + r"\par" for note in table.notes]
        lines += [r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _cell(text: str) -> str:
    command = {1: r"\textbf", 2: r"\underline"}.get(place_of(text))
    return f"{command}{{{escape(text)}}}" if command else escape(text)
