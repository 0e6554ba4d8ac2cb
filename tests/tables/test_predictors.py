"""Rank correlations over tokenizers: against scipy and known orders; seeds of a tokenizer count once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from commands import svgbench
from fake_runs import gfid, score, write
from finished import finish, planned
from scipy import stats

from svgbench.lab.diagnosis import card_plan, diagnosed
from svgbench.lab.plan import Plan
from svgbench.tables.collect import collect
from svgbench.tables.predictors import FEWEST, kendall, predictor_tables, spearman

GFIDS = {"a": 10.0, "b": 20.0, "c": 35.0, "d": 30.0, "e": 50.0}
PSNRS = {"a": 30.0, "b": 28.0, "c": 25.0, "d": 26.0, "e": 20.0}


def runs(out, *, early=None, config=None, seeds=2):
    """Five tokenizers whose order of PSNR is the reverse of that of gFID."""
    for name, value in GFIDS.items():
        for seed in range(seeds):
            rows = [
                gfid(name, value + seed, seed=seed),
                score(name, "psnr", PSNRS[name] + 0.1 * seed, seed),
                score(name, "ssim", 0.5, seed),
            ]
            if early:
                rows.append(gfid(name, early[name], seed=seed, images_seen=500))
            write(out / (f"{name}.seed-{seed}" if seed else name), rows, config=config(name) if config else None)
    return collect(out)


@pytest.mark.parametrize("ours, theirs", [(kendall, stats.kendalltau), (spearman, stats.spearmanr)])
def test_a_correlation_is_scipys_and_its_interval_holds_it(ours, theirs):
    rng = np.random.default_rng(0)
    a = rng.normal(size=12)
    b = a + rng.normal(size=12)
    found = ours(list(a), list(b))
    assert found.value == pytest.approx(theirs(a, b).statistic)
    assert -1 <= found.low < found.value < found.high <= 1
    assert ours([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])[:3] == pytest.approx((1, 1, 1))
    assert ours([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_each_figure_has_its_correlation_with_gfid_over_tokenizers(tmp_path):
    (table,) = predictor_tables(runs(tmp_path), {"noise": dict(zip("abcde", (3, 1, 2, 5, 4), strict=True)), "few": {"a": 1.0, "b": 2.0}})
    assert table.title == "What predicts gFID at 25 steps"
    found = {row[0]: row[1:] for row in table.rows}
    assert found["PSNR"][0] == "5" and found["PSNR"][1].value == pytest.approx(-1) and found["PSNR"][1] == "-1.00"
    assert found["PSNR"][2] == "0.017"  # of the 120 orders two are perfect
    assert found["SSIM"][1:] == ["-", "-", "-"]  # constant
    assert found["noise"][1].value == pytest.approx(stats.kendalltau([3, 1, 2, 5, 4], [10, 20, 35, 30, 50]).statistic)
    assert "few" not in found and next(row[0] for row in table.rows) == "PSNR"


def test_rows_of_two_experiments_with_the_same_transformer_are_one_tokenizer(tmp_path):
    found = runs(tmp_path / "one", seeds=1) + [replace(record, name=f"again.{record.name}") for record in runs(tmp_path / "two", seeds=1)]
    for record in found:
        record.scores[:] = [{**row, "run": record.name} for row in record.scores]
    (table,) = predictor_tables(found, {"noise": dict(zip(GFIDS, (3, 1, 2, 5, 4), strict=True))})
    assert {row[0]: row[1] for row in table.rows} == {"PSNR": "5", "SSIM": "5", "noise": "5"}
    for record in found:  # other trainings of the same latents are tokenizers of their own
        record.about["stages"] = [{**record.about["stages"][0], "key": record.name}]
    (table,) = predictor_tables(found)
    assert {row[1] for row in table.rows} == {"10"}


def test_too_few_tokenizers_have_no_table(tmp_path):
    few = [record for record in runs(tmp_path) if record.row in list(GFIDS)[: FEWEST - 1]]
    assert predictor_tables(few) == []


def test_other_protocols_are_other_tables(tmp_path):
    for name, value in GFIDS.items():
        rows = [gfid(name, value), gfid(name, 60 - value, guidance=2.0), gfid(name, value, steps=5), score(name, "psnr", PSNRS[name])]
        write(tmp_path / name, rows)
    tables = {table.title: {row[0]: row[2].value for row in table.rows} for table in predictor_tables(collect(tmp_path))}
    wanted = {"at 5 steps": -1, "at 25 steps": -1, "at 25 steps, guidance 2": 1}
    assert {t.removeprefix("What predicts gFID "): rows["PSNR"] for t, rows in tables.items()} == pytest.approx(wanted)


def test_the_order_early_in_the_training_is_held_against_that_at_its_end(tmp_path):
    early = {"a": 60.0, "b": 70.0, "c": 90.0, "d": 95.0, "e": 99.0}  # c and d change places
    tables = {table.title: table for table in predictor_tables(runs(tmp_path, early=early))}
    (row,) = tables["Does a short training show the order?"].rows
    assert row[:3] == ["50 %", "5", "25 steps, guidance 1"] and row[3].value == pytest.approx(0.8)


def test_the_order_with_a_small_transformer_is_held_against_that_with_a_large_one(tmp_path):
    for size, sign in (("S", 1), ("L", -1)):
        for name, value in GFIDS.items():
            config = {"encoder": {"card": name}, "diffusion": {"size": size, "transformer": {"width": len(size)}, "shift": 0.4}}
            write(tmp_path / f"{name}.{size}", [{**gfid("x", sign * value), "run": f"{name}.{size}"}], config=config)
    tables = {table.title: table for table in predictor_tables(collect(tmp_path))}
    (row,) = tables["Does a small transformer show the order?"].rows
    assert row[0] in ("S and L", "L and S") and row[1] == "5" and row[3].value == pytest.approx(-1)


def test_the_command_prints_the_tables_and_refuses_too_few_tokenizers(tmp_path):
    runs(tmp_path / "runs")
    told = svgbench("report", "predictors", "--out", tmp_path / "runs")
    assert told.returncode == 0 and "### What predicts gFID at 25 steps" in told.stdout and "PSNR" in told.stdout
    rows = json.loads(svgbench("report", "predictors", "--out", tmp_path / "runs", "--format", "json").stdout)
    assert {(row["table"], row["figure"]) for row in rows} == {("What predicts gFID at 25 steps", name) for name in ("PSNR", "SSIM")}
    write(tmp_path / "few" / "a", [gfid("a", 1.0)])
    few = svgbench("report", "predictors", "--out", tmp_path / "few")
    assert few.returncode == 2 and "holds no gFIDs of 4 tokenizers under one protocol" in few.stderr
    both = svgbench("report", "predictors", "--against", "a", "--out", tmp_path / "runs")
    assert both.returncode == 2 and "leave out --layout and --against" in both.stderr


def test_the_figures_of_finished_cards_are_found_by_run(tmp_path):
    """The card of one of two runs is finished; the other run lacks its statistics."""
    plan = planned(tmp_path)
    one, other = plan.runs
    inputs = {run.name: [key for key in run.nodes if plan.nodes[key].stage in ("images", "autoencoder", "statistics")] for run in plan.runs}
    store = finish(plan, tmp_path / "runs", keys=[*inputs[one.name], *inputs[other.name][:-1]])
    entries = {name: [{"stage": plan.nodes[key].stage, "key": key, "cell": {}} for key in keys] for name, keys in inputs.items()}
    runs_ = {run.name: (run.config, entries[run.name]) for run in plan.runs}
    cards, _ = card_plan({}, {one.name: runs_[one.name]}, store)
    card = next(node for node in cards.nodes.values() if node.stage == "diffusability")
    assert diagnosed(runs_, store) == {}
    finish(Plan({card.key: card}, ()), tmp_path / "runs")
    assert diagnosed(runs_, store) == {one.name: {"psnr": int(card.key[:4], 16) / 1000}}
