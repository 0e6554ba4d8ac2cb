"""Measured runs in a paper's table: what may be ranked is, what is missing or failed is said, and published rows stand apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_runs import gfid, sampled, score, write

from svgbench.config.records import Protocol
from svgbench.lab.execute import text_of
from svgbench.lab.plan import Node
from svgbench.tables.collect import collect
from svgbench.tables.layouts import Layout, contested, load_layout
from svgbench.tables.paper_tables import measured_table, paper_tables
from svgbench.tables.published import published
from svgbench.tables.table import Cell, place_of


def layout(*columns, **more):
    return Layout.model_validate({"name": "mine", "title": "t", "columns": list(columns), **more})


def runs(tmp_path, **scores):
    for name, own in scores.items():
        write(tmp_path / name, own)
    return collect(tmp_path)


def test_columns_follow_the_layout_and_the_best_two_are_marked(tmp_path):
    found = runs(tmp_path, **{n: [score(n, "rfid", v), gfid(n, 10 * v)] for n, v in (("a", 3.0), ("b", 1.0), ("c", 2.0))})
    table = measured_table(layout({"metric": "gfid"}, {"metric": "rfid"}), found)
    assert table.columns == ["run", "gFID ↓, 25 steps [1]", "rFID ↓ [2]"]
    assert [[place_of(cell) for cell in row] for row in table.rows] == [[0, 0, 0], [0, 1, 1], [0, 2, 2]]


def test_steps_and_guidance_of_a_column(tmp_path):
    scores = [gfid("a", s + g, steps=s, guidance=g) for s in (5, 25) for g in (1.0, 2.0, 4.0)]
    found = runs(tmp_path, a=scores)
    for column, titles in (
        ({}, ["gFID ↓, 25 steps"]),
        ({"steps": "all"}, ["gFID ↓, 5 steps", "gFID ↓, 25 steps"]),
        ({"steps": 5, "guidance": "most"}, ["gFID ↓, 5 steps, guidance 4"]),
        ({"guidance": "all"}, ["gFID ↓, 25 steps, guidance 1", "gFID ↓, 25 steps, guidance 2", "gFID ↓, 25 steps, guidance 4"]),
        ({"guidance": 2.0}, ["gFID ↓, 25 steps, guidance 2"]),
    ):
        table = measured_table(layout({"metric": "gfid", **column}), found)
        assert [name.removesuffix(" [1]") for name in table.columns[1:]] == titles


def test_a_metric_that_a_run_does_not_have_is_a_dash_with_a_footnote_and_never_a_zero(tmp_path):
    found = runs(tmp_path, a=[score("a"), score("a", "psnr", 20.0)], b=[score("b")])
    table = measured_table(layout({"metric": "rfid"}, {"metric": "psnr"}, {"metric": "depth_rmse"}), found)
    assert [row[2] for row in table.rows] == ["20.00 (19.50, 20.50)", "- [a]"] and [row[3] for row in table.rows] == ["- [a]"] * 2
    assert "[a] not scored in this run" in table.notes and not any(cell.startswith("0") for row in table.rows for cell in row)


def test_an_optional_column_that_no_row_has_is_left_out_and_named_unless_it_failed(tmp_path):
    own = layout({"metric": "gfid"}, {"metric": "fdr6", "optional": True}, {"metric": "fd_simclr", "optional": True})
    table = measured_table(own, runs(tmp_path, a=[gfid("a", 2.0)], b=[gfid("b", 3.0), score("b", "fd_simclr", 1.0, made=sampled())]))
    assert [name.partition(" ")[0] for name in table.columns] == ["run", "gFID", "FD-SimCLR"]
    assert "without a column, because no row has it: FDr6" in table.notes
    write(tmp_path / "c", [gfid("c", 4.0)], {"fdr6-generation-scores steps 25 guidance 1": "out of memory."})
    table = measured_table(own, collect(tmp_path))
    assert [name.partition(" ")[0] for name in table.columns] == ["run", "gFID", "FDr6", "FD-SimCLR"]
    assert table.rows[2][2] == "failed [b]" and "[b] fdr6-generation-scores steps 25 guidance 1: out of memory" in table.notes
    assert not any(note.startswith("without a column") for note in table.notes)


def test_steps_that_a_run_was_not_sampled_with_are_said(tmp_path):
    found = runs(tmp_path, a=[gfid("a", 2.0, steps=5), gfid("a", 1.0)], b=[gfid("b", 3.0)])
    table = measured_table(layout({"metric": "gfid", "steps": "all"}), found)
    assert table.rows[1][1] == "- [a]" and "[a] not sampled with these steps and guidance" in table.notes


def test_what_failed_is_said_with_its_reason_where_its_number_would_stand(tmp_path):
    write(tmp_path / "a", [score("a")], {"samples": "the latents are NaN."})
    write(tmp_path / "b", [score("b"), gfid("b", 1.0)])
    table = measured_table(layout({"metric": "rfid"}, {"metric": "gfid"}, {"metric": "probe_top1"}), collect(tmp_path))
    assert table.rows[0][1:] == ["1.00 (0.50, 1.50)", "failed [a]", "- [b]"]  # the probe does not stand on samples
    assert "[a] samples: the latents are NaN" in table.notes


def test_a_run_of_which_nothing_was_finished_keeps_its_row(tmp_path):
    write(tmp_path / "a", [], {"autoencoder": "out of memory."})
    write(tmp_path / "b", [score("b")])
    table = measured_table(layout({"metric": "rfid"}, {"metric": "probe_top1", "latents": "both"}), collect(tmp_path))
    assert table.rows[0] == ["a", "failed [a]", "failed [a]"] and place_of(table.rows[1][1]) == 0


def test_a_seed_that_failed_is_said_beside_the_mean_of_the_others(tmp_path):
    for seed in (0, 1):
        write(tmp_path / ("a" + f".seed-{seed}" * (seed > 0)), [gfid("a", 1.0 + seed, seed=seed)])
    write(tmp_path / "a.seed-2", [], {"diffusion": "NaN past the skip budget."})
    table = measured_table(layout({"metric": "gfid"}), collect(tmp_path))
    assert table.rows == [["a", "1.50 ± 6.35 [a]"]] and isinstance(table.rows[0][1], Cell)
    assert "[a] mean over 2 of 3 seeds; seed 2 failed: diffusion: NaN past the skip budget" in table.notes


def test_a_failed_cell_is_said_where_its_steps_and_guidance_stand(tmp_path):
    node = Node("generation-scores", "k", {}, {}, {}, {"sampling.steps": 25, "sampling.guidance": 4.0, "sampling.trained": 1.0})
    failures = {text_of(node): "BadData: no.", text_of(replace(node, stage="samples")).replace("25", "5"): "out of memory."}
    write(tmp_path / "a", [gfid("a", 2.0), gfid("a", 4.0, steps=5)], failures)
    write(tmp_path / "b", [gfid("b", s * g, steps=s, guidance=g) for s in (5, 25) for g in (1.0, 4.0)])
    found = collect(tmp_path)
    table = measured_table(layout({"metric": "gfid", "steps": "all", "guidance": "all"}), found)
    assert table.rows[0][1:] == ["4.00 (3.50, 4.50)", "failed [a]", "2.00 (1.50, 2.50)", "failed [b]"]
    said = {"[a] samples steps 5 guidance 4: out of memory", "[b] generation-scores steps 25 guidance 4: BadData: no"}
    assert said <= set(table.notes)
    alone = measured_table(layout({"metric": "gfid", "guidance": "most"}), found[:1])  # nobody has a number
    assert alone.rows[0][1].startswith("failed [a]") and len([note for note in alone.notes if note.startswith("[a]")]) == 1


def test_a_cell_that_failed_for_one_seed_of_several_is_said_beside_the_mean(tmp_path):
    write(tmp_path / "a", [gfid("a", 1.0)])
    write(tmp_path / "a.seed-1", [gfid("a", 4.0, steps=5, seed=1)], {"generation-scores steps 25 guidance 1 trained 1": "singular."})
    write(tmp_path / "a.seed-2", [gfid("a", 2.0, seed=2)])
    table = measured_table(layout({"metric": "gfid", "steps": 25}), collect(tmp_path))
    assert table.rows == [["a", "1.50 ± 6.35 [a]"]]
    assert "[a] mean over 2 of 3 seeds; seed 1 failed: generation-scores steps 25 guidance 1 trained 1: singular" in table.notes


def test_rows_that_differ_by_design_show_it_and_are_ranked_others_stand_apart(tmp_path):
    found = runs(tmp_path, a=[gfid("a", 2.0)], b=[gfid("b", 1.0, sampler="heun", shift=1.0)])
    strict = measured_table(layout({"metric": "gfid"}), found)
    assert strict.columns == ["run", "gFID ↓, 25 steps [1]", "gFID ↓, 25 steps [2]"]
    assert not any(place_of(cell) for row in strict.rows for cell in row)
    shown = measured_table(layout({"metric": "gfid"}, shows=["sampling.sampler", "sampling.shift", "sampling.schedule"]), found)
    assert shown.columns == ["run", "sampler", "shift", "gFID ↓, 25 steps [1]"]  # the schedule is the same everywhere
    assert [row[1:3] for row in shown.rows] == [["euler", "0.15"], ["heun", "1"]] and [place_of(row[3]) for row in shown.rows] == [0, 1]
    assert any("sampling.sampler, sampling.shift, shown in each row" in note for note in shown.notes)


def test_a_field_that_is_not_shown_still_keeps_rows_apart(tmp_path):
    found = runs(tmp_path, a=[gfid("a", 2.0)], b=[gfid("b", 1.0, sampler="heun", shift=1.0)])
    table = measured_table(layout({"metric": "gfid"}, shows=["sampling.sampler"]), found)
    assert len(table.columns) == 4 and any("they differ in sampling.shift (0.15, 1.0)" in note for note in table.notes)


def test_steps_that_differ_by_design_stand_in_the_row(tmp_path):
    found = runs(tmp_path, a=[gfid("a", 2.0, steps=250)], b=[gfid("b", 1.0, steps=5), gfid("b", 0.5, steps=25)])
    table = measured_table(layout({"metric": "gfid"}, shows=["sampling.steps"]), found)
    assert table.columns == ["run", "steps", "gFID ↓ [1]"] and [row[1] for row in table.rows] == ["250", "25"]


def test_how_a_row_is_guided_is_said_of_its_guided_samples(tmp_path):
    guided = {"guidance": 2.0}
    found = runs(tmp_path, a=[gfid("a", 2.0), gfid("a", 1.0, **guided)], b=[gfid("b", 2.0), gfid("b", 1.5, schedule="linear", **guided)])
    table = measured_table(layout({"metric": "gfid", "guidance": "all"}, shows=["sampling.schedule"]), found)
    assert table.columns[1] == "schedule" and [row[1] for row in table.rows] == ["constant", "linear"]


def test_rows_that_are_all_guided_alike_do_not_differ_in_how(tmp_path):
    scores = {n: [gfid(n, 2.0), gfid(n, 1.0, guidance=2.0, schedule="linear")] for n in ("a", "b")}
    scores["b"][1]["protocol_fields"]["sampling"].pop("against")  # as an earlier version wrote it
    shown = layout({"metric": "gfid", "guidance": "all"}, shows=["sampling.schedule", "sampling.against"])
    table = measured_table(shown, runs(tmp_path, **scores))
    assert len(table.columns) == 3 and not any("by design" in note for note in table.notes)


def test_facts_of_a_run_stand_beside_its_name(tmp_path):
    write(tmp_path / "a", [gfid("a", 1.0, images_seen=64000)], seconds=7200.0, device="cuda")
    facts = ["encoder", "align", "residual_channels", "images_seen", "parameters", "gpu_hours"]
    table = measured_table(layout({"metric": "gfid"}, rows=facts), collect(tmp_path))
    assert table.rows[0][1:7] == ["dinov3-tiny", "frozen", "8", "64,000", "1.30M", "2 (cuda)"]


def test_a_run_scored_along_its_training_has_a_row_for_each_point(tmp_path):
    scores = [score("a", images_seen=2000), gfid("a", 3.0, images_seen=1000), gfid("a", 2.0, images_seen=2000)]
    table = measured_table(layout({"metric": "rfid"}, {"metric": "gfid"}), runs(tmp_path, a=scores))
    assert [row[0] for row in table.rows] == ["a, 1,000 images", "a, 2,000 images"]
    assert [row[1] for row in table.rows] == ["1.00 (0.50, 1.50)"] * 2 and [row[2][:4] for row in table.rows] == ["3.00", "2.00"]


def test_perception_is_of_the_part_that_the_column_names(tmp_path):
    made = Protocol(measure="linear", images="val", version="v1")
    parts = {"features": 50.0, "residual": 30.0, "both": 60.0}
    whole = [score("a", "probe_top1", v, made=made, detail={"latents": part, "interval": "a bootstrap"}) for part, v in parts.items()]
    alone = [score("b", "probe_top1", 55.0, made=made, residual_channels=0, detail={"latents": "features", "interval": "a bootstrap"})]
    columns = ({"metric": "probe_top1"}, {"metric": "probe_top1", "latents": "residual"})
    table = measured_table(layout(*columns), runs(tmp_path, a=whole, b=alone))
    assert [[cell[:5] for cell in row[1:]] for row in table.rows] == [["60.00", "30.00"], ["55.00", "- [a]"]]
    assert "[a] has no residual" in table.notes


def test_published_rows_stand_in_a_table_of_their_own_with_sources_and_are_never_ranked(tmp_path):
    found = runs(tmp_path, a=[score("a", "rfid", 0.1)], b=[score("b", "rfid", 0.2)])
    measured, printed = paper_tables(load_layout("ablation"), found, published(), contested())
    assert (measured.kind, printed.kind) == ("measured", "published")
    assert [row[1] for row in printed.rows] == [
        "DINOv3-S+/16 only", "DINOv3-S+/16 + residual encoder", "SVG(DINOv3-S+/16) = + distribution align",
    ]  # fmt: skip
    assert not any(place_of(cell) for row in printed.rows for cell in row) and "not ranked" in printed.notes[0]
    assert {row[-1] for row in printed.rows} == {"[1] [2]"} and any("public/down.jpg" in note for note in printed.notes)
    (column,) = [i for i, name in enumerate(printed.columns) if name == "gFID ↓, guided"]
    (mark,) = [note.split(" ")[0] for note in printed.notes if "6.12 is the features alone" in note]
    cells = [row[column] for row in printed.rows]
    assert [cell.split(" ")[0] for cell in cells] == ["6.12", "9.03", "6.11"] and all(mark in cell for cell in cells)
    assert any("read it beside SSIM [-1, 1]" in note for note in printed.notes)


def test_contested_numbers_carry_their_footnote_where_they_are_printed(tmp_path):
    found = runs(tmp_path, a=[gfid("a", 1.0)])
    for name, words in (
        ("few-step", "lies on the plotted 40-epoch curve"), ("main", "1.92 is with guidance"),
        ("main", "9.35 is elsewhere printed as 8.61"), ("scaling", "never reaches the 12.26"), ("convergence", "read off a plot"),
    ):  # fmt: skip
        tables = paper_tables(load_layout(name), found, published(), contested())
        (printed,) = [table for table in tables if table.kind == "published"]
        (note,) = [note for note in printed.notes if words in note]
        mark = note.split(" ")[0]
        assert any(mark in cell.split() for row in printed.rows for cell in row[:-1]), note


@pytest.mark.parametrize(
    "name",
    ["ablation", "main", "few-step", "scaling", "encoders", "recipes", "convergence", "guidance", "shift", "shift-steps", "continued"],
)
def test_every_layout_takes_any_runs(tmp_path, name):
    found = runs(tmp_path, a=[score("a"), gfid("a", 2.0, steps=5), gfid("a", 1.0), score("a", "is", 3.0, made=sampled(25, 2.0))])
    for table in paper_tables(load_layout(name), found, published(), contested()):
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows) and table.markdown()


def test_a_field_of_the_configuration_is_a_fact_too(tmp_path):
    write(tmp_path / "a", [gfid("a", 1.0)], config={"diffusion": {"shift": 0.15, "size": "B"}})
    write(tmp_path / "b", [gfid("b", 2.0)])
    table = measured_table(layout({"metric": "gfid"}, rows=["diffusion.shift", "diffusion.size"]), collect(tmp_path))
    assert table.columns[1:3] == ["diffusion shift", "diffusion size"] and [row[1:3] for row in table.rows] == [["0.15", "B"], ["-", "-"]]


def test_what_nobody_asked_for_is_not_called_failed(tmp_path):
    write(tmp_path / "a", [gfid("a", 1.0)])
    write(tmp_path / "a.seed-1", [], {"diffusion": "NaN."})
    table = measured_table(layout({"metric": "gfid"}, {"metric": "gfid", "guidance": "most"}), collect(tmp_path))
    assert table.rows[0][2] == "- [a]" and table.rows[0][1].endswith(" [b]")


def test_where_all_rows_are_equal_none_is_best(tmp_path):
    found = runs(tmp_path, a=[score("a")], b=[score("b")], c=[score("c")])
    assert not any(place_of(row[1]) for row in measured_table(layout({"metric": "rfid"}), found).rows)


def test_a_layout_that_asks_for_published_rows_nobody_printed_says_so(tmp_path):
    found = runs(tmp_path, a=[score("a")])
    mine = layout({"metric": "rfid"}, published=[{"system": "SVG"}, {"system": "SGV", "epochs": [80, None]}])
    table = paper_tables(mine, found, published(), contested())[0]
    assert [note for note in table.notes if "no published row" in note] == [
        "no published row matches system SGV, epochs [80, None], which the layout 'mine' names"
    ]


def test_marks_are_of_numbers_near_the_best_of_one_protocol(tmp_path):
    other = Protocol(measure="linear", images="val", version="v2")
    made = Protocol(measure="linear", images="val", version="v1")
    probes = {"a": (80.0, made), "b": (72.0, made), "c": (71.9, made), "d": (10.0, other)}
    scores = {name: [score(name, "rfid", 1.0), score(name, "probe_top1", value, made=way)] for name, (value, way) in probes.items()}
    found = runs(tmp_path, **scores, e=[score("e", "rfid", 1.5)])
    marks = [{"title": "semantic", "metric": "probe_top1", "within": 0.1}, {"title": "near", "metric": "rfid", "within": 0.2}]
    table = measured_table(layout({"metric": "rfid"}, marks=marks), found)
    assert table.columns[-2:] == ["semantic", "near"]
    assert [row[-2] for row in table.rows] == ["✓", "✓", "✗", "✓", "-"]  # d is the best of its own protocol
    assert [row[-1] for row in table.rows] == ["✓"] * 4 + ["✗"]  # lower is better
    assert "semantic ✓: top-1 within 10 % of the best row" in table.notes


def test_a_layout_names_its_table_of_the_paper(tmp_path):
    write(tmp_path / "a", [score("a", "rfid", 1.0)], config={"encoder": {"features": {"layers": [5, 9]}}})
    found = collect(tmp_path)
    table = measured_table(load_layout("layer"), found)
    assert "layout of table 6 of arXiv 2510.15301" in table.notes and table.columns[1] == "blocks" and table.rows[0][1] == "5, 9"
    with pytest.raises(ValueError, match="a table cannot mix columns"):
        layout({"metric": "rfid"}, {"metric": "encoder_params_m"})


def test_a_field_that_a_later_version_added_is_a_fact_where_a_record_lacks_it(tmp_path):
    from svgbench.tables.facts import FIELDS, Row, fact

    write(tmp_path / "a", [gfid("a", 9.0)], config={"latents": {"scale": None}})
    write(tmp_path / "b", [gfid("b", 9.0)], config={"latents": {"scale": None, "standardise": "scalar"}})
    records = collect(tmp_path, ["a", "b"])
    assert "latents.standardise" in FIELDS
    assert [fact("latents.standardise", Row([record], record.scores)) for record in records] == ["channel", "scalar"]
