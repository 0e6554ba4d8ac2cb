"""Tables as LaTeX: escaped, ruled by booktabs, and a document that a TeX really sets."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from fake_runs import gfid, score, write

from svgbench.tables.collect import collect
from svgbench.tables.latex import HEAD, escape, latex
from svgbench.tables.layouts import contested, load_layout
from svgbench.tables.paper_tables import paper_tables
from svgbench.tables.published import published
from svgbench.tables.table import Cell, Table

HARD = r'a_b & 50 % of #1 {x} $y$ ~z^2 \w "q" <v|w> [n] ± ↓ ↑ ≤ ≥ ≈ ×'


def test_what_tex_would_take_for_a_command_is_escaped():
    assert escape("a_b & 5 % ↓") == r"a\_b \& 5 \% $\downarrow$" and escape("\\") == r"\textbackslash{}"
    assert escape('"62x" ("a" b)') == "``62x'' (``a'' b)"


def test_the_best_is_bold_and_the_second_best_underlined():
    text = latex([Table("t", ["run", "x"], [["a", Cell("1.0", place=1)], ["b", Cell("2.0", place=2)], ["c", "-"]], ["a note"])])
    assert r"a & \textbf{1.0} \\" in text and r"b & \underline{2.0} \\" in text and r"\begin{tabular}{lr}" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1 and "a note" in text


def test_a_table_is_set_smaller_or_sideways_by_the_letters_of_its_rows():
    def of(*texts):
        return latex([Table("t", [f"c{i}" for i in range(len(texts))], [list(texts)])])

    assert "resizebox" not in of(*["1.0"] * 8) and "sideways" not in of(*["1.0"] * 8)
    assert r"\resizebox{\linewidth}" in of("a" * 40, "b" * 40) and "sideways" not in of("a" * 40, "b" * 40)
    assert r"\begin{sidewaystable}" in of("a" * 80, "b" * 80) and r"\end{sidewaystable}" in of("a" * 80, "b" * 80)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here: pdflatex (texlive-latex-recommended) is not installed")
def test_a_tex_sets_every_table(tmp_path):
    write(tmp_path / "runs" / "a_1", [score("a_1"), gfid("a_1", 2.0, steps=5), gfid("a_1", 1.0), gfid("a_1", 0.5, guidance=2.0)])
    write(tmp_path / "runs" / "b", [score("b", value=0.5)], {"samples": "50 % of #latents are {NaN}_x."})
    found = collect(tmp_path / "runs")
    tables = [Table(HARD, ["run", HARD], [[HARD, Cell(HARD, place=1)]], [HARD]), Table("two\nlines", ["a"], [["x" * 200 + "\n\ny"]])]
    for name in ("ablation", "few-step"):
        tables += paper_tables(load_layout(name), found, published(), contested())
    body = latex(tables)
    start = (
        r"\documentclass{article}" + "".join(re.findall(r"\\usepackage{\w+}", HEAD)) + r"\begin{document}"
    )  # nothing that HEAD keeps silent
    (tmp_path / "t.tex").write_text(start + "\n" + body + r"\end{document}")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-1500:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000 and b"Missing character" not in done.stdout
