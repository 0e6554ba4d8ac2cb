"""Tuned guidance: each seed's scale is chosen on the other seeds, in contrasts and in a column of a table."""

from __future__ import annotations

import numpy as np
import pytest
from fake_runs import gfid, sampled, score, write

from svgbench.config.contrasts import Contrast
from svgbench.tables.collect import collect
from svgbench.tables.contrasts import contrast_table
from svgbench.tables.layouts import Layout
from svgbench.tables.paper_tables import measured_table
from svgbench.tables.tuned_guidance import tuned

SCALES = (1.0, 1.5, 2.0, 3.0)
GFIDS = [[24.0, 21.0, 20.0, 23.0], [25.0, 20.5, 21.5, 24.0], [23.0, 22.0, 21.8, 19.0]]
"""By seed and scale: seed 2's own best is 3, which is not the best of the other two."""


def rows(values=GFIDS, scales=SCALES, run="a"):
    return [gfid(run, v, seed=s, guidance=g) for s, of in enumerate(values) for g, v in zip(scales, of, strict=False)]


def test_each_seeds_scale_is_the_best_of_the_other_seeds():
    found = tuned(rows())
    # means over the other seeds: 24, 21.25, 21.65, 21.5 (seed 0); 23.5, 21.5, 20.9, 21 (seed 1); 24.5, 20.75, 20.75, 23.5 (seed 2)
    assert [one["guidance"] for one in found.scores] == [1.5, 2.0, 1.5]  # the smaller scale of two equal ones
    assert [one["value"] for one in found.scores] == [21.0, 21.5, 22.0]
    assert found.text == "1.5 (seeds 0, 2) and 2 (seed 1) of 1, 1.5, 2, 3"


def test_the_choice_does_not_see_the_score_that_it_gives():
    """Whatever a seed scores at any scale, its own scale stays; and pure noise is not made better by choosing."""
    changed = [GFIDS[0], GFIDS[1], [1.0, 90.0, 3.0, 0.5]]
    assert tuned(rows(changed)).scores[2]["guidance"] == tuned(rows()).scores[2]["guidance"]
    draws = np.random.default_rng(0).normal(20, 1, (400, 5, 6))
    scales = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    means = [np.mean([one["value"] for one in tuned(rows(draw.tolist(), scales)).scores]) for draw in draws]
    own = draws.mean(axis=1).min(axis=1)  # the usual best of the curve
    assert abs(np.mean(means) - 20) < 3 * np.std(means) / 20 and np.mean(own) < 19.6


def test_a_metric_where_higher_is_better_takes_the_highest():
    scores = [score("a", "is", v, s, sampled(guidance=g)) for s in (0, 1) for g, v in ((1.0, 5.0), (2.0, 9.0 + s), (3.0, 7.0))]
    assert [(one["guidance"], one["value"]) for one in tuned(scores).scores] == [(2.0, 9.0), (2.0, 10.0)]


@pytest.mark.parametrize(
    "scores",
    [rows(GFIDS[:1]), rows(GFIDS, SCALES[:2]), [*rows(GFIDS[:2], SCALES[:2]), gfid("a", 1.0, seed=0, guidance=3.0)], []],
    ids=["one seed", "two scales", "a scale of one seed only", "nothing"],
)
def test_nothing_is_chosen_from_too_little(scores):
    assert tuned(scores).scores == []


def test_the_largest_candidate_is_said_to_be_one():
    falling = [[9.0, 8.0, 7.0, 6.0], [9.5, 8.5, 7.5, 6.5]]
    assert tuned(rows(falling)).text == "3 of 1, 1.5, 2, 3; the largest candidate, so a better one may lie beyond it"


def contrast(**more):
    return Contrast.model_validate({"name": "c", "metric": "gfid", "between": ["a", "b"], "why": "of a test", "guidance": "tuned", **more})


