"""Declared contrasts: paired tests against scipy, Holm's correction, what was declared when; ties; rows on one pretraining."""

from __future__ import annotations

import json

import pytest
from commands import svgbench
from fake_runs import gfid, sampled, score, seal_record, write
from scipy import stats

from svgbench.cli import experiments
from svgbench.config.contrasts import Contrast
from svgbench.config.experiments import cells, load_experiment, parts_of_cells
from svgbench.config.records import RUN_FORMAT, unseal
from svgbench.errors import BadConfig, BadInput, BrokenArtifact, UnknownName
from svgbench.lab.configs import cells_of
from svgbench.lab.contrasts import declare, declared, identity
from svgbench.lab.plan import make_plan
from svgbench.lab.schedule import Outcome
from svgbench.tables.collect import collect
from svgbench.tables.contrasts import LATE, contrast_table
from svgbench.tables.labels import labelled
from svgbench.tables.pretrainings import ABOUT, PAIR, SHARED, note_pretrainings, note_shared_autoencoders
from svgbench.tables.report import report, score_tables
from svgbench.tables.significance import best_and_ties, holm, paired_p
from svgbench.tables.standings import BY_IMAGES, BY_SEEDS, MARKS
from svgbench.tables.table import place_of

A, B = [40.1, 39.0, 41.2, 40.0, 39.5], [41.0, 40.4, 41.5, 41.7, 40.1]


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_a_paired_test_is_scipys(alternative):
    wanted = stats.ttest_rel(A, B, alternative=alternative).pvalue
    assert paired_p([a - b for a, b in zip(A, B, strict=True)], alternative) == pytest.approx(wanted, rel=1e-9)
    assert paired_p([1.0]) is None
    assert paired_p([0.0, 0.0]) == 1 and paired_p([1.0, 1.0]) == 0 == paired_p([1.0, 1.0], "greater") and paired_p([1.0, 1.0], "less") == 1


