"""Headline ratios: crossings on known curves, bounds where a curve does not say more, intervals over seeds."""

from __future__ import annotations

import csv
import io
import math

import pytest
from fake_runs import gfid, write

from svgbench.tables.collect import collect
from svgbench.tables.figures.charts import chart
from svgbench.tables.figures.series import curves, panels
from svgbench.tables.ratios import crossing, ratio_table
from svgbench.tables.seeds import half_interval


def test_a_crossing_is_linear_in_the_logarithm():
    points = [(5, 40.0), (10, 20.0), (100, 10.0)]
    assert crossing(points, 30.0).x == pytest.approx(math.sqrt(50))
    assert crossing(points, 15.0).x == pytest.approx(math.sqrt(1000))
    assert crossing(points, 10.0).x == pytest.approx(100)


def test_a_curve_reaches_a_gfid_where_it_first_comes_down_to_it():
    assert crossing([(1, 30.0), (2, 10.0), (4, 30.0), (8, 5.0)], 10.0).x == pytest.approx(2)


def test_beyond_its_points_a_curve_says_nothing():
    points = [(5, 40.0), (10, 20.0)]
    assert not crossing(points, 19.9).reached
    first = crossing(points, 41.0)
    assert first.before and first.x == 5


def grid(tmp_path, family="dinov3", **gfids):
    """Runs with gFIDs at 5, 10, 20, ... steps, a list for each seed."""
    for name, seeds in gfids.items():
        for seed, values in enumerate(seeds):
            scores = [gfid(name, v, steps=5 * 2**i, seed=seed) for i, v in enumerate(values)]
            write(tmp_path / (name + f".seed-{seed}" * (seed > 0)), scores, family="sd-vae" if name == "base" else family)
    return collect(tmp_path)


def table_of(records, **more):
    return ratio_table(curves(records, "steps"), baseline="sd-vae", **more)


def test_ratios_are_held_against_the_baseline_at_its_best_gfid(tmp_path):
    table = table_of(grid(tmp_path, base=[[40.0, 30.0, 20.0]], quick=[[30.0, 20.0, 10.0]], slow=[[50.0, 45.0, 40.0]]))
    rows = {row[0]: row[1:4] for row in table.rows if "best" in row[1]}
    assert rows["base"] == ["20.00 (best of base)", "20", "1 ×"]
    assert rows["quick"] == ["20.00 (best of base)", "10", "2 ×"]
    assert rows["slow"] == ["20.00 (best of base)", "not reached", "-"]
    assert table.rows[1][-1] == "5: 30.00, 10: 20.00, 20: 10.00" and any("one seed" in note for note in table.notes)


def test_what_is_reached_before_the_first_point_is_a_bound(tmp_path):
    table = table_of(grid(tmp_path, base=[[40.0, 30.0, 20.0]], quick=[[15.0, 14.0, 13.0]]))
    assert table.rows[1][2:4] == ["≤ 5", "≥ 4 ×"]


def test_seeds_give_a_geometric_mean_and_an_interval_of_logarithms(tmp_path):
    records = grid(tmp_path, base=[[40.0, 30.0, 20.0]] * 2, quick=[[30.0, 20.0, 10.0], [40.0, 20.0, 10.0]], late=[[41.0, 25.0, 20.0]] * 2)
    table = table_of(records, targets=[25.0])
    own = [crossing([(5, a), (10, 20.0), (20, 10.0)], 25.0).x for a in (30.0, 40.0)]
    base = crossing([(5, 40.0), (10, 30.0), (20, 20.0)], 25.0).x
    logs = [math.log(base / x) for x in own]
    centre, half = sum(logs) / 2, half_interval(logs)
    (row,) = [row for row in table.rows if row[0] == "quick" and row[1] == "25"]
    assert row[3].value == pytest.approx(math.exp(centre))
    assert row[3] == f"{math.exp(centre):.3g} ({math.exp(centre - half):.3g}, {math.exp(centre + half):.3g}) ×"


def test_seeds_that_do_not_reach_it_are_counted(tmp_path):
    table = table_of(grid(tmp_path, base=[[40.0, 20.0]] * 2, a=[[30.0, 20.0], [30.0, 29.0]]))
    assert {row[0]: row[2:4] for row in table.rows if "best" in row[1]}["a"] == ["not reached by 1 of 2 seeds", "-"]


