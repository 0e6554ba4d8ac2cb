"""Figures are drawn from records and artifacts alone: seeds folded, protocols apart, every number of a picture in its table."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from svgbench.config.build import build
from svgbench.config.records import Protocol, SamplingProtocol, Score
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput, UnknownName
from svgbench.lab.diagnosis import FIGURES
from svgbench.lab.store import Store
from svgbench.tables.collect import RunRecord
from svgbench.tables.diffusability import Card
from svgbench.tables.figures.curves import gfid_by_guidance, gfid_by_images, gfid_by_steps
from svgbench.tables.figures.draw import DRAWINGS, chosen, draw, needed
from svgbench.tables.figures.embeddings import by_classes
from svgbench.tables.figures.palette import LINES
from svgbench.tables.figures.planes import velocities
from svgbench.tables.figures.sheets import samples
from svgbench.tables.figures.sources import TokenizerRuns, of_one_set, tokenizers
from svgbench.tables.figures.style import class_colours, in_lines, spread, styled
from svgbench.tables.figures.training import POINTS, training_curves


def gfid(steps: int, value: float, seen: int = 1000, guidance: float = 1.0, judge: str = "cnn", sampler: str = "euler") -> dict:
    how = SamplingProtocol(sampler=sampler, steps=steps, guidance=guidance, shift=0.15)
    made = Protocol(measure="fd", judge=judge, judge_digest="ab" * 32, images="samples", version="v1", sampling=how)
    row = {"metric": "gfid", "value": value, "low": value - 1, "high": value + 1, "count": 10, "steps": steps, "guidance": guidance}
    return {**row, "images_seen": seen, "protocol": made.text, "protocol_fields": made.model_dump(mode="json"), "detail": {}}


def run(name: str, rows: list[dict], key: str = "k", stages: list[dict] | None = None) -> RunRecord:
    images = {"stage": "images", "key": key, "cell": {}}
    return RunRecord(name, Path(name), {"run": name, "kind": "features", "stages": [images, *(stages or [])]}, rows)


def tokenizer(name: str, *records: RunRecord, config: RunConfig | None = None) -> TokenizerRuns:
    return TokenizerRuns(name, config or build({}, preset="tiny"), records, Store(Path("store")))


def test_seeds_become_a_mean_and_an_interval_in_one_line():
    seeds = [run(f"a.seed-{s}", [gfid(5, 10.0 + s), gfid(25, 5.0 + s)]) for s in range(3)]
    with styled():
        drawn = gfid_by_steps([tokenizer("a", *seeds)])
    assert [(row[0], row[2], row[4], row[7]) for row in drawn.rows] == [("a", 5, 11.0, 3), ("a", 25, 6.0, 3)]
    low, high = drawn.rows[0][5:7]
    assert high - 11 == pytest.approx(4.303 / np.sqrt(3)) and 11 - low == pytest.approx(high - 11)
    assert "3 seeds" in drawn.caption and "bootstrap" not in drawn.caption
    (axes,) = drawn.page.figure.axes
    assert axes.get_xscale() == "log" and [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "25"]


def test_numbers_of_two_protocols_or_guidances_are_in_two_panels_and_of_two_samplers_on_two_lines():
    one = tokenizer("a", run("a", [gfid(5, 10.0), gfid(25, 5.0), gfid(5, 4.0, guidance=2.0), gfid(25, 2.0, guidance=2.0)]))
    two = tokenizer("b", run("b", [gfid(5, 1.0, judge="other"), gfid(25, 0.5, judge="other")]))
    with styled():
        assert len(gfid_by_steps([one]).page.figure.axes) == 2
        assert len(gfid_by_steps([one, two]).page.figure.axes) == 3
        mixed = gfid_by_steps([tokenizer("a", run("a", [gfid(s, 3.0, sampler=w) for w in ("euler", "heun") for s in (5, 25)]))])
    assert len(mixed.page.figure.axes) == 1 and {row[0] for row in mixed.rows} == {"a, euler", "a, heun"}


def test_images_seen_join_runs_that_differ_in_their_length_alone():
    settings = [{"diffusion": {"training": {"total_images": n}}} for n in (64000, 128000)]
    found = [
        tokenizer(f"a.total-images-{n}" if n > 64000 else "a", run("a", [gfid(25, 9e6 / n, seen=n)]), config=build(s, preset="tiny"))
        for n, s in zip((64000, 128000), settings, strict=True)
    ]
    other = tokenizer("b", run("b", [gfid(25, 50.0, seen=64000)]), config=build({"encoder": {"card": "mae"}}, preset="tiny"))
    with styled():
        drawn = gfid_by_images([*found, other])
        assert "snapshots along a training" in gfid_by_images([found[0], other])
        assert "two counts of steps" in gfid_by_steps([found[0]])
    assert [(row[0], row[3]) for row in drawn.rows] == [("a", 64000), ("a", 128000), ("b", 64000)]


def test_snapshots_of_a_long_training_are_not_mixed_with_a_short_one():
    settings = [{"diffusion": {"training": {"total_images": n}}} for n in (64000, 128000)]
    rows = [[gfid(25, 20.0, seen=64000)], [gfid(25, 30.0, seen=64000), gfid(25, 15.0, seen=128000)]]
    configs = [build(s, preset="tiny") for s in settings]
    found = [tokenizer(n, run(n, own), config=c) for n, own, c in zip(("short", "long"), rows, configs, strict=True)]
    with styled():
        drawn = gfid_by_images(found)
        assert "two counts of steps" in gfid_by_steps(found)
    assert [(row[0], row[3], row[4]) for row in drawn.rows] == [("short", 64000, 20.0), ("long", 64000, 30.0), ("long", 128000, 15.0)]


def test_a_row_keeps_its_colour_whichever_rows_are_drawn_beside_it():
    def colours(*names):
        found = [replace(tokenizer(n, run(n, [gfid(5, 9.0), gfid(25, 5.0)])), number="abc".index(n)) for n in names]
        with styled():
            (axes,) = gfid_by_steps(found).page.figure.axes
        return [line.get_color() for line in axes.get_lines()]

    assert colours("a", "b", "c") == list(LINES[:3]) and colours("c") == [LINES[2]] and colours("a", "c") == [LINES[0], LINES[2]]


def test_only_samples_of_the_whole_training_are_shown():
    cell = {"sampling.steps": 5, "sampling.guidance": 1.0}
    stages = [{"stage": "samples", "key": f"{t}", "cell": {**cell, "sampling.trained": t}} for t in (1.0, 0.5)]
    assert tokenizer("a", run("a", [], stages=stages)).cells() == {(5, 1.0): "1.0"}


def test_names_are_spread_as_little_as_needed():
    assert spread([0.0, 1.0], 0.5) == [0.0, 1.0]
    assert spread([0.0, 0.0, 5.0], 1.0) == [-0.5, 0.5, 5.0]
    placed = spread([3.0, 1.0, 1.1, 1.2, 0.4], 0.5)
    order = np.argsort([3.0, 1.0, 1.1, 1.2, 0.4])
    assert (np.diff(np.asarray(placed)[order]) >= 0.5 - 1e-9).all()
    assert in_lines("dinov3-tiny.no-align.shift-0.5") == "dinov3-tiny\nno-align\nshift-0.5"
    assert in_lines("dinov3, align=none, shift=0.5") == "dinov3\nalign=none\nshift=0.5"
    for digest in ("bf2a89", "5edb4c", "034512"):
        assert in_lines(f"dinov3-tiny.{digest}") == f"dinov3-tiny\n{digest}"
    assert in_lines("sampling-schedule-interval-0.1-0.5") == "sampling-schedule-\ninterval-0.1-0.5"
    assert in_lines("mae-tiny.shift-0.123456.5edb4c.seed-1") == "mae-tiny\nshift-0.123456\n5edb4c\nseed-1"


def test_runs_fold_by_seed_and_stand_in_the_order_of_the_records_with_a_number_for_their_colour(tmp_path):
    records = []
    for name, settings in {
        "aligned": {}, "aligned.seed-1": {"seed": 1}, "plain": {"autoencoder": {"align": "none"}},
        "features": {"autoencoder": {"residual": {"channels": 0}}}, "another": {"encoder": {"card": "mae"}},
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(json.dumps(build(settings, preset="tiny").model_dump(mode="json")))
        records.append(RunRecord(name, tmp_path / name, {"stages": []}, []))
    found = tokenizers(records, Store(tmp_path / "store"))
    assert [(one.name, one.number) for one in found] == [("aligned", 0), ("plain", 1), ("features", 2), ("another", 3)]
    assert [record.name for record in found[0].records] == ["aligned", "aligned.seed-1"]


def test_runs_on_two_sets_of_images_have_no_pictures_in_common():
    of_one_set([tokenizer("a", run("a", [])), tokenizer("b", run("b", []))])
    with pytest.raises(BadInput, match="'a' and 'b' use different images"):
        of_one_set([tokenizer("a", run("a", [])), tokenizer("b", run("b", [], key="other"))])


def test_samples_without_a_cell_in_common_are_not_shown_side_by_side():
    cells = [{"stage": "samples", "key": "s", "cell": {"sampling.steps": n, "sampling.guidance": 1.0}} for n in (5, 10)]
    found = [tokenizer(name, run(name, [], stages=[cell])) for name, cell in zip("ab", cells, strict=True)]
    assert "in common" in samples(found)


def test_drawing_brings_no_torch():
    code = "import sys, svgbench.tables.figures.draw; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_figure_is_four_files_of_the_same_bytes_every_time(tmp_path):
    found = [tokenizer("a", run("a", [gfid(5, 10.0), gfid(25, 5.0)]))]
    for place in ("one", "two"):
        drawn, reasons = draw(found, [], tmp_path / place, ["gfid-by-steps", "gfid-by-images"])
        assert [figure.name for figure in drawn] == ["gfid-by-steps"] and len(reasons) == 1
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert set(files) == {f"gfid-by-steps.{kind}" for kind in ("png", "svg", "csv", "json")}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    rows = list(csv.DictReader((tmp_path / "one" / "gfid-by-steps.csv").read_text().splitlines()))
    assert [(row["steps"], row["gfid"], row["low"]) for row in rows] == [("5", "10", "9"), ("25", "5", "4")]
    assert json.loads(files["gfid-by-steps.json"])["tokenizers"] == [{"name": "a", "runs": ["a"]}]


def test_gfid_against_guidance_is_a_line_a_row_at_the_most_steps():
    rows = [gfid(n, 10.0 + w - n / 5, guidance=w) for n in (5, 25) for w in (1.0, 1.5, 4.0)]
    with styled():
        drawn = gfid_by_guidance([tokenizer("a", run("a", rows))])
        assert "two guidance scales" in gfid_by_guidance([tokenizer("a", run("a", [gfid(5, 1.0), gfid(25, 2.0)]))])
    assert [(row[0], row[1], row[2], row[4]) for row in drawn.rows] == [("a", 1.0, 25, 6.0), ("a", 1.5, 25, 6.5), ("a", 4.0, 25, 9.0)]
    (axes,) = drawn.page.figure.axes
    assert axes.get_title(loc="left") == "25 steps" and [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "1.5", "4"]


def test_what_guidance_alone_needs_does_not_part_a_line_at_scale_1():
    """The guided channels and the schedule are in the protocol of guided samples only; of a tuned shift the long name is in no line's."""

    def rows(guided: dict) -> list[dict]:
        tuned = {"shift": 0.4, "tuned": "of-0.15,0.4-by-1000x5steps-seed9001"}
        made = []
        for scale in (1.0, 2.0, 4.0):
            how = SamplingProtocol(sampler="euler", steps=25, guidance=scale, **tuned, **(guided if scale > 1 else {}))
            protocol = Protocol(measure="fd", judge="cnn", judge_digest="ab" * 32, images="samples", version="v1", sampling=how)
            made.append(gfid(25, scale, guidance=scale) | {"protocol_fields": protocol.model_dump(mode="json")})
        return made

    both = [tokenizer("a", run("a", rows({}))), tokenizer("b", run("b", rows({"guided_channels": 3, "schedule": "linear"})))]
    with styled():
        drawn = gfid_by_guidance(both)
    assert [(row[0], row[1]) for row in drawn.rows] == [
        *(("a", scale) for scale in (1.0, 2.0, 4.0)), *(("b, linear-first3channels", scale) for scale in (1.0, 2.0, 4.0))
    ]  # fmt: skip