def test_holms_correction_is_that_of_a_printed_example():
    """R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") and c(0.01, 0.04, 0.03, 0.005), whose third and second are tied by the steps."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def contrast(name="c", metric="gfid", between=("a", "b"), **more) -> Contrast:
    return Contrast.model_validate({"name": name, "metric": metric, "between": between, "why": f"because {name}", **more})


def runs(out, **values):
    """Runs of cells with a gFID for each seed, and the cell of each."""
    for cell, by_seed in values.items():
        for seed, value in enumerate(by_seed):
            write(out / f"{cell}.seed-{seed}", [gfid(f"{cell}", value, seed=seed), gfid(cell, value - 9, seed=seed, guidance=2.0)])
    found = collect(out)
    return found, {record.name: record.name for record in found}


def early(contrasts, known_cells, before=True):
    return {identity(one, known_cells): {"declared": "2026-01-31T10:00:00+00:00", "before": before} for one in contrasts}


def test_the_table_shows_difference_interval_and_corrected_p(tmp_path):
    found, where = runs(tmp_path, a=A, b=B, c=[a + 5 for a in A])
    contrasts = [contrast("one", alternative="less"), contrast("two", between=("c", "a")), contrast("three", between=("a", "d"))]
    table = contrast_table(contrasts, found, where, early(contrasts, where))
    one, two, three = table.rows
    p = stats.ttest_rel(A, B, alternative="less").pvalue
    assert one[0] == "one: a minus b [a]" and "[a] because one" in table.notes
    assert one[1] == "gFID ↓" and one[3:5] == ["5", "below 0"] and one[8] == "before the runs, 2026-01-31"
    low, high = stats.ttest_rel(A, B).confidence_interval()
    assert (one[2].facts["low"], one[2].facts["high"]) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))
    assert one[2] == f"{(low + high) / 2:+.2f} ± {(high - low) / 2:.2f}" and one[2].facts["protocol"] == sampled().text
    assert one[5:8] == [f"{p:.3f}", f"{2 * p:.3f}", "yes"]  # the second smallest of three: 2 p
    assert two[2].startswith("+5.00 ± 0.00") and two[5:8] == ["< 0.001", "< 0.001", "yes"]
    assert three[2].startswith("-") and three[3] == "0" and three[5:8] == ["-", "-", "untested"]
    assert any("no score yet for d" in note for note in table.notes)
    lines = table.csv().splitlines()
    assert any('"one: a minus b"' not in line and "one: a minus b," in line and ",difference,gfid," in line for line in lines)
    assert table.kind == "contrasts"


def test_a_contrast_added_after_the_runs_is_told_apart_and_does_not_weaken_the_others(tmp_path):
    found, where = runs(tmp_path, a=A, b=B)
    first, later = contrast("first"), contrast("later", guidance=2.0)
    for known in (early([first], where), early([first], where) | early([later], where, before=False)):
        one, two = contrast_table([first, later], found, where, known).rows
        assert one[5] == one[6] and one[8].startswith("before the runs")
        assert float(two[6]) == pytest.approx(2 * float(two[5]), abs=2e-3) and two[8].startswith("after the runs [")
    assert any(LATE in note for note in contrast_table([first, later], found, where, known).notes)
    edited = first.model_copy(update={"alternative": "less"})
    assert contrast_table([edited], found, where, early([first], where)).rows[0][8].startswith("after")
    reworded = first.model_copy(update={"why": "better words", "name": "another"})
    assert contrast_table([reworded], found, where, early([first], where)).rows[0][8].startswith("before")


def test_only_the_way_of_sampling_may_differ_between_the_cells_and_it_is_said(tmp_path):
    for seed in range(2):
        write(tmp_path / f"a.seed-{seed}", [gfid("a", 1.0 + seed, seed=seed, steps=25)])
        drawn = gfid("b", 2.0, seed=seed, steps=250, shift=1.0)  # labels at random, as SiT's own code: recipes at the preset paper
        write(tmp_path / f"b.seed-{seed}", [{**drawn, "protocol_fields": {**drawn["protocol_fields"], "balance": "random"}}])
        other = sampled().model_copy(update={"count": 7})
        write(tmp_path / f"c.seed-{seed}", [score("c", "gfid", 2.0, seed, other)])
    found = collect(tmp_path)
    where = {record.name: record.name for record in found}
    table = contrast_table([contrast(), contrast("d", between=("a", "c"))], found, where, {})
    assert any(
        "the cells are sampled differently: balance (None, random), steps (25, 250), shift (0.15, 1.0)" in note for note in table.notes
    )
    assert table.rows[1][2].startswith("-") and any("not comparable: the protocols differ in count (10, 7)" in n for n in table.notes)


def test_a_snapshot_or_fewer_steps_do_not_stand_in_for_scores_that_are_missing(tmp_path):
    for seed in range(2):
        write(tmp_path / f"a.seed-{seed}", [gfid("a", 1.0 + seed, seed=seed), gfid("a", 9.0, seed=seed, images_seen=500)])
        write(tmp_path / f"b.seed-{seed}", [score("b", seed=seed), gfid("b", 3.0, seed=seed, images_seen=500)])
        config = {"sampling": {"steps": [25, 250]}}
        write(tmp_path / f"c.seed-{seed}", [gfid("c", 2.0, seed=seed, steps=25)], config=config)
    found = collect(tmp_path)
    where = {record.name: record.name for record in found}
    table = contrast_table([contrast(), contrast("d", between=("a", "c"))], found, where, {})
    assert [row[2].split()[0] for row in table.rows] == ["-", "-"]
    assert any("b: scored, but not as this contrast compares" in note for note in table.notes)
    assert any("c: scored, but not as this contrast compares" in note for note in table.notes)


def test_the_note_counts_the_contrasts_of_its_correction(tmp_path):
    found, where = runs(tmp_path, a=A, b=B)
    contrasts = [contrast("one"), contrast("two", between=("b", "a")), contrast("late", alternative="less")]
    table = contrast_table(contrasts, found, where, early(contrasts[:2], where))
    assert any("corrected over the 2 contrasts declared before the runs" in note for note in table.notes)


def test_one_seed_is_shown_without_a_test(tmp_path):
    found, where = runs(tmp_path, a=A[:1], b=B[:1])
    table = contrast_table([contrast()], found, where, {})
    assert table.rows[0][2].startswith("-0.90 [") and table.rows[0][5:8] == ["-", "-", "untested"]
    assert any("one seed: no test is possible" in note for note in table.notes)


FILE = """asks: does it?
base: smoke
run: mine
axes:
  autoencoder.align: [none, frozen]
  seed: [0, 1]
