"""Tuned guidance: the scale is chosen on one seed and scored on the others, in contrasts and in a column of a table."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fake_runs import gfid, sampled, score, write
from scipy import stats

from svgbench.config.contrasts import Contrast
from svgbench.config.records import Protocol
from svgbench.tables.collect import collect
from svgbench.tables.contrasts import contrast_table
from svgbench.tables.layouts import Layout
from svgbench.tables.paper_tables import measured_table
from svgbench.tables.published import published
from svgbench.tables.published_tables import published_table
from svgbench.tables.tuned_guidance import tuned

SCALES = (1.0, 1.5, 2.0, 3.0)
GFIDS = [[24.0, 21.0, 20.0, 23.0], [25.0, 20.5, 21.5, 24.0], [23.0, 22.0, 21.8, 19.0]]
"""By seed and scale: seed 0's best is 2, seed 1's 1.5, seed 2's 3."""
TUNED = Layout.model_validate({"name": "l", "title": "t", "columns": [{"metric": "gfid", "guidance": "tuned"}, {"metric": "gfid"}]})


def make(out, run, values=GFIDS, scales=SCALES, *, drawn=None, first=0, **way):
    """Runs of a row: a gFID for each seed and scale, without the Nones; ``drawn``: the scales that its configuration asks for."""
    for seed, of in enumerate(values, start=first):
        pairs = [(g, v) for g, v in zip(scales, of, strict=False) if v is not None]
        scores = [gfid(run, v, seed=seed, guidance=g, **({} if g == 1 else way)) for g, v in pairs]
        write(out / f"{run}.seed-{seed}", scores, config={"sampling": {"guidance": list(drawn or scales)}})
    return collect(out)


def note_of(table, start):
    (note,) = [note for note in table.notes if note.startswith(start)]
    return note


def found(records, metric="gfid"):
    return tuned([one for record in records for one in record.scores if one["metric"] == metric], records)


def test_the_scale_is_the_first_seeds_best_and_its_score_is_left_out(tmp_path):
    one = found(make(tmp_path, "a"))
    assert [(s["seed"], s["guidance"], s["value"]) for s in one.scores] == [(1, 2.0, 21.5), (2, 2.0, 21.8)]
    assert one.text == "2 of 1, 1.5, 2, 3, chosen on seed 0" and not one.lacks
    same = {s["protocol"] for s in one.scores}
    assert len(same) == 1 and "guidance-tuned-of-1,1.5,2,3-on-seed0" in same.pop() and "guidance2" in one.scores[0]["protocol"]
    assert all(Protocol.model_validate(s["protocol_fields"]).text == s["protocol"] for s in one.scores)


def test_no_score_takes_part_in_its_own_choice(tmp_path):
    changed = [GFIDS[0], [1.0, 90.0, 3.0, 0.5], [2.0, 0.1, 5.0, 80.0]]
    assert [one["value"] for one in found(make(tmp_path, "a", changed)).scores] == [3.0, 5.0]


def rejected(tuned_scores):
    """The share of repetitions in which a t-test at 5 % tells two tokenizers [repetition, tokenizer, seed] apart."""
    return np.mean(stats.ttest_rel(tuned_scores[:, 0], tuned_scores[:, 1], axis=-1).pvalue < 0.05)


@pytest.mark.parametrize(("seeds", "crossed_level"), [(3, 0.08), (8, 0.16)])
def test_a_t_test_over_the_scored_seeds_has_its_level_and_choices_on_the_other_seeds_would_not(seeds, crossed_level):
    """Two equal tokenizers, unit noise for each scale."""
    draws = np.random.default_rng(0).normal(0, 1, (8000, 2, seeds + 1, 4))  # repetition, tokenizer, seed, scale
    best = draws[:, :, 0].argmin(-1)
    assert 0.043 < rejected(np.take_along_axis(draws[:, :, 1:], best[:, :, None, None], -1)[..., 0]) < 0.057
    scored = draws[:, :, 1:]
    others = (scored.sum(2, keepdims=True) - scored).argmin(-1)
    assert rejected(np.take_along_axis(scored, others[..., None], -1)[..., 0]) > crossed_level


def test_a_metric_where_higher_is_better_takes_the_highest(tmp_path):
    values = ((1.0, 5.0), (2.0, 9.0), (3.0, 7.0))
    for seed in range(2):
        scores = [score("a", "is", v + seed, seed, sampled(guidance=g)) for g, v in values]
        write(tmp_path / f"a.seed-{seed}", scores, config={"sampling": {"guidance": [1.0, 2.0, 3.0]}})
    assert [(one["guidance"], one["value"]) for one in found(collect(tmp_path), "is").scores] == [(2.0, 10.0)]