class Logged(TokenizerRuns):
    """A tokenizer whose training logs are these."""

    def training_log(self):
        return self.logs


def logged(name: str, logs: list[list[tuple[int, float]]], rows: list[dict]) -> Logged:
    one = Logged(name, build({}, preset="tiny"), (run(name, rows),), Store(Path("store")))
    object.__setattr__(one, "logs", [[{"images_seen": seen, "loss": loss} for seen, loss in log] for log in logs])
    return one


def test_training_curves_are_means_over_seeds_and_neighbouring_lines_and_gfid_where_there_are_snapshots():
    log = [(seen, 3.0) for seen in range(1, 2 * POINTS, 2)] + [(seen, 1.0) for seen in range(2, 2 * POINTS + 1, 2)]
    other = [(seen, loss + 1) for seen, loss in log]
    snapshots = [gfid(25, 20.0, seen=32000), gfid(25, 15.0, seen=64000), gfid(5, 30.0, seen=32000), gfid(25, 9.0, seen=64000, guidance=2.0)]
    with styled():
        drawn = training_curves([logged("a", [log, other], snapshots), logged("b", [log[:1]], [])])
        assert "released files" in training_curves([logged("a", [], [])])
    losses = [row for row in drawn.rows if row[:2] == ["a", "loss"]]
    assert [row[3] for row in losses] == list(range(2, 2 * POINTS + 1, 2)) and {row[4] for row in losses} == {2.5}
    assert [row[3:6] for row in drawn.rows if row[1] == "gfid"] == [[32000, 20.0, 25], [64000, 15.0, 25]]
    loss, scores = drawn.page.figure.axes
    assert len(loss.get_lines()) == 2 and len(scores.get_lines()) == 1