contrasts:
  - {name: alignment helps, metric: gfid, between: [align-frozen, align-none], alternative: less, why: it evens the scales}
  - name: again
    metric: rfid
    between: [align-none, align-frozen]
    why: a check
"""


def write_file(place, text=FILE):
    place.write_text(text)
    return place


def test_declared_contrasts_name_cells_without_their_seed(tmp_path):
    loaded = load_experiment(str(write_file(tmp_path / "e.yaml")))
    assert [c.between for c in loaded.contrasts] == [("align-frozen", "align-none"), ("align-none", "align-frozen")]
    assert len(cells(loaded)) == 4


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("between: [align-none, align-frozen]", "between: [align-non, align-frozen]",
         r"e\.yaml:11: the contrast 'again' names 'align-non', which is no cell of 'e'\. Did you mean .*Known: align-frozen, align-none"),
        ("between: [align-none, align-frozen]", "between: [align-none, align-none]", r"e\.yaml:9: .*lists 'align-none' twice"),
        ("metric: rfid", "metric: rfod", r"e\.yaml:10: no metric named 'rfod'\. Did you mean 'rfid'"),
        ("name: again", "name: alignment helps", r"e\.yaml:9: two contrasts are called 'alignment helps'"),
        ("    why: a check\n", "", r"e\.yaml:9: .*why is missing"),
        ("alternative: less", "alternative: lower", r"e\.yaml:8: .*alternative must be"),
        ("alternative: less", "steps: 77", r"e\.yaml:8: .*'alignment helps' compares .* steps 77, and 'align-none' draws steps 2 or 3;"),
        ("alternative: less", "guidance: 4", r"e\.yaml:8: .* guidance 4.*draws guidance 1 or 2; .*add it to sampling\.guidance\."),
        ("run: mine", "set: {sampling.guidance: [2.0, 4.0]}", r"e\.yaml:8: .* samples of guidance 1.*draws guidance 2 or 4;"),
        ("run: mine", "set: {sampling.guidance: [1.0]}", r"e\.yaml:8: .* samples of guidance most, .*draws guidance 1;"),
        ("alternative: less", "guidance: tuned", r"e\.yaml:8: .* tuned guidance, which needs 3 scales or more, .*draws 1 or 2; add"),
        ("alternative: less", "trained: 0.5", r"e\.yaml:8: .* trained 0\.5, .*draws trained 1; .*add it to sampling\.trained\."),
        ("between: [align-none, align-frozen]", "between: [align-none]", r"e\.yaml:11: .*between"),
    ],
)  # fmt: skip
def test_a_contrast_that_cannot_be_meant_is_refused_with_file_and_line(tmp_path, old, new, said):
    assert old in FILE
    file = FILE.replace("alternative: less", "guidance: most") if new.endswith("[1.0]}") else FILE
    with pytest.raises(BadConfig, match=said):
        cells_of(str(write_file(tmp_path / "e.yaml", file.replace(old, new))), "tiny", [], None, resolved=False)


def test_where_the_command_line_leaves_the_steps_of_a_contrast_out_the_table_says_so(tmp_path):
    file = write_file(tmp_path / "e.yaml", FILE.replace("alternative: less", "steps: 3"))
    assert cells_of(str(file), "tiny", ["sampling.steps=[2]"], None, resolved=False)
    found, where = runs(tmp_path / "runs", a=A[:2], b=B[:2])
    table = contrast_table([contrast(steps=3, guidance=2.0), contrast("d", between=("a", "e"), steps=3)], found, where, {})
    assert [row[2].split()[0] for row in table.rows] == ["-", "-"] and [row[7] for row in table.rows] == ["untested", "untested"]
    assert any("a and b: scored, but not as this contrast compares (3 steps, guidance 2.0)" in note for note in table.notes)
    assert any("no score yet for e" in note for note in table.notes)


def test_a_file_whose_only_axis_is_the_seed_has_nothing_to_compare(tmp_path):
    text = FILE.replace("  autoencoder.align: [none, frozen]\n", "")
    with pytest.raises(BadConfig, match=r"'e' has no axis except the seed, so a contrast has nothing to compare; add an axis"):
        cells(load_experiment(str(write_file(tmp_path / "e.yaml", text))))


def test_what_is_declared_before_a_score_exists_is_recorded_so_once_and_for_all(tmp_path):
    file, out = write_file(tmp_path / "e.yaml"), tmp_path / "runs"
    named = cells_of(str(file), "tiny", [], None)
    plan, where = make_plan({name: config for name, (_, config) in named.items()}), {name: cell for name, (cell, _) in named.items()}
    loaded = load_experiment(str(file))
    declare(loaded, plan, where, out)
    first = declared(out, loaded)
    assert [entry["before"] for entry in first.values()] == [True, True] and len(first) == 2
    assert next(iter(first.values()))["contrast"]["why"] == "it evens the scales"
    run = next(iter(where))
    write(out / run, [gfid("x", 3.0)])  # now there is a gFID, and no rFID
    declare(loaded, plan, where, out)
    assert declared(out, loaded) == first
    more = loaded.model_copy(update={"contrasts": tuple(c.model_copy(update={"alternative": "greater"}) for c in loaded.contrasts)})
    declare(more, plan, where, out)
    late = {key: entry for key, entry in declared(out, loaded).items() if key not in first}
    assert {entry["contrast"]["metric"]: entry["before"] for entry in late.values()} == {"gfid": False, "rfid": True}
    place = out / "contrasts" / "e.json"
    place.write_text(place.read_text().replace("evens", "event"))
    with pytest.raises(BrokenArtifact, match=r"contrasts/e\.json: is damaged .*count as added after the runs"):
        declared(out, loaded)


def test_rows_that_the_best_is_not_significantly_better_than_share_its_mark(tmp_path):
    """Over seeds: a beats c by a test that scipy agrees with, and b not, though b's mean is worse in every table of means."""
    near = [41.0, 38.6, 42.3, 40.4, 39.0]
    rows = {"a": A, "b": near, "c": [a + d for a, d in zip(A, (2.0, 2.3, 1.9, 2.2, 2.1), strict=True)]}
    assert stats.ttest_rel(A, near).pvalue > 0.2 and 3 * stats.ttest_rel(rows["c"], A).pvalue < 0.01
    scores = [gfid(name, value, seed=seed) for name, values in rows.items() for seed, value in enumerate(values)]
    (table,) = score_tables("t", scores, ("gfid",))
    assert [place_of(row[1]) for row in table.rows] == [1, 1, 2]
    assert f"{MARKS}, {BY_SEEDS}" in table.notes
    (accuracy,) = score_tables("t", [{**s, "metric": "probe_top1"} for s in scores], ("probe_top1",))
    assert [place_of(row[1]) for row in accuracy.rows] == [2, 2, 1]


