"""A layout as a surface: steps down, shifts across, a block of rows for each tokenizer; and what a table says of a tuned shift."""

from __future__ import annotations

import pytest
from fake_runs import gfid, write

from svgbench.errors import BadConfig
from svgbench.tables.collect import collect
from svgbench.tables.layouts import Layout, load_layout
from svgbench.tables.paper_tables import paper_tables
from svgbench.tables.report import report

HOW = "of-0.15,0.4,0.6-by-24x5steps-seed9001"
SHIFTS = {0.15: {3: (50.0, 40.0), 25: (24.0, 24.0)}, 0.4: {3: (35.0, 45.0), 25: (24.5, 23.0)}}
"""Shift -> steps -> gFID of two tokenizers."""


@pytest.fixture
def records(tmp_path):
    for number, encoder in enumerate(("sd-vae", "dinov3")):
        for shift, by_steps in SHIFTS.items():
            for seed in (0, 1):
                name = f"{encoder}.shift-{shift:g}" + (f".seed-{seed}" if seed else "")
                rows = [gfid(f"{encoder}.shift-{shift:g}", values[number] + seed, steps=steps, seed=seed, shift=shift)
                        for steps, values in by_steps.items()]  # fmt: skip
                write(tmp_path / name, rows, family=encoder)
    return collect(tmp_path)


def test_steps_stand_down_and_shifts_across_with_the_best_shift_of_each_row_in_bold(records):
    (table,) = paper_tables(load_layout("shift-steps"), records, [], [])
    assert table.columns == ["tokenizer", "steps", "shift 0.15", "shift 0.4"]
    assert [row[:2] for row in table.rows] == [[f"{name}-tiny", steps] for name in ("dinov3", "sd-vae") for steps in ("3", "25")]
    values = {(row[0], row[1]): [(cell.value, cell.place) for cell in row[2:]] for row in table.rows}
    assert values["sd-vae-tiny", "3"] == [(50.5, 0), (35.5, 1)] and values["sd-vae-tiny", "25"] == [(24.5, 1), (25.0, 0)]
    assert values["dinov3-tiny", "3"] == [(40.5, 1), (45.5, 0)]
    assert "mean over 2 seeds" in table.notes and "another seed" in table.notes[2] and "shift" not in table.notes[0]


def test_numbers_of_two_protocols_are_two_surfaces(records, tmp_path):
    write(tmp_path / "heun", [gfid("heun", 1.0, steps=3, shift=0.15, sampler="heun")], family="mae")
    tables = paper_tables(load_layout("shift-steps"), collect(tmp_path), [], [])
    assert [len(table.rows) for table in tables] == [4, 1] and "sampler heun" in tables[1].notes[0]


def test_snapshots_are_not_averaged_with_the_finished_model(records, tmp_path):
    rows = [gfid("mae", 10.0, steps=3, shift=0.15), gfid("mae", 90.0, steps=3, shift=0.15, images_seen=500)]
    write(tmp_path / "mae", rows, family="mae")
    (table,) = paper_tables(load_layout("shift-steps"), collect(tmp_path), [], [])
    assert [row[2].value for row in table.rows if row[0] == "mae-tiny"] == [10.0]


@pytest.mark.parametrize(
    "columns", [[{"metric": "gfid", "guidance": "most"}], [{"metric": "gfid"}, {"metric": "is"}], [{"metric": "rfid"}]]
)
def test_a_surface_of_more_than_one_number_a_cell_is_refused(columns):
    with pytest.raises(ValueError, match="a surface shows one metric of samples at one guidance scale"):
        Layout(name="x", title="x", columns=columns, surface={"down": "sampling.steps", "across": "sampling.shift"})


def test_a_surface_over_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"a sampling protocol has no numeric field 'sampling\.shfit'.*sampling\.shift"):
        Layout(name="x", title="x", columns=[{"metric": "gfid"}], surface={"down": "sampling.steps", "across": "sampling.shfit"})


def test_tuned_shifts_of_one_way_of_tuning_are_ranked_together_and_printed(tmp_path):
    for name, shift, value in (("one", 0.15, 30.0), ("two", 0.4, 20.0)):
        write(tmp_path / name, [gfid(name, value, steps=5, shift=shift, tuned=HOW)], family=name)
    write(tmp_path / "given", [gfid("given", 10.0, steps=5, shift=0.4)], family="given")
    table = next(table for table in report(collect(tmp_path)) if "gFID" in table.title)
    assert f"sampling shift tuned ({HOW}): one 0.15; two 0.4" in table.notes
    assert "the tuned shift of one is the smallest or largest candidate, so a better one may lie outside their range" in table.notes
    column = next(number for number, row in enumerate(zip(*table.rows, strict=True)) if getattr(row[2], "value", None) == 20.0)
    assert table.rows[2][column].place == 1 and table.rows[1][column].value == 30.0
    assert table.rows[0][column] == "-"  # a shift that was given is another protocol
    assert any("not ranked together" in note and "sampling.tuned" in note for note in table.notes)


def test_a_layout_file_with_a_wrong_surface_names_its_line(tmp_path):
    path = tmp_path / "table-x.yaml"
    path.write_text("title: x\nsurface: {down: sampling.steps}\ncolumns: [{metric: gfid}]\n")
    with pytest.raises(BadConfig, match=r"table-x\.yaml:2: surface\.across is missing"):
        load_layout(str(path))
