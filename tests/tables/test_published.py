"""Published figures: every row of the shelf is typed and has a source; what is off is said with file and line."""

from __future__ import annotations

import itertools
import re

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
    assert len(rows) == 1089 and all(row.source and row.metric and row.system for row in rows)
    assert {"gfid", "rfid", "psnr", "is", "probe_top1", "miou", "macc", "depth_rmse", "depth_arel"} <= {row.metric for row in rows}
    assert len({tuple(vars(row).items())[1:] for row in rows}) == len(rows), "a row stands twice"


def test_numbers_of_the_shelf_are_in_the_range_of_their_metric():
    ranges = {"gfid": (0, 300), "rfid": (0, 20), "precision": (0, 1), "recall": (0, 1), "ssim": (0, 1), "lpips": (0, 1), "psnr": (10, 40)}
    ranges |= dict.fromkeys(("probe_top1", "probe_top5", "miou", "macc"), (0, 100)) | {"is": (1, 500), "depth_rmse": (0, 1)}
    for row in published():
        low, high = ranges.get(row.metric, (0, 1e4))
        assert low < row.value < high, row
        reconstruction = row.metric in ("rfid", "psnr", "ssim", "lpips")
        assert not reconstruction or (row.guidance == "" and (row.epochs is None or "epochs" in row.source)), row


def document(source: str) -> str:
    """A source without its version and without remarks: two rows of one document may be one printed number."""
    return re.sub(r"@\w+| \[.*\]", "", source)


def repeated(rows):
    """Pairs of rows that print one number of one document: nothing that both state differs."""
    groups: dict[tuple, list] = {}
    for row in rows:
        thing = (document(row.source), row.system, row.tokenizer, row.dataset, row.resolution, row.network, row.metric, row.guidance)
        groups.setdefault((*thing, row.value, row.bound), []).append(row)
    stated = [(row.params_m, row.epochs, row.sampler or None, row.steps) for group in groups.values() for row in group]
    kept = dict(zip((id(row) for group in groups.values() for row in group), stated, strict=True))
    pairs = [pair for group in groups.values() for pair in itertools.combinations(group, 2) if not pair[0].digitised]
    return [(a, b) for a, b in pairs if all(x == y or None in (x, y) for x, y in zip(kept[id(a)], kept[id(b)], strict=True))]


def test_no_number_of_one_document_stands_twice(tmp_path):
    assert [(a.line, b.line) for a, b in repeated(published())] == []
    start = "MAR,KL-16,ImageNet-1K,256,MAR-B,208,"
    rows = rows_of(
        tmp_path, *(start + end for end in (",,,cfg,IS,281.7,github:a/b README.md", "800,,,cfg,IS,281.7,github:a/b@1f README.md"))
    )
    assert [(a.line, b.line) for a, b in repeated(rows)] == [(2, 3)]  # a second reading that states more
    others = ("800,,,cfg,IS,281.7,github:a/b page", "400,,,cfg,IS,281.7,github:a/b README.md", "800,,,cfg,IS,282,github:a/b README.md")
    assert repeated([rows[1], *rows_of(tmp_path, *(start + end for end in others))]) == []


CONTRADICTIONS = {
    "DiT DiT-B 80 gfid: 68.3 68.4 68.9", "DiT DiT-XL 1400 gfid guided: 2.21 2.27", "DiT DiT-XL 80 gfid: 18.1 19.5",
    "LightningDiT LightningDiT-XL 800 gfid guided: 1.35 1.36", "REPA REPA-XL 80 is: 118.6 122.6",
    "REPA REPA-XL 800 gfid guided: 1.29 1.42", "REPA REPA-XL 800 gfid: 5.78 5.9", "REPA REPA-XL 800 is guided: 305.7 306.3",
    "RiT RiT-XL 800 gfid guided: 1.25 1.27", "SFD SFD-XL 80 gfid: 3.43 3.5", "SFD SFD-XL 800 gfid guided: 1.03 1.06",
    "SFD SFD-XL 800 gfid: 2.54 2.66", "SFD SFD-XXL 80 gfid: 2.84 2.92", "SFD SFD-XXL 800 gfid: 2.36 2.38",
    "SVG  None probe_top1: 81.8 85.2", "SiT SiT-XL 1400 gfid guided: 2.06 2.15", "SiT SiT-XL 1400 gfid: 8.3 8.61 9.35",
    "SiT SiT-XL 1400 is guided: 258.1 270.3", "SiT SiT-XL 1400 is: 126.6 131.7", "SiT SiT-XL 80 gfid: 5.63 5.96",
    "SiT SiT-XL None gfid guided: 2.06 2.15", "iMF iMF-XL None gfid guided: 1.53 1.61 1.7 1.82",
    "iMF iMF-XL None is guided: 278.9 282 289.1 292",
}  # fmt: skip
"""What sources print differently for one thing. A new row that contradicts one is looked at, and then named here."""


def test_every_contradiction_of_the_shelf_is_known():
    rows, found = published(), {}
    for row in rows:
        others = disagreements(row, rows)
        if others:
            thing = " ".join(map(str, (row.system, row.network, row.epochs, row.metric, *(["guided"] if row.guided else []))))
            found.setdefault(thing, set()).update(other.text for other in (row, *others))
    assert {f"{thing}: {' '.join(sorted(values))}" for thing, values in found.items()} == CONTRADICTIONS


def test_the_camera_ready_s_figures_are_on_the_shelf():
    """Of arXiv 2510.15301v4: table 1's new rows, tables 3, 6 and 7, and the probes of figure 4."""
    rows = [row for row in published() if "camera-ready" in row.source]
    assert {(r.metric, r.guided, r.value) for r in rows if r.system == "REPA"} == {
        ("is", False, 118.6),
        ("gfid", True, 2.65),
        ("is", True, 268.62),
    }
    assert {(r.tokenizer, r.value) for r in rows if r.system == "SVG-probe"} >= {("VA-VAE", 26.0), ("SD-VAE", 1.3)}
    layers = {(r.tokenizer.split(" ")[2], r.epochs, r.metric): r.value for r in rows if r.system == "SVG-layers"}
    assert layers["11", None, "gfid"] == 27.0 and layers["4", 20, "rfid"] == 0.447 and len(layers) == 9
    cost = {(r.tokenizer, r.metric): r.value for r in rows if r.system == "tokenizer-cost"}
    assert cost["SVG(DINOv3-S+/16)", "encoder_params_m"] == 39.89 and cost["", "sampling_latency_ms"] == 426.48 and len(cost) == 30
    assert {r.epochs for r in rows if r.system == "SVG-encoders"} == {5} and sum(r.system == "SVG-encoders" for r in rows) == 20


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