def test_a_contrast_pairs_the_tuned_scores_of_each_seed(tmp_path):
    for run, values in (("a", GFIDS), ("b", [[v + 4 for v in reversed(of)] for of in GFIDS])):
        for seed, of in enumerate(values):
            write(tmp_path / f"{run}.seed-{seed}", [gfid(run, v, seed=seed, guidance=g) for g, v in zip(SCALES, of, strict=True)])
    records = collect(tmp_path)
    table = contrast_table([contrast()], records, {record.name: record.name for record in records}, {})
    (line,) = table.rows
    one, other = tuned(rows()), tuned(rows([[v + 4 for v in reversed(of)] for of in GFIDS]))
    assert line[1] == "gFID ↓, tuned guidance" and line[3] == "3"
    expected = np.mean([a["value"] - b["value"] for a, b in zip(one.scores, other.scores, strict=True)])
    assert line[2].startswith(f"{expected:+.2f} ±")
    assert any(f"tuned guidance of a: {one.text}" in note for note in table.notes)
    assert any(f"tuned guidance of b: {other.text}" in note for note in table.notes)


def test_a_contrast_compares_samples_of_a_share_of_the_training(tmp_path):
    for run, early, late in (("a", 50.0, 20.0), ("b", 60.0, 18.0)):
        for seed in range(2):
            scores = [gfid(run, early + seed, seed=seed, images_seen=125), gfid(run, late, seed=seed, images_seen=1000)]
            write(tmp_path / f"{run}.seed-{seed}", scores[::-1])
    records = collect(tmp_path)
    both = [contrast(guidance="none", trained=0.125), contrast(guidance="none")]
    first, end = contrast_table(both, records, {record.name: record.name for record in records}, {}).rows
    assert first[1] == "gFID ↓, after 12.5 % of the training" and first[2].startswith("-10.00")
    assert end[1] == "gFID ↓" and end[2].startswith("+2.00")


def test_a_column_shows_the_tuned_numbers_and_a_note_the_scales(tmp_path):
    layout = Layout.model_validate({"name": "l", "title": "t", "columns": [{"metric": "gfid", "guidance": "tuned"}, {"metric": "gfid"}]})
    for seed, of in enumerate(GFIDS):  # at scale 1 a protocol does not record how guidance works
        way = {1.0: {}}
        scores = [gfid("a", v, seed=seed, guidance=g, **way.get(g, {"guided_channels": 3})) for g, v in zip(SCALES, of, strict=True)]
        write(tmp_path / f"a.seed-{seed}", scores)
    for seed in range(2):
        write(tmp_path / f"b.seed-{seed}", [gfid("b", 30.0, seed=seed)])
    table = measured_table(layout, collect(tmp_path))
    assert [column.split(" [")[0] for column in table.columns] == ["run", "gFID ↓, 25 steps, tuned guidance", "gFID ↓, 25 steps"]
    values = [one["value"] for one in tuned(rows()).scores]
    assert table.rows[0][1].startswith(f"{np.mean(values):.2f} ±") and table.rows[1][1].startswith("- ")
    assert any(note.endswith("a: gFID 1.5 (seeds 0, 2) and 2 (seed 1) of 1, 1.5, 2, 3") for note in table.notes)
    assert any("tuned guidance needs two seeds" in note for note in table.notes)


def test_a_column_that_no_row_fills_is_left_out(tmp_path):
    layout = Layout.model_validate({"name": "l", "title": "t", "columns": [{"metric": "gfid", "guidance": "tuned"}, {"metric": "gfid"}]})
    write(tmp_path / "a", rows(GFIDS[:1]))
    assert [column.split(" [")[0] for column in measured_table(layout, collect(tmp_path)).columns] == ["run", "gFID ↓, 25 steps"]


def test_a_tuned_scale_of_one_leaves_one_column(tmp_path):
    """A row whose tuned scale is 1 for one seed and 2 for another has one protocol: guidance has no settings at scale 1."""
    values = [[10.0, 12.0, 11.0], [12.0, 10.0, 9.0], [11.0, 11.5, 10.9]]
    layout = Layout.model_validate({"name": "l", "title": "t", "columns": [{"metric": "gfid", "guidance": "tuned"}]})
    for seed, of in enumerate(values):
        way = {1.0: {}}
        scores = [
            gfid("a", v, seed=seed, guidance=g, **way.get(g, {"guided_channels": 3})) for g, v in zip((1.0, 2.0, 3.0), of, strict=True)
        ]
        write(tmp_path / f"a.seed-{seed}", scores)
    found = tuned([one for record in collect(tmp_path) for one in record.scores])
    assert {one["guidance"] for one in found.scores} == {1.0, 3.0}
    assert len(measured_table(layout, collect(tmp_path)).columns) == 2
