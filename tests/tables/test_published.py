"""Published figures: every row of the shelf is typed and has a source; what is off is said with file and line."""

from __future__ import annotations

import pytest

from svgbench.errors import BadInput
from svgbench.tables.published import COLUMNS, disagreements, published

HEAD = ",".join(COLUMNS)


def rows_of(tmp_path, *lines):
    path = tmp_path / "figures.csv"
    path.write_text("\n".join([HEAD, *lines]) + "\n")
    return published(path)


def test_every_row_of_the_shelf_has_a_source_and_a_number():
    rows = published()
    assert len(rows) == 640 and all(row.source and row.metric and row.system for row in rows)
    assert {"gfid", "rfid", "psnr", "is", "probe_top1", "miou", "macc", "depth_rmse", "depth_arel"} <= {row.metric for row in rows}
    assert len({tuple(vars(row).items())[1:] for row in rows}) == len(rows), "a row stands twice"


def test_numbers_of_the_shelf_are_in_the_range_of_their_metric():
    ranges = {"gfid": (0, 300), "rfid": (0, 20), "precision": (0, 1), "recall": (0, 1), "ssim": (0, 1), "lpips": (0, 1), "psnr": (10, 40)}
    ranges |= dict.fromkeys(("probe_top1", "probe_top5", "miou", "macc"), (0, 100)) | {"is": (1, 500), "depth_rmse": (0, 1)}
    for row in published():
        low, high = ranges.get(row.metric, (0, 1e4))
        assert low < row.value < high, row
        assert row.metric not in ("rfid", "psnr", "ssim", "lpips") or (row.guidance == "" and row.epochs is None), row


def test_the_paper_s_own_figures_are_on_the_shelf():
    found = {(r.network, r.epochs, r.steps, r.guided, r.value) for r in published() if r.system == "SVG" and r.metric == "gfid"}
    assert {("SVG-XL", 80, 25, False, 6.57), ("SVG-XL", 1400, 25, True, 1.92)} <= found


def test_rows_are_typed(tmp_path):
    (row,) = rows_of(tmp_path, "SiT,SD-VAE,ImageNet-1K,256,SiT-XL/2,675,80,sde,250,cfg 1.8,gFID,2.1,a page [digitised from plot]")
    assert (row.line, row.resolution, row.params_m, row.epochs, row.steps) == (2, 256, 675, 80, 250)
    assert (row.metric, row.value, row.text, row.guided, row.digitised, row.network) == ("gfid", 2.1, "2.1", True, True, "SiT-XL")
    (bound,) = rows_of(tmp_path, "SiT,,ImageNet-1K,256,SiT,,,,,,epochs_to_gFID_le_2,>800,a page")
    assert (bound.bound, bound.value, bound.guided) == (">", 800.0, None)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("a,b,c,256,m,,,,,none,gFID,1.0,", r"figures\.csv:2: has no source"),
        ("a,b,c,256,m,,,,,none,gFID,1.0,  ", r"figures\.csv:2: has no source"),
        ("a,b,c,256,m,,,,,none,gFID,about 3,x", r"figures\.csv:2: value must be a number.*'about 3'"),
        ("a,b,c,256,m,,,,,none,gFID,nan,x", r"figures\.csv:2: value must be a number"),
        ("a,b,c,256,m,,eighty,,,none,gFID,1.0,x", r"figures\.csv:2: epochs must be a whole number or empty, got 'eighty'"),
        ("a,b,c,256,m,,,,,none,gFDI,1.0,x", r"figures\.csv:2: no metric named 'gFDI'\. Did you mean 'gFID'"),
        ("a,b,c,256,m,,,,,none,gFID,1.0,x,y", r"figures\.csv:2: has 14 cells"),
    ],
)
def test_a_row_that_is_off_is_said_with_its_line(tmp_path, line, sentence):
    with pytest.raises(BadInput, match=sentence):
        rows_of(tmp_path, line)


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "figures.csv"
    path.write_text("system,value\na,1\n")
    with pytest.raises(BadInput, match=r"figures\.csv:1: the columns are system, value"):
        published(path)
    with pytest.raises(BadInput, match="does not exist"):
        published(tmp_path / "absent.csv")


def test_rows_that_print_another_number_for_the_same_thing_are_found(tmp_path):
    rows = rows_of(
        tmp_path,
        "SiT,SD-VAE,I,256,SiT-XL,,1400,,250,none,gFID,9.35,a",
        "SiT,SD-VAE,I,256,SiT-XL/2,,1400,,,none,gFID,8.61,b",  # steps not said
        "SiT,SD-VAE,I,256,SiT-XL,,1400,,250,none,gFID,9.4,c",  # rounded
        "SiT,SD-VAE,I,256,SiT-XL,,1400,,250,cfg,gFID,2.15,d",  # guided
        "SiT,SD-VAE,I,256,SiT-XL,,1400,,250,none,gFID,9.0,e [digitised from plot]",
        "SiT,SD-VAE,I,256,SiT-XL,,80,,250,none,gFID,17.2,f",
        "SiT,SD-VAE,I,256,SiT-XL,,1400,,50,none,gFID,12.0,g",
    )
    assert [row.source for row in disagreements(rows[0], rows)] == ["b"]
    assert [row.source for row in disagreements(rows[1], rows)] == ["a", "c", "g"]


def test_the_baseline_s_many_numbers_are_found_on_the_shelf():
    rows = published()
    (one,) = [r for r in rows if r.system == "SiT" and r.epochs == 1400 and r.value == 9.35 and r.source.startswith("svg-project-page")]
    assert {other.text for other in disagreements(one, rows)} == {"8.61", "8.3"}


def test_a_value_without_steps_that_another_row_prints_at_other_steps_contradicts_nothing(tmp_path):
    start = "SiT,SD-VAE,ImageNet-1K,256,SiT-XL,,80,,"
    rows = rows_of(tmp_path, *(start + end for end in ("250,none,gFID,17.2,a", ",none,gFID,22.58,b", "25,none,gFID,22.58,c")))
    assert not any(disagreements(row, rows) for row in rows)
    assert [row.source for row in disagreements(rows[0], rows[:2])] == ["b"]  # nobody says of which steps it is
    (one,) = [row for row in published() if row.value == 17.2 and row.steps == 250]
    assert "22.58" not in {other.text for other in disagreements(one, published())}