def test_the_lowest_gfid_that_all_reach_is_asked_for_too(tmp_path):
    table = table_of(grid(tmp_path, base=[[80.0, 40.0, 20.0]], quick=[[30.0, 20.0, 10.0]], slow=[[90.0, 50.0, 40.0]]))
    rows = {row[0]: row[1:4] for row in table.rows if "all" in row[1]}
    assert rows["base"] == ["40.00 (the lowest that all reach)", "10", "1 ×"] and rows["slow"][1:] == ["20", "0.5 ×"]
    assert rows["quick"][1:] == ["≤ 5", "≥ 2 ×"]
    assert not any("all" in row[1] for row in table_of(grid(tmp_path / "even", base=[[40.0, 20.0]], quick=[[30.0, 10.0]])).rows)


def test_what_may_not_be_held_against_the_baseline_is_not_asked_to_reach_it(tmp_path):
    write(tmp_path / "base", [gfid("base", v, steps=s) for s, v in ((5, 40.0), (10, 20.0))], family="sd-vae")
    write(tmp_path / "a", [gfid("a", v, steps=s, shift=1.0) for s, v in ((5, 90.0), (10, 80.0))])
    assert not any("all" in row[1] for row in table_of(collect(tmp_path)).rows)


def test_a_seed_that_lacks_a_point_is_left_out_and_said(tmp_path):
    records = grid(tmp_path, base=[[40.0, 20.0]] * 2, a=[[30.0, 10.0], [30.0]], b=[[30.0], [30.0, 25.0]])
    table = table_of(records, targets=[15.0])
    rows = {(row[0], row[1]): row[2:4] for row in table.rows}
    assert rows["a", "15"] == ["8.41", "baseline: not reached"] and rows["b", "15"] == ["not reached", "-"]
    assert {row[0]: row[-1] for row in table.rows}["b"] == "5: 30.00, 10: 25.00"  # of the seeds that the ratio stands on
    assert [note for note in table.notes if "left out" in note] == [
        "a: seed 1 has no gFID at 10 sampling steps (failed, or not run yet) and is left out",
        "b: seed 0 has no gFID at 10 sampling steps (failed, or not run yet) and is left out",
    ]


def test_a_curve_of_which_no_seed_has_every_point_has_no_ratio(tmp_path):
    grid(tmp_path, base=[[40.0, 20.0]] * 2)
    for seed, steps in ((0, 5), (1, 10)):
        write(tmp_path / f"a.seed-{seed}", [gfid("a", 30.0, steps=steps, seed=seed)])
    table = table_of(collect(tmp_path))
    assert {row[0] for row in table.rows} == {"base"} and sum("left out" in note for note in table.notes) == 2


def test_a_baseline_that_some_seeds_do_not_reach_is_counted(tmp_path):
    table = table_of(grid(tmp_path, base=[[40.0, 20.0], [40.0, 30.0]], a=[[30.0, 10.0]] * 2), targets=[25.0])
    assert {row[0]: row[3] for row in table.rows if row[1] == "25"}["a"] == "baseline: not reached by 1 of 2 seeds"
    assert table.is_numeric(3)


def test_csv_has_the_ends_of_an_interval_of_thousands(tmp_path):
    for name, family, seeds in (("base", "sd-vae", ((40, 30, 20), (42, 30, 21))), ("quick", "dinov3", ((30, 19, 10), (33, 20, 12)))):
        for seed, values in enumerate(seeds):
            run = name + f".seed-{seed}" * (seed > 0)
            write(tmp_path / run, [gfid(name, v, seed=seed, images_seen=16000 * 2**i) for i, v in enumerate(values)], family=family)
    table = ratio_table(curves(collect(tmp_path), "images_seen"), baseline="sd-vae")
    lines = list(csv.DictReader(io.StringIO(table.csv())))
    (line,) = [line for line in lines if (line["run"], line["column"]) == ("quick", "images seen")]
    assert float(line["low"]) < float(line["value"]) < float(line["high"]) and float(line["low"]) > 1000


def test_the_seed_of_a_run_is_what_its_scores_say(tmp_path):
    for name, family in (("base", "sd-vae"), ("quick", "dinov3")):
        write(tmp_path / name, [{**gfid(name, v, images_seen=1000 * 2**i), "seed": 3} for i, v in enumerate((30.0, 20.0))], family=family)
    table = ratio_table(curves(collect(tmp_path), "images_seen"), baseline="sd-vae")
    assert all("-" not in row[4:6] for row in table.rows)


def test_curves_of_another_protocol_are_not_held_against_each_other(tmp_path):
    write(tmp_path / "base", [gfid("base", v, steps=s) for s, v in ((5, 40.0), (10, 20.0))], family="sd-vae")
    write(tmp_path / "a", [gfid("a", v, steps=s, shift=1.0) for s, v in ((5, 30.0), (10, 10.0))])
    table = table_of(collect(tmp_path))
    assert {row[0]: row[2:4] for row in table.rows}["a"] == ["other protocol", "-"]