def test_holms_correction_over_the_column_widens_a_tie():
    def column(rows):
        return {name: [gfid(name, value, seed=seed) for seed, value in enumerate(values)] for name, values in rows.items()}

    worse = [a + d for a, d in zip(A, (0.2, 1.4, 0.4, 1.8, 0.7), strict=True)]
    p = stats.ttest_rel(worse, A).pvalue
    assert 0.025 < p < 0.05
    assert best_and_ties(column({"a": A, "b": worse}), lower=True) == ["a"]
    assert best_and_ties(column({"a": A, "b": worse, "c": [w + 0.01 * i for i, w in enumerate(worse)]}), lower=True) == ["a", "b", "c"]


def test_rows_of_one_seed_are_told_apart_by_their_intervals_over_images():
    (table,) = score_tables("t", [score("a", value=1.0), score("b", value=1.6), score("c", value=3.0)], ("rfid",))
    assert [place_of(row[1]) for row in table.rows] == [1, 1, 2]  # ± 0.5 each: their difference is known to ± 0.71
    assert f"{MARKS}, {BY_IMAGES}" in table.notes
    bare = [score(run, value=value, low=None, high=None) for run, value in (("a", 1.0), ("b", 1.6), ("c", 3.0))]
    assert [place_of(row[1]) for row in score_tables("t", bare, ("rfid",))[0].rows] == [1, 2, 0]
    (alone,) = score_tables("t", [score("a")], ("rfid",))
    assert not [note for note in alone.notes if note.startswith("bold")]


