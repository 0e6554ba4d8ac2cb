"""What people are told while a walk goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from svgbench.cli.view import InPlace, LiveView, View, scores_text
from svgbench.config.records import Protocol, Score
from svgbench.lab.plan import Node, Plan
from svgbench.lab.schedule import Report
from svgbench.lab.store import Store

DRAWN, SCORED = (Node(stage, key * 64, {}, {}, {}, {"sampling.steps": 5}) for stage, key in (("samples", "a"), ("generation-scores", "b")))
MADE = Protocol(measure="fd", images="samples", version="v1")
PLAN = Plan({node.key: node for node in (DRAWN, SCORED)}, ())


class Scored(Store):
    """Its scores are given, and so is how far a node is."""

    def scores(self, stage, key, manifest=None):
        return [Score(metric=name, value=value, count=1, protocol=MADE) for name, value in (("gfid", 43.6321), ("is", 2.85))]


@pytest.fixture
def store(tmp_path):
    found = Scored(tmp_path)
    note = found.note(DRAWN.stage, DRAWN.key)
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"done": 400, "total": 1000, "rate": 20.0, "unit": "images", "host": "vm"}))
    return found


def walked(view):
    view.begin(PLAN, set())
    for node in (DRAWN, SCORED):
        view.submitted([node])
        view.ended(node, Report(node.key, "ran"))


def test_elsewhere_a_line_tells_of_every_node_and_a_row_of_what_is_under_way(store, capsys):
    view = View(store)
    walked(view)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "2 nodes, 0 exist, 2 to run" and said[1].startswith("1 of 2: samples steps 5 (")
    assert said[2].startswith("2 of 2: generation-scores steps 5: gfid 43.63, is 2.85 (")
    view.where = lambda key: "slot 1"
    view.submitted([DRAWN])
    assert view.rows() == [("samples steps 5", "slot 1 on vm", "400 of 1,000 images", "20.0/s", "30 s left")]
    assert view.summary().startswith("2 of 2 nodes, 1 under way")


def test_in_this_process_the_bars_tell_the_rest_and_only_scores_get_a_line(store):
    said = []
    walked(InPlace(store, said.append))
    assert said == ["2 nodes, 0 exist, 2 to run", "2 of 2: generation-scores steps 5: gfid 43.63, is 2.85"]


def test_a_failed_node_is_counted_as_such(store):
    view = InPlace(store, lambda line: None)
    view.begin(PLAN, set())
    view.submitted([DRAWN])
    view.ended(DRAWN, Report(DRAWN.key, "failed"))
    assert view.summary() == "0 of 2 nodes, 0 under way, 1 failed"


def test_what_an_engine_keeps_behind_other_nodes_is_not_under_way(store, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    behind = replace(SCORED, inputs={"samples": DRAWN.key})
    view = View(store)
    view.begin(Plan({node.key: node for node in (DRAWN, behind)}, ()), set())
    view.submitted([DRAWN])
    view.submitted([behind])
    assert [row[0] for row in view.rows()] == ["samples steps 5"] and view.summary() == "0 of 2 nodes, 1 under way, 1 behind them"
    clock[0] = 60.0
    view.ended(DRAWN, Report(DRAWN.key, "ran"))
    clock[0] = 62.0
    assert view.rows() == [("generation-scores steps 5", "", "for 2 s", "", "")]  # it waited until then


def test_a_terminal_shows_rows_summary_and_last_scores(store):
    from rich.console import Console

    console = Console(width=120, record=True, force_terminal=True)
    with LiveView(store, console) as view:
        walked(view)
        view.submitted([DRAWN])
        console.print(view._drawn())
    shown = console.export_text()
    assert "400 of 1,000 images" in shown and "30 s left" in shown and "1 under way" in shown and "gfid 43.63" in shown


def test_scores_of_several_latents_are_as_output_error():
    pairs = (("features", 7.5), ("residual", 4.3))
    scores = [Score(metric="miou", value=value, count=1, protocol=MADE, detail={"latents": name}) for name, value in pairs]
    assert scores_text(scores) == "features: miou 7.5; residual: miou 4.3"