def test_the_toy_s_numbers_say_that_separated_classes_need_fewer_steps():
    with styled():
        drawn = DRAWINGS["toy-field"].make([])
    errors = {name: {row[8]: row[9] for row in drawn.rows if row[:2] == [name, "error"]} for name in ("entangled", "separated")}
    assert all(errors["entangled"][steps] > errors["separated"][steps] > 0 for steps in (1, 2, 3, 5, 10, 25))
    for of_layout in errors.values():
        values = list(of_layout.values())
        assert values == sorted(values, reverse=True) and values[-1] < 0.15
    agreement = {(row[0], row[2]): row[9] for row in drawn.rows if row[1] == "agreement"}
    assert agreement["entangled", 0.1] > 0.95 > 0.5 > agreement["separated", 0.1]  # at first, entangled classes ask for one direction


def test_the_linear_probe_of_the_features_stands_below_an_encoder_s_panel(monkeypatch):
    probe = {"metric": "probe_top1", "value": 81.7, "protocol": "linear/v1", "detail": {"latents": "features"}}
    rows = [{**probe, "value": 9.0, "detail": {"latents": "both"}}, probe]
    sets = [{"labels": [0, 1, 0, 1], "images": [3, 4, 5, 6], "classes": ["cat", "dog"]}]
    monkeypatch.setattr(TokenizerRuns, "read", lambda self, stage: (np.arange(8.0).reshape(4, 2), {"sets": sets}))
    with styled():
        drawn = by_classes([tokenizer("a", run("a", rows)), tokenizer("b", run("b", rows))])
    (axes,) = drawn.page.figure.axes  # one encoder, one panel
    assert axes.get_xlabel() == "linear probe 81.7 %"
    assert drawn.rows[1] == ["dinov3-tiny", 2, 4, "dog", 2.0, 3.0, 81.7, "linear/v1"]


