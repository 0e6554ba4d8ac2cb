"""Differences from a row are taken seed by seed, under one protocol, and say how many pairs they stand on."""

from __future__ import annotations

import math
import re
from statistics import stdev

import pytest
from fake_runs import gfid, sampled, score, write

from svgbench.cli.main import main
from svgbench.tables.collect import collect
from svgbench.tables.differences import difference_table
from svgbench.tables.page import page
from svgbench.tables.report import report, score_tables
from svgbench.tables.standings import Entry
from svgbench.tables.table import Cell


def table_of(*scores, baseline="base", **more):
    entries = [Entry(s["run"].partition(".seed")[0], "rFID", s) for s in scores]
    rows = list(dict.fromkeys(entry.row for entry in entries))
    return difference_table("t", entries, rows=rows, columns=["rFID"], baseline=baseline, **more)


def test_what_a_seed_does_to_both_rows_falls_out_of_their_difference():
    base = [score("base", value=v, seed=s) for s, v in enumerate((10.0, 20.0, 30.0))]
    mine = [score("a", value=v, seed=s) for s, v in enumerate((11.0, 21.5, 31.5))]
    table = table_of(*base, *mine)
    (row,) = table.rows
    half = 4.303 * stdev([1.0, 1.5, 1.5]) / math.sqrt(3)
    assert row == ["a", f"+1.33 ± {half:.2f}"] and isinstance(row[1], Cell)
    assert row[1].value == pytest.approx(4 / 3) and row[1].facts["low"] == pytest.approx(4 / 3 - half)
    assert row[1].hint == "+1.00 (seed 0), +1.50 (seed 1), +1.50 (seed 2)"
    assert table.title == "t: differences from base" and table.is_numeric(1)
    assert table.notes[1] == "mean ± half of the 95 % t-interval over 3 pairs"


def test_only_seeds_that_both_have_are_paired():
    base = [score("base", value=10.0, seed=0), score("base", value=20.0, seed=1)]
    assert table_of(*base, score("a", value=18.0, seed=1), score("a", value=0.0, seed=2)).rows == [["a", "-2.00"]]
    lone = table_of(*base, score("a", value=18.0, seed=7), score("b", value=9.0, seed=0))
    assert lone.rows == [["a", "no seed of the baseline"], ["b", "-1.00"]]
    assert lone.notes[1:] == ["a single pair has no interval"]


def test_two_protocols_have_no_difference_but_where_rows_differ_by_design():
    base, mine = score("base", "gfid", 10.0, made=sampled()), score("a", "gfid", 9.0, made=sampled(sampler="heun"))
    assert table_of(base, mine).rows == [["a", "other protocol"]]
    assert table_of(base, mine, by_design=["sampling.sampler"]).rows == [["a", "-1.00"]]


def test_rows_of_kinds_of_latents_are_held_against_their_own_kind_and_empty_columns_are_left_out():
    ways = {name: {"detail": {"latents": name, "interval": "a bootstrap"}} for name in ("features", "both")}
    values = {("base", "features"): 1.0, ("base", "both"): 2.0, ("a", "features"): 4.0, ("a", "both"): 8.0}
    scores = [score(run, "miou", value, **ways[latents]) for (run, latents), value in values.items()]
    scores.append(score("a", "macc", 5.0, **ways["both"]))
    _, table = score_tables("t", scores, ("miou", "macc"), parts=True, against="base")
    assert table.columns == ["run", "mIoU ↑"] and table.rows == [["a, features", "+3.00"], ["a, both", "+6.00"]]


def test_report_prints_them_under_each_table_by_the_row_s_or_the_cell_s_name(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(
        "axes:\n  way:\n    slow: {autoencoder.align: none}\n    quick: {diffusion.shift: 0.3}\n  seed: [0, 1]\n"
    )
    for name, value in (("dinov3-tiny.no-align", 40.0), ("dinov3-tiny.diffusion-shift-0.3", 42.0)):
        for seed in (0, 1):
            scores = [gfid(name, value + seed * (1 + value), seed=seed)]
            write(tmp_path / "runs" / (name + ".seed-1" * seed), scores, family="mae" if "shift" in name else "dinov3")
    words = ["report", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "runs"), "--format", "markdown", "--against"]
    for row in ("slow", "dinov3-tiny.no-align", "dinov3"):
        with pytest.raises(SystemExit) as ended:
            main([*words, row])
        said = capsys.readouterr().out
        assert ended.value.code == 0 and "gFID ↓ by sampling steps and guidance: differences from slow" in said
        assert "| quick | +3.00 ± 12.71 |" in said
    named = tmp_path / "named.yaml"
    named.write_text("run: tried\naxes:\n  way:\n    slow: {autoencoder.align: none}\n    quick: {diffusion.shift: 0.3}\n")
    for name, value in (("slow", 40.0), ("quick", 42.0)):
        write(tmp_path / "runs" / f"tried.{name}", [gfid(f"tried.{name}", value)])
    with pytest.raises(SystemExit) as ended:
        main([words[0], str(named), *words[2:], "slow"])
    assert ended.value.code == 0 and re.search(r"\| quick *\| \+2.00 *\|", capsys.readouterr().out)
    with pytest.raises(SystemExit) as ended:
        main([*words, "slw"])
    assert ended.value.code == 2 and "no row named 'slw'. Did you mean 'slow'?" in capsys.readouterr().err


def test_a_page_says_that_they_are_paired(tmp_path):
    write(tmp_path / "base", [gfid("base", 10.0)])
    write(tmp_path / "a", [gfid("a", 9.0)])
    assert '<p class="tag">paired by seed</p>' in page(report(collect(tmp_path), against="base"), title="t")