def test_rows_of_several_encoders_say_that_each_is_one_pretraining(tmp_path):
    for name, weights in {"a": ("1", "1"), "b": ("2", "2"), "c": ("3", "4")}.items():
        for seed in range(2):
            config = {"encoder": {"card": name, "identity": weights[seed]}}
            write(tmp_path / (f"{name}.seed-{seed}" if seed else name), [score(name, value=1.0 + seed, seed=seed)], config=config)
    records = collect(tmp_path)

    def notes(names):
        chosen = [record for record in records if record.row in names]
        tables = report(chosen)
        note_pretrainings(tables, chosen)
        return {table.title: [note for note in table.notes if ABOUT in note] for table in tables}

    assert notes("ab")["Reconstruction"] == [f"each row uses one pretrained encoder; {ABOUT}"]
    assert notes("abc")["Reconstruction"] == [f"a, b: each uses one pretrained encoder; {ABOUT}"]
    assert notes("a")["Reconstruction"] == [] and notes("ab")["Training cost"] == []
    where = {record.name: record.name for record in records}
    table = contrast_table([contrast(metric="rfid"), contrast("d", "rfid", ("a", "c"))], labelled(records, {}), where, {})
    assert [PAIR in note for note in table.notes if "pretrained" in note] == [True]
    assert sum(mark in table.rows[0][2] for mark in ("[b]", "[c]")) == 1 and "[c]" not in table.rows[1][2]


def test_seeds_that_share_an_autoencoder_give_one_measurement_of_it(tmp_path):
    """Its scores are the same artifact for every seed: no interval over seeds, and no test that would find any difference certain."""
    for name, (psnr, values) in {"a": (20.0, A), "b": (25.0, B)}.items():
        for seed, value in enumerate(values):
            place = tmp_path / (f"{name}.seed-{seed}" if seed else name)
            shared = score(name, "psnr", psnr, seed, key=f"of-{name}")
            write(place, [shared, gfid(name, value, seed=seed)])
            about = unseal((place / "run.json").read_bytes(), RUN_FORMAT)
            about["stages"].append({**about["stages"][0], "stage": "autoencoder", "key": f"stage-1-{name}"})
            seal_record(place, about)
    records = collect(tmp_path)
    tables = {table.title: table for table in report(records, against="a")}
    note_shared_autoencoders(list(tables.values()), records)
    psnr, gfids = tables["Reconstruction"], next(table for title, table in tables.items() if title.startswith("Generation: gFID"))
    assert psnr.rows[0][1] == "20.00 (19.50, 20.50)" and "±" in gfids.rows[0][1]
    assert tables["Reconstruction: differences from a"].rows[0][1] == "+5.00"
    assert f"the seeds of each row {SHARED}" in psnr.notes and f"the seeds of each row {SHARED}" in gfids.notes
    where = {record.name: record.name for record in records}
    one, other = contrast_table([contrast(metric="psnr"), contrast("d", "gfid")], records, where, {}).rows
    assert one[2].startswith("-5.00") and one[3] == "1" and one[5:8] == ["-", "-", "untested"] and other[3] == "5"