def test_the_names_of_ten_classes_stand_on_the_page_of_one_tokenizer(monkeypatch):
    classes = [f"class {number}" for number in range(10)]
    plane = [[0.1 * number, 0.0] for number in range(10)]
    times = [{"t": t, "positions": plane, "velocities": plane, "class_share": {"value": 0.1}} for t in (0.1, 0.3, 0.5, 0.7, 0.9)]
    about = {"times": times, "labels": [0, 1], "centres": plane, "classes": classes}
    monkeypatch.setattr(TokenizerRuns, "read", lambda self, stage: (np.zeros((5, 2, 2)), about))
    with styled():
        page = velocities([tokenizer("a", run("a", []))]).page
    named = {text.get_text(): text.get_position()[1] * page.height for text in page.figure.texts}
    assert min(named[name] for name in classes) > 0.05  # inches from the lower edge


def test_every_figure_is_known_by_name_and_every_diagnosis_has_one():
    assert chosen(None) == list(DRAWINGS) and chosen(["toy-field", "samples"]) == ["samples", "toy-field"]
    assert needed(chosen(None)) == set(FIGURES)
    assert needed(["class-share", "samples"]) == {"embedding", "velocities"}
    with pytest.raises(UnknownName, match="Did you mean 'toy-field'"):
        chosen(["toy-fild"])
    shown = {int(number) for row in DRAWINGS.values() for number in re.findall(r"\d+", row.paper)}
    assert shown == {1, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14}