def test_two_scales_of_guidance_are_not_held_against_each_other(tmp_path):
    for name, family, scale in (("base", "sd-vae", 2.0), ("a", "dinov3", 4.0)):
        write(tmp_path / name, [gfid(name, v, steps=s, guidance=scale) for s, v in ((5, 40.0), (10, 20.0))], family=family)
    table = ratio_table(curves(collect(tmp_path), "steps", "most"), baseline="sd-vae")
    assert {row[0]: row[2:4] for row in table.rows}["a"] == ["other protocol", "-"]


def test_a_baseline_that_is_not_there_is_said_with_what_stands_in_its_place(tmp_path):
    found = curves(grid(tmp_path, base=[[40.0, 30.0, 20.0]], quick=[[30.0, 20.0, 10.0]]), "steps")
    notes = {word: ratio_table(found, baseline=word).notes for word in ("va-vae", "sd-vae")}
    assert "no curve belongs to the baseline 'va-vae'; base is used instead" in notes["va-vae"]
    assert not any("asked for" in note for note in notes["sd-vae"])


def test_a_baseline_that_does_not_reach_a_target_gives_no_ratio(tmp_path):
    table = table_of(grid(tmp_path, base=[[40.0, 20.0]], a=[[30.0, 10.0]]), targets=[12.0])
    assert {row[0]: row[2:4] for row in table.rows if row[1] == "12"}["a"][1] == "baseline: not reached"


def training(tmp_path, seconds):
    """Two tokenizers trained for 1000, 2000 and 4000 images, each training a run of its own; ``seconds`` of the longest."""
    for name, family, values in (("base", "sd-vae", (40.0, 30.0, 20.0)), ("quick", "dinov3", (20.0, 15.0, 10.0))):
        for i, value in enumerate(values):
            images, run = 1000 * 2**i, f"{name}.total-images-{1000 * 2**i}"
            config = {"seed": 0, "encoder": {"card": name}, "diffusion": {"training": {"total_images": images, "batch": 32}}}
            write(tmp_path / run, [gfid(run, value, images_seen=images)], family=family, seconds=seconds * images / 4000, config=config)
    return collect(tmp_path)


def test_training_ratios_count_images_and_device_hours(tmp_path):
    found = curves(training(tmp_path, seconds=7200.0), "images_seen")
    assert [(curve.name, curve.steps) for curve in found] == [("base", 25), ("quick", 25)]
    table = ratio_table(found, baseline="sd-vae")
    assert table.columns == ["run", "gFID to reach", "images seen", "fewer than base", "device-hours", "fewer hours", "curve"]
    assert table.rows[0][2:6] == ["4,000", "1 ×", "2", "1 ×"]
    assert table.rows[1][2:6] == ["≤ 1,000", "≥ 4 ×", "≤ 0.5", "≥ 4 ×"]


def test_one_run_scored_along_its_training_is_a_curve_too(tmp_path):
    write(tmp_path / "a", [gfid("a", 30.0 - 10 * i, images_seen=1000 * 2**i) for i in range(3)])
    (curve,) = curves(collect(tmp_path), "images_seen")
    assert curve.points() == [(1000, 30.0, None), (2000, 20.0, None), (4000, 10.0, None)]


def test_a_curve_over_steps_is_of_the_end_of_the_training(tmp_path):
    write(tmp_path / "a", [gfid("a", v, steps=s, images_seen=i) for v, s, i in ((9, 5, 500), (8, 25, 500), (5, 5, 1000), (4, 25, 1000))])
    (curve,) = curves(collect(tmp_path), "steps")
    assert curve.points() == [(5, 5, None), (25, 4, None)]


def test_curves_share_an_axis_under_one_judge_alone_whatever_their_sampler(tmp_path):
    for name, more, judge in (("a", {}, None), ("b", {"sampler": "heun"}, None), ("c", {}, "another")):
        scores = [gfid(name, v, steps=s, **more) for v, s in ((9, 5), (8, 25))]
        for row in scores:
            row["protocol_fields"]["judge"] = judge
        write(tmp_path / name, scores)
    drawn = panels(collect(tmp_path), "steps", "none")
    assert [[(curve.name, curve.sampled) for curve in panel] for panel in drawn] == [
        [("a", "euler-shift0.15"), ("b", "heun-shift0.15")], [("c", "euler-shift0.15")],
    ]  # fmt: skip
    assert "b (heun-shift0.15)" in chart(drawn[0], 0, {}) and "c (" not in chart(drawn[1], 1, {})


def test_a_single_point_is_no_curve(tmp_path):
    write(tmp_path / "a", [gfid("a", 30.0)])
    assert curves(collect(tmp_path), "steps") == [] and ratio_table([], baseline="sd-vae") is None
