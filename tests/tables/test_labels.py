"""Rows of an experiment: called by the values of its axes, in the order of its file, each with one number for its colour."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_runs import score, write

from svgbench.config.experiments import cells, load_experiment
from svgbench.tables.collect import collect
from svgbench.tables.labels import cell_labels, labelled, row_numbers, row_of
from svgbench.tables.report import report

GRID = """
axes:
  autoencoder.align: [whiten, none]
  encoder.card: [mae, dinov3]
  way:
    slow: {sampling.steps: [2, 3]}
    quick: {diffusion.shift: 0.3}
  seed: [0, 1]
"""


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "mine.yaml").write_text(GRID)
    return load_experiment(str(tmp_path / "mine.yaml"))


def test_a_label_is_the_values_of_the_axes_without_the_seed(experiment):
    labels = cell_labels(experiment)
    assert list(labels) == list(cells(experiment))
    assert labels["align-whiten.mae.slow.seed-1"] == "align=whiten, mae, slow"
    assert cell_labels(load_experiment("smoke")) == {}


@pytest.mark.parametrize("name", ["alignment", "shift", "scaling", "residual-width", "tiny"])
def test_the_cells_of_the_shelf_have_labels(name):
    loaded = load_experiment(name)
    assert list(cell_labels(loaded)) == list(cells(loaded)) and all(cell_labels(loaded).values())


def test_labels_are_used_where_they_name_every_row_and_no_two_alike(tmp_path):
    for name in ("b", "a", "a.seed-1"):
        write(tmp_path / name, [score(name.split(".")[0], seed=int(name.endswith("1")))])
    records = collect(tmp_path, ["b", "a", "a.seed-1"])
    labels = {"b": "align=whiten", "a": "align=none", "a.seed-1": "align=none"}
    assert row_numbers(labelled(records, labels)) == {"align=whiten": 0, "align=none": 1}
    assert labelled(records, {**labels, "b": "align=none"}) == labelled(records, {"a": "x"}) == records
    first, *_ = report(labelled(records, labels))
    assert [row[0] for row in first.rows] == ["align=whiten", "align=none"]  # the file's order, not the alphabet's
    cost = report(labelled(records, labels))[-1]
    assert [(row[0], row[-1]) for row in cost.rows][1:] == [("align=none, seed=0", "a"), ("align=none, seed=1", "a.seed-1")]
    assert [row[0] for row in report(records)[-1].rows] == ["b", "a", "a.seed-1"]


def test_a_row_is_found_behind_which_more_is_written():
    rows = ["align=none", "align=none, width=4"]
    assert row_of("align=none, width=4, residual", rows) == "align=none, width=4" and row_of("align=none, both", rows) == "align=none"
    assert row_of("align=nonexistent", rows) is None


def test_differences_compare_the_same_kind_of_latents(tmp_path):
    for name, value in (("a", 1.0), ("b", 3.0)):
        parts = [
            score(name, "probe_top1", value + i, detail={"latents": part, "interval": "a bootstrap"})
            for i, part in enumerate(("features", "both"))
        ]
        write(tmp_path / name, parts)
    records = [replace(r, label=f"align={r.name}, width=4") for r in collect(tmp_path)]
    _, difference, *_ = report(records, against="align=a, width=4")
    assert [row[:2] for row in difference.rows] == [["align=b, width=4, features", "+2.00"], ["align=b, width=4, both", "+2.00"]]