def test_each_of_a_hundred_classes_has_a_colour_of_its_own():
    assert all(len({str(colour) for colour in class_colours(count)}) == count for count in (2, 10, 11, 20, 100))


def test_the_page_of_figures_lists_each_with_the_paper_s_number():
    lines = (Path(__file__).parents[2] / "docs" / "figures.md").read_text().splitlines()
    listed = {cells[1].strip().strip("`"): cells[2].strip() for line in lines if line.startswith("| `") and (cells := line.split("|"))}
    papers = {name: row.paper.removeprefix("figures ").removeprefix("figure ") for name, row in DRAWINGS.items()}
    assert listed == {name: paper.replace(" to ", "-").replace(" and ", "-") for name, paper in papers.items()}


@pytest.mark.parametrize(("values", "most"), [((5438.0, 5588.0), 4), ((89.0, 9437.0), 6)])
def test_a_logarithmic_panel_has_few_ticks_however_close_its_values_are(values, most):
    """Values within a factor of 10 once had a label every 50."""
    from svgbench.metrics.latent_figures import FIGURES as LATENT_FIGURES
    from svgbench.tables.figures.diffusability import _points

    number = next(one for one in LATENT_FIGURES if one.logarithmic)
    made = Protocol(measure=number.name, images="given", version="v1")
    scores = [Score(metric=number.name, value=value, count=10, protocol=made) for value in values]
    cards = [Card(f"t{score.value:g}", "e", (4, 4, 4), 10, 2, (score,), {}, {}) for score in scores]
    with styled():
        axes = Figure().add_axes((0, 0, 1, 1))
        _points(axes, number, cards, names=True)
        low, high = axes.get_xlim()
        shown = [place for place in [*axes.get_xticks(), *axes.get_xticks(minor=True)] if low <= place <= high]
    assert 1 <= len(shown) <= most