@pytest.mark.parametrize(
    ("values", "scales", "more", "why"),
    [
        (GFIDS[:1], SCALES, {}, "needs two seeds or more"),
        (GFIDS, SCALES[:2], {}, "needs 3 scales or more in sampling.guidance, not 1, 1.5"),
        ([[24.0, 21.0, 20.0, None], *GFIDS[1:]], SCALES, {}, "is chosen on seed 0, which has no score at scale 3$"),
        ([GFIDS[0], [1.0, 2.0, None, 3.0]], SCALES, {}, "is 2, chosen on seed 0, and no other seed has a score at this scale$"),
        (GFIDS, SCALES[:3], {"drawn": SCALES}, "is chosen on seed 0, which has no score at scale 3$"),
    ],
    ids=["one seed", "two scales", "a scale not scored", "the scale missing elsewhere", "a scale not yet drawn"],
)
def test_what_is_missing_is_said_and_never_replaced(tmp_path, values, scales, more, why):
    one = found(make(tmp_path, "a", values, scales, **more))
    assert one.scores == []
    assert re.search(why, one.lacks)


def test_scores_of_two_protocols_are_not_chosen_from(tmp_path):
    make(tmp_path, "a", GFIDS[:2])
    records = make(tmp_path, "a", GFIDS[2:], first=2, shift=0.5)
    assert found(records).lacks == "needs scores of one protocol, and the row has several"


@pytest.mark.parametrize(
    ("values", "edge"),
    [([9.0, 8.0, 7.0, 6.0], True), ([6.0, 7.0, 8.0, 9.0], False), ([9.0, 5.0, 6.0, 7.0], False)],
    ids=["last", "1", "inside"],
)
def test_a_scale_at_the_edge_of_the_candidates_is_said_to_be_one(tmp_path, values, edge):
    assert ("at the edge of the candidates" in found(make(tmp_path, "a", [values, values])).text) is edge


def contrast(**more):
    return Contrast.model_validate({"name": "c", "metric": "gfid", "between": ["a", "b"], "why": "of a test", "guidance": "tuned", **more})


def table_of(records, *contrasts):
    return contrast_table(contrasts, records, {record.name: record.name for record in records}, {})


def test_a_contrast_pairs_the_scored_seeds(tmp_path):
    make(tmp_path, "a")
    records = make(tmp_path, "b", [[v + 4 for v in reversed(of)] for of in GFIDS])  # its best scale on seed 0 is 1.5
    table = table_of(records, contrast())
    (line,) = table.rows
    assert line[1] == "gFID ↓, tuned guidance" and line[3] == "2"
    assert line[2].startswith(f"{np.mean([21.5 - 25.5, 21.8 - 25.8]):+.2f} ± ")
    assert any("a: guidance 2 of 1, 1.5, 2, 3, chosen on seed 0" in note for note in table.notes)
    assert any("b: guidance 1.5 of 1, 1.5, 2, 3, chosen on seed 0" in note for note in table.notes)


def test_a_contrast_of_cells_with_other_candidates_is_refused(tmp_path):
    make(tmp_path, "a")
    table = table_of(make(tmp_path, "b", scales=SCALES[:3]), contrast())
    assert table.rows[0][2].startswith("-") and any("not comparable: the protocols differ in details" in note for note in table.notes)


def test_a_contrast_says_what_tuned_guidance_lacks(tmp_path):
    make(tmp_path, "a", GFIDS[:1])
    table = table_of(make(tmp_path, "b", GFIDS[:1]), contrast())
    assert any("a: tuned guidance needs two seeds or more" in note for note in table.notes)


def test_a_contrast_compares_samples_of_a_share_of_the_training(tmp_path):
    for run, early, late in (("a", 50.0, 20.0), ("b", 60.0, 18.0)):
        for seed in range(2):
            scores = [gfid(run, early + seed, seed=seed, images_seen=125), gfid(run, late, seed=seed, images_seen=1000)]
            write(tmp_path / f"{run}.seed-{seed}", scores[::-1])
    first, end = table_of(collect(tmp_path), contrast(guidance="none", trained=0.125), contrast(guidance="none")).rows
    assert first[1] == "gFID ↓, after 12.5 % of the training" and first[2].startswith("-10.00")
    assert end[1] == "gFID ↓" and end[2].startswith("+2.00")


def test_a_release_has_no_share_of_a_training(tmp_path):
    for run, value in (("a", 20.0), ("b", 18.0)):
        for seed in range(2):
            write(tmp_path / f"{run}.seed-{seed}", [gfid(run, value, seed=seed, images_seen=None)])
    share, end = table_of(collect(tmp_path), contrast(guidance="none", trained=0.125), contrast(guidance="none")).rows
    assert share[2].startswith("-") and end[2].startswith("+2.00")


