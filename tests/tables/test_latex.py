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
    rows = [["a", Cell("1.0 ± 0.5", place=1)], ["b", Cell("2.0 (1.5, 2.5) [a]", place=2)], ["c", "-"]]
    text = latex([Table("t", ["run", "x"], rows, ["a note"])])
    assert r"a & \textbf{1.0} {\scriptsize $\pm$ 0.5} \\" in text and r"\begin{tabular}{@{}lr@{}}" in text
    assert r"b & \underline{2.0} {\scriptsize (1.5, 2.5)} {[}a{]} \\" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1 and "a note" in text


def test_columns_of_one_metric_share_a_head_over_a_rule():
    columns = ["run", "rFID ↓ [1]", "gFID ↓ [2]", "gFID ↓, guidance 2 [2]", "IS ↑, 5 steps [3]", "IS ↑, 25 steps [3]"]
    lines = latex([Table("t", columns, [["a", *["1.0"] * 5]])]).splitlines()
    first = lines.index(r"\toprule") + 1
    assert lines[first] == r" &  & \multicolumn{2}{c}{gFID $\downarrow$} & \multicolumn{2}{c}{IS $\uparrow$} \\"
    assert lines[first + 1] == r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}"
    below = [r"rFID $\downarrow$ {[}1{]}", "no guidance {[}2{]}", "guidance 2 {[}2{]}", "5 steps {[}3{]}", "25 steps {[}3{]}"]
    assert lines[first + 2] == " & ".join(["run", *(rf"\multicolumn{{1}}{{c}}{{{text}}}" for text in below)]) + r" \\"
    text = latex([Table("t", ["run", "SSIM [-1, 1] ↑", "SSIM [-1, 1], guided ↑"], [["a", "1", "2"]])])
    assert r"\multicolumn{2}{c}{SSIM {[}-1, 1{]}" not in text and "SSIM {[}-1, 1{]}, guided" in text
    assert "cmidrule" not in latex([Table("t", ["run", "rFID ↓", "gFID ↓, guidance 2"], [["a", "1", "2"]])])


def test_a_table_fits_a_column_the_text_or_stands_in_groups_of_columns_and_is_never_scaled():
    def of(count, **more):
        return latex([Table("t", ["run", *(f"c{i}" for i in range(count))], [["align=none", *["12.34 (12.00, 12.68)"] * count]], **more)])

    assert r"\begin{table}[t]" in of(2) and r"\end{table}" in of(2)
    assert r"\begin{table*}[t]" in of(3) and of(3).count(r"\begin{tabular}") == 1
    assert of(8).count(r"\begin{tabular}") == 3 == of(8).count("align=none &") and of(8).count(r"\caption") == 1
    columns = ["run", "KID", "KID, guidance 2", "IS", "IS, guidance 2"]
    text = latex([Table("t", columns, [["align=whiten, dinov3", *["2.2210 (2.0000, 2.4000)"] * 4]])])
    assert text.count(r"\begin{tabular}") == 2 and text.count(r"\multicolumn{2}{c}{KID}") == text.count(r"\multicolumn{2}{c}{IS}") == 1
    assert of(8, keys=2).count(r"& 12.34 {\scriptsize (12.00, 12.68)}") > 8
    assert not any(word in of(n) for n in (2, 3, 8) for word in ("resizebox", "sideways", "scalebox"))
    assert r"p{14em}" in latex([Table("t", ["run", "reason"], [["a", "a long reason " * 9]])])


def test_every_float_has_a_label_of_its_own():
    text = latex([Table("Few steps: gFID ↓", ["run"], [["a"]]), Table("Few steps: gFID ↓", ["run"], [["a"]]), Table("↓", ["run"], [["a"]])])
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:few-steps-gfid", "tab:few-steps-gfid-2", "tab:table"]


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
    wide = [float(points) for points in re.findall(rb"Overfull \\hbox \(([\d.]+)pt too wide\) in (?:paragraph|alignment)", done.stdout)]
    assert max(wide[1:], default=0.0) < 5, wide  # the first is the unbreakable word of 200 letters
