"""Tables put only equal protocols in one column, fold seeds with an interval, and never turn a missing number into a zero."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from fake_runs import sampled, score, write

from svgbench.config.records import Protocol, SamplingProtocol, Score
from svgbench.errors import BadInput, BrokenArtifact, UnknownName
from svgbench.metrics.resampling import Resampling
from svgbench.tables.collect import RunRecord, collect
from svgbench.tables.footnotes import Footnotes
from svgbench.tables.report import group_name, report, score_tables
from svgbench.tables.seeds import half_interval
from svgbench.tables.standings import SINGULAR
from svgbench.tables.table import Cell, Table, place_of


def score_table(*args, **more) -> Table:
    return score_tables(*args, **more)[0]


def test_two_protocols_stand_in_two_columns_and_are_not_ranked_together():
    other = Protocol(measure="p", images="val", count=50, version="v1")
    table = score_table("t", [score("a", value=3.0), score("b", value=2.0), score("c", value=1.0, made=other)], ("rfid",))
    assert table.columns == ["run", "rFID ↓ [1]", "rFID ↓ [2]"]
    assert [row[1] for row in table.rows] == ["3.00 (2.50, 3.50)", "2.00 (1.50, 2.50)", "-"]
    assert [place_of(row[1]) for row in table.rows] == [0, 1, 0]
    assert table.rows[2][2] == "1.00 (0.50, 1.50)"  # alone in its column: nothing to be best of
    assert any(note.startswith("[2] p/val-50/v1") for note in table.notes)
    assert "[1] and [2] are not ranked together; they differ in count (none, 50)" in table.notes


def test_a_protocol_that_an_earlier_version_wrote_without_a_later_field_is_the_same_protocol():
    one, other = score("a"), score("b", value=2.0)
    other["protocol_fields"] = {name: value for name, value in other["protocol_fields"].items() if name not in ("chosen", "limit")}
    table = score_table("t", [one, other], ("rfid",))
    assert len(table.columns) == 2 and [place_of(row[1]) for row in table.rows] == [1, 0]


def test_samples_of_two_samplers_are_not_ranked_and_steps_and_guidance_are_columns():
    euler = SamplingProtocol(sampler="euler", steps=5, guidance=1.0, shift=0.15)
    ways = [euler, euler.model_copy(update={"steps": 10}), euler.model_copy(update={"sampler": "heun", "shift": 1.0})]
    rows = [
        score("a", "gfid", made=Protocol(measure="fd", images="samples", version="v1", sampling=way), steps=way.steps, guidance=1.0)
        for way in ways
    ]
    table = score_table("t", rows, ("gfid",), column=lambda r: f"{r['steps']} steps")
    assert table.columns == ["run", "5 steps [1]", "5 steps [2]", "10 steps [1]"]
    assert "[1] and [2] are not ranked together; they differ in sampling.sampler (euler, heun); sampling.shift (0.15, 1.0)" in table.notes


def test_distances_of_too_few_images_share_one_footnote():
    few = {"detail": {"interval": "a bootstrap", "singular": True}}
    rows = [score(run, metric, 1.0, made=sampled(), **few) for run in ("a", "b") for metric in ("gfid", "sfid")]
    table = score_table("t", [*rows, score("a", "is", 3.0, made=sampled())], ("gfid", "sfid", "is"))
    assert [note for note in table.notes if "singular" in note] == [f"gfid, sfid: {SINGULAR}"]
    assert not [note for note in score_table("t", [score("a")], ("rfid",)).notes if "singular" in note]


def test_intervals_of_earlier_versions_share_the_note_of_todays():
    bootstrap = Resampling(resamples=200).stated("images")["interval"]
    ways = ("95 %, value +- 1.96 sd of 200 bootstrap resamples over images", bootstrap)
    rows = [score(run, "gfid", 1.0, made=sampled(), detail={"interval": way}) for run, way in zip("ab", ways, strict=True)]
    table = score_table("t", rows, ("gfid",))
    notes = [note for note in table.notes if note.startswith("value (low, high)")]
    assert notes == [f"value (low, high): one seed, {bootstrap}; variation between seeds is not included"]
    assert all(bootstrap in row[1].hint for row in table.rows)


def test_the_best_is_the_lowest_distance_and_the_highest_accuracy():
    for metric, best in (("rfid", 0), ("psnr", 1)):
        table = score_table("t", [score("a", metric, 1.0), score("b", metric, 2.0)], (metric,))
        assert [place_of(row[1]) == 1 for row in table.rows] == [i == best for i in range(2)]


def test_the_second_best_is_marked_where_three_are_ranked_and_ties_share_a_place():
    table = score_table("t", [score(r, value=v) for r, v in (("a", 3.0), ("b", 1.0), ("c", 2.0), ("d", 1.0))], ("rfid",))
    assert [place_of(row[1]) for row in table.rows] == [0, 1, 2, 1]
    assert "| **1.00 (0.50, 1.50)** |" in table.markdown() and "| *2.00 (1.50, 2.50)*   |" in table.markdown()


def test_guidance_is_a_column_and_never_shares_a_ranking():
    rows = [score(r, "is", v, made=sampled(25, g)) for r, v, g in (("a", 3.0, 1.0), ("b", 2.0, 1.0), ("a", 5.0, 2.0), ("b", 4.0, 2.0))]
    records = [RunRecord(n, Path(), {"stages": [], "failures": {}}, [row for row in rows if row["run"] == n]) for n in ("a", "b")]
    (table,) = [t for t in report(records) if t.title.endswith("number of steps")]
    assert table.columns == ["run", "IS ↑ [1]", "IS ↑, guidance 2 [1]"]
    assert [[place_of(c) for c in row[1:]] for row in table.rows] == [[1, 1], [0, 0]]


def test_scores_of_other_precisions_are_other_protocols():
    """Of encoding and decoding, by a detail; of sampling, by the words of how samples were drawn."""
    plain = Score(metric="gfid", value=1.0, count=10, protocol=Protocol(measure="fd", images="samples", version="v1", details=("a",)))
    marked = plain.marked(None, "encoding-bf16")
    assert marked.protocol.text == "fd/samples/a/encoding-bf16/v1" and plain.marked(None) == plain
    assert plain.protocol.differs(marked.protocol) == ["details (a, a, encoding-bf16)"]
    drawn = [SamplingProtocol(sampler="euler", steps=5, guidance=1.5, shift=0.15, precision=precision) for precision in ("fp32", "bf16")]
    assert [one.how for one in drawn] == ["euler-shift0.15", "euler-shift0.15-bf16"] and "precision" not in drawn[0].model_dump()
    for first, second in ((plain.protocol, marked.protocol), [plain.protocol.model_copy(update={"sampling": one}) for one in drawn]):
        table = score_table("t", [score("a", value=2.0, made=first), score("b", value=1.0, made=second)], ("rfid",))
        assert any("[1] and [2] are not ranked together" in note for note in table.notes)
        assert not any(place_of(cell) for row in table.rows for cell in row)


def test_a_number_made_with_a_limit_stands_apart_from_full_ones():
    trial = Protocol(measure="p", images="val", version="v1", limit=100)
    table = score_table("t", [score("a", value=2.0), score("b", value=1.0, made=trial)], ("rfid",))
    assert "[1] and [2] are not ranked together; they differ in limit (none, 100)" in table.notes
    assert not any(place_of(cell) for row in table.rows for cell in row)


def test_a_column_of_numbers_knows_what_may_stand_in_their_place():
    for texts, numeric in (
        (["1.0 ± 0.1", "-"], True), (["12 (11, 13)", "failed [a]"], True), (["1.30M", "not reached"], True), (["-", "-"], True),
        (["euler", "1"], False), (["5: 40.1, 10: 30.2", "-"], False), (["", "5"], True), (["≥ 3.1 ×", "1 ×"], True),
    ):  # fmt: skip
        assert Table("t", ["x"], [[text] for text in texts]).is_numeric(0) is numeric, texts


def test_a_cell_is_its_text_and_knows_its_number():
    cell = Cell("1.00", place=1, value=0.9999, hint="p")
    assert cell == "1.00" and (cell.place, cell.value, cell.hint) == (1, 0.9999, "p") and place_of("1.00") == 0


def test_seeds_become_a_mean_and_a_student_interval():
    rows = [score(seed=s, value=v) for s, v in ((0, 1.0), (1, 2.0), (2, 3.0))]
    table = score_table("t", rows, ("rfid",))
    assert table.rows == [["a", "2.00 ± 2.48"]]  # 4.303 * 1 / sqrt(3)
    assert half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))
    assert any("3 seeds" in note for note in table.notes)


def test_rows_of_fewer_seeds_than_others_are_said():
    scores = [score("a", "rfid", 1.0, seed) for seed in range(3)] + [score("b", "rfid", 2.0, seed) for seed in range(2)] + [score("c")]
    (table,) = score_tables("t", scores, ("rfid",))
    said = "fewer seeds than other rows: b (2 of 3 in rFID ↓), c (1 of 3 in rFID ↓); ranked by the seeds available"
    assert said in table.notes
    (mixed,) = score_tables("t", [*scores[:4], *(score(run, "psnr", 20.0, seed) for run in "ab" for seed in range(3))], ("rfid", "psnr"))
    assert any(note.startswith("fewer seeds than other rows: b (1 of 3 in rFID ↓);") for note in mixed.notes)
    (even,) = score_tables("t", scores[:3], ("rfid",))
    assert not any("fewer" in note for note in even.notes)


def test_footnotes_have_letters_that_a_code_host_takes_for_nothing_else():
    marks = Footnotes()
    named = [marks.mark(str(i)) for i in range(60)]
    assert len(set(named)) == 60 and named[0] == "[a]" and named[24] == "[z]" and named[25] == "[aa]" and "[x]" not in named


def test_a_run_s_name_without_its_seed():
    assert group_name("dinov3-tiny.no-align.seed-2") == "dinov3-tiny.no-align"
    assert group_name("x.seed-12.a1b2c3") == "x.a1b2c3"


def test_a_missing_number_is_a_dash():
    table = score_table("t", [score("a"), score("a", "psnr", 20.0), score("b")], ("rfid", "psnr"))
    assert table.rows[1][2] == "-"


def test_markdown_escapes_bars_and_csv_reads_back():
    table = Table("t", ["run", "x|y"], [["a|b", "1"]], ["note"])
    assert "a\\|b" in table.markdown() and table.markdown().startswith("### t\n")
    line, _ = csv.DictReader(io.StringIO(table.csv()))
    assert {name: said for name, said in line.items() if said} == {
        "table": "t", "row": "1", "run": "a|b", "column": "x|y", "text": "1", "value": "1.0",
    }  # fmt: skip


def test_a_cell_of_several_lines_or_with_a_tag_stays_in_its_row_of_markdown():
    text = Table("t", ["run", "x"], [["a\nb", "<img src=x>"], ["c", "5 < 6 > 4"]], ["one\ntwo <b>"]).markdown()
    assert text.splitlines()[4:6] == ["| a b | \\<img src=x> |", "| c   | 5 < 6 > 4    |"] and text.endswith("- one two \\<b>\n")


def test_csv_has_a_line_for_each_number_with_its_protocol_source_and_footnotes():
    measured = Cell("1.50 ± 0.10 [a]", value=1.5, low=1.4, high=1.6, count=10, protocol="fd/v1")
    cells = [measured, Cell("≈ 9.35", value=9.35, metric="rfid", source="A, B")]
    notes = ["[1] fd/v1; count 10", "[a] mean over 2 of 3 seeds", "never ranked"]
    table = Table("t", ["run", "gFID ↓ [1]", "rFID ↓", "source", "psnr [1]"], [["a", *cells, "[2]", "3.0 (2.5, 3.5)"]], notes)
    lines = list(csv.DictReader(io.StringIO(table.csv())))
    assert [line["metric"] for line in lines][1] == "rfid"
    told = [(e["column"], e["text"], e["value"], e["low"], e["high"], e["protocol"], e["source"], e["note"]) for e in lines]
    assert told == [
        ("gFID ↓", "1.50 ± 0.10", "1.5", "1.4", "1.6", "fd/v1", "", "mean over 2 of 3 seeds"),
        ("rFID ↓", "≈ 9.35", "9.35", "", "", "", "A, B", ""), ("source", "", "", "", "", "", "", "[2]"),
        ("psnr", "3.0 (2.5, 3.5)", "3.0", "2.5", "3.5", "", "", "fd/v1; count 10"), ("", "", "", "", "", "", "", "never ranked"),
    ]  # fmt: skip
    assert table.csv(head=False) == table.csv().partition("\n")[2]


def test_failed_stages_are_shown_with_their_reason(tmp_path):
    write(tmp_path / "a", [score()], {"generation-scores": "too few samples."})
    tables = {t.title: t for t in report(collect(tmp_path))}
    assert tables["Failed"].rows == [["a", "generation-scores", "too few samples."]]
    assert tables["Training cost"].rows[0][:5] == ["a", "diffusion", "1,000", "50", "50 %"]


def test_a_directory_without_runs_and_a_broken_record_are_said(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        collect(tmp_path / "absent")
    write(tmp_path / "a", [])
    with pytest.raises(UnknownName, match="no run named 'b'"):
        collect(tmp_path, ["b"])
    (tmp_path / "a" / "scores.json").write_text("{")
    with pytest.raises(BrokenArtifact, match="cannot be read"):
        collect(tmp_path)


def test_scores_of_an_earlier_version_are_said(tmp_path):
    old = {name: value for name, value in score().items() if name != "protocol_fields"}
    write(tmp_path / "a", [old])
    with pytest.raises(BrokenArtifact, match="earlier version"):
        collect(tmp_path)