def test_a_column_shows_the_tuned_numbers_and_a_note_the_scales(tmp_path):
    make(tmp_path, "a", guided_channels=3)
    make(tmp_path, "b", GFIDS[:1])
    table = measured_table(TUNED, make(tmp_path, "c", [[1.0, 2.0, 3.0, 4.0]] * 3, guided_channels=3))
    assert [column.split(" [")[0] for column in table.columns] == ["run", "gFID ↓, 25 steps, tuned guidance", "gFID ↓, 25 steps"]
    assert table.rows[0][1].startswith(f"{np.mean([21.5, 21.8]):.2f} ± ") and table.rows[1][1].startswith("- ")
    assert table.rows[2][1].startswith("1.00 ± 0.00")  # scale 1 has no settings of guidance, and is in the same column
    note = note_of(table, "tuned guidance for gFID")
    assert "a: 2 of 1, 1.5, 2, 3, chosen on seed 0" in note and "c: 1 of 1, 1.5, 2, 3, chosen on seed 0" in note
    assert any("tuned guidance needs two seeds" in note for note in table.notes)


def test_rows_tuned_among_other_scales_are_not_ranked_together(tmp_path):
    make(tmp_path, "a")
    table = measured_table(TUNED, make(tmp_path, "b", scales=SCALES[:3]))
    assert len([column for column in table.columns if "tuned guidance" in column]) == 2
    assert any("not ranked together" in note for note in table.notes)


def test_a_tuned_column_that_no_row_fills_is_left_out_with_the_reason(tmp_path):
    table = measured_table(TUNED, make(tmp_path, "a", GFIDS[:1]))
    assert [column.split(" [")[0] for column in table.columns] == ["run", "gFID ↓, 25 steps"]
    assert "it needs two seeds or more" in note_of(table, "no column of gFID at tuned guidance: ")


def test_a_table_whose_runs_draw_too_few_scales_to_tune_says_nothing_of_it(tmp_path):
    table = measured_table(TUNED, make(tmp_path, "a", scales=SCALES[:2]))
    assert [column.split(" [")[0] for column in table.columns] == ["run", "gFID ↓, 25 steps"]
    assert not any("tuned" in note for note in table.notes)


def test_scores_of_reconstructions_and_runs_without_a_configuration_take_no_part(tmp_path):
    for seed, of in enumerate(GFIDS):
        scores = [score("a", "rfid", 3.0, seed), *(gfid("a", v, seed=seed, guidance=g) for g, v in zip(SCALES, of, strict=True))]
        write(tmp_path / f"a.seed-{seed}", scores)
    table = measured_table(TUNED, collect(tmp_path))
    assert "a: 2 of 1, 1.5, 2, 3, chosen on seed 0" in note_of(table, "tuned guidance for gFID")


def test_tuned_guidance_does_not_change_how_other_columns_are_titled(tmp_path):
    layout = TUNED.model_copy(update={"shows": ("sampling.guidance",)})
    table = measured_table(layout, make(tmp_path, "a"))
    assert "guidance" not in table.columns and any("tuned guidance" in column for column in table.columns)


def test_each_number_of_steps_has_its_own_choice(tmp_path):
    for seed in range(3):
        scores = [gfid("a", v + seed, seed=seed, steps=5, guidance=g) for g, v in zip(SCALES, (9.0, 8.0, 7.0, 6.0), strict=True)]
        scores += [gfid("a", v + seed, seed=seed, guidance=g) for g, v in zip(SCALES, (4.0, 3.0, 6.0, 7.0), strict=True)]
        write(tmp_path / f"a.seed-{seed}", scores, config={"sampling": {"guidance": list(SCALES)}})
    layout = Layout.model_validate({"name": "l", "title": "t", "columns": [{"metric": "gfid", "guidance": "tuned", "steps": "all"}]})
    table = measured_table(layout, collect(tmp_path))
    assert [text.split(" ")[0] for text in table.rows[0][1:]] == ["7.50", "4.50"]
    note = note_of(table, "tuned guidance for gFID")
    assert "a, 5 steps: 3 of 1, 1.5, 2, 3, chosen on seed 0 (at the edge" in note and "a, 25 steps: 1.5 of" in note


def test_published_numbers_are_not_shown_as_tuned():
    rows = published()
    layout = TUNED.model_copy(
        update={"published": Layout.model_validate({**TUNED.model_dump(), "published": [{"system": ["SiT"]}]}).published}
    )
    table = published_table(layout, rows, [])
    assert table.rows and not any("guided" in column or "tuned" in column for column in table.columns)