def test_ablate_records_the_contrasts_and_every_form_of_the_report_shows_them(tmp_path):
    file, out = write_file(tmp_path / "e.yaml"), tmp_path / "runs"
    named = cells_of(str(file), "tiny", [], None, resolved=False)
    plan, where = make_plan({n: c for n, (_, c) in cells_of(str(file), "tiny", [], None).items()}), {n: c for n, (c, _) in named.items()}
    declare(load_experiment(str(file)), plan, where, out)
    for number, name in enumerate(where):
        write(out / name, [{**gfid("x", 30.0 + number + number**2, seed=number % 2), "run": name}])
    told = svgbench("report", str(file), "--out", out)
    assert told.returncode == 0 and "### Contrasts" in told.stdout and "alignment helps: align-frozen minus align-none" in told.stdout
    assert "before the runs, " in told.stdout
    for suffix, wanted in ((".html", "Holm&#x27;s correction"), (".tex", "\\caption{Contrasts}"), (".csv", "Contrasts,")):
        assert svgbench("report", str(file), "--out", out, "--to", tmp_path / f"r{suffix}").returncode == 0
        assert wanted in (tmp_path / f"r{suffix}").read_text(), suffix
    assert json.loads(svgbench("report", str(file), "--out", out, "--format", "json").stdout)[0]["metric"] == "gfid"


def test_ablate_only_runs_some_cells_and_declares_the_whole_experiment_s_contrasts(tmp_path, monkeypatch):
    file, out, ran, shown = write_file(tmp_path / "e.yaml"), tmp_path / "runs", [], []
    monkeypatch.setattr(experiments, "run_plan", lambda plan, *_, **__: ran.append(plan) or Outcome())
    monkeypatch.setattr(experiments, "show", lambda out, names, **__: shown.append(names))
    experiments.ablate(str(file), out=out, preset="tiny", only=["seed-1"])
    (part,) = ran
    cells_run = {name: cell for name, (cell, _) in cells_of(str(file), "tiny", [], None).items() if "seed-1" in cell.split(".")}
    assert {run.name for run in part.runs} == set(cells_run) == set(shown[0]) and len(cells_run) < len(whole_cells(file))
    assert set(part.nodes) == {key for run in part.runs for key in run.nodes}
    entries = declared(out, load_experiment(str(file))).values()
    assert all(set(entry["runs"]) > set(cells_run) for entry in entries) and all(entry["before"] for entry in entries)


def whole_cells(file):
    return {name: cell for name, (cell, _) in cells_of(str(file), "tiny", [], None).items()}


def test_only_names_parts_of_cells():
    parts = [("none", "strength-0", "seed-0"), ("none", "strength-0.5", "seed-1"), ("frozen", "strength-0.5", "seed-0")]
    of_cells = {".".join(each): each for each in parts}
    found = dict(zip("abc", of_cells, strict=True))

    def chosen(*only):
        return experiments.chosen_runs(found, of_cells, only)

    assert chosen() == ["a", "b", "c"]
    assert chosen("seed-0") == ["a", "c"]
    assert chosen("seed-0", "none, frozen") == ["a", "c"]
    assert chosen("strength-0.5") == ["b", "c"]
    assert chosen("strength-0") == ["a"]  # not a part of 0.5
    for word in ("seed-2", "5", ""):
        with pytest.raises(UnknownName, match=f"no part of a cell named '{word}'"):
            chosen(word)
    with pytest.raises(BadInput, match="no cell has --only seed-1 and --only frozen together"):
        chosen("seed-1", "frozen")
    with pytest.raises(BadInput, match="there are none here"):
        experiments.chosen_runs({"a": ""}, {"": ()}, ["seed-0"])
    assert set(parts_of_cells(load_experiment("alignment-strength"))) == set(cells(load_experiment("alignment-strength")))
