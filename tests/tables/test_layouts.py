"""Table layouts and contested facts: all of the shelf hold what they name, and one that is off is said with file, line and closest name."""

from __future__ import annotations

import re

import pytest

from svgbench.errors import BadConfig, UnknownName
from svgbench.tables.layouts import contested, layouts, layouts_of, load_layout
from svgbench.tables.published import published
from svgbench.tables.published_tables import published_table

NAMES = sorted(layouts())


def test_the_papers_tables_are_on_the_shelf():
    assert {"ablation", "main", "few-step", "scaling", "encoders", "recipes", "convergence", "guidance", "shift"} <= set(NAMES)
    papers = {load_layout(name).paper for name in NAMES}
    assert {"table 1", "table 2a", "table 2b", "table 3", "table 4", "table 6", "table 7"} <= papers  # 5: reports/hyperparameters.yaml


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_of_the_shelf_names_published_rows_that_exist(name):
    layout, rows = load_layout(name), published()
    assert layout.title and (layout.grids or layout.of_costs)
    for wanted in layout.published:
        assert any(wanted.holds(row) for row in rows), wanted


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_of_a_layouts_published_rows_is_printed_and_what_has_no_column_is_said(name):
    layout, rows = load_layout(name), published()
    for wanted in layout.published:
        assert published_table(layout.model_copy(update={"published": (wanted,)}), rows, contested()).rows, wanted
    notes = published_table(layout, rows, contested()).notes
    left = [note for note in notes if note.startswith("no column here for: ")]
    assert len(left) == (name == "main") and all("RAE DINOv2-B DiT-DH-XL, 80 epochs, recall 0.59, not guided" in note for note in left)


def test_contested_facts_are_about_rows_that_exist():
    rows, facts = published(), contested()
    assert len(facts) >= 12 and any(fact.ratios for fact in facts)
    for fact in facts:
        for wanted in fact.where:
            assert any(wanted.holds(row) for row in rows), fact.says


def test_an_experiment_finds_its_layouts():
    assert [layout.name for layout in layouts_of("tiny")] == ["ablation", "few-step"]
    assert layouts_of("smoke") == []
    assert layouts_of("ablations/tiny.yaml") == layouts_of("tiny")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: t\ncolums:\n  - {metric: rfid}\n", ":2: colums is not a field. Did you mean 'columns'"),
        ("title: t\ncolumns:\n  - {metric: rfid}\n  - metric: gfdi\n", ":4: columns.1: no metric named 'gfdi'. Did you mean 'gfid'"),
        ("title: t\ncolumns:\n  - metric: gfid\n    step: 5\n", ":4: columns.0.step is not a field. Did you mean 'steps'"),
        ("title: t\nshows: [smapler]\ncolumns: [{metric: gfid}]\n", "no field of a protocol named 'smapler'. Did you mean 'sampl"),
        ("title: t\nrows: [encodr]\ncolumns: [{metric: gfid}]\n", "no fact of a run named 'encodr'. Did you mean 'encoder'"),
        ("title: t\ncolumns: []\n", ":2: columns must be"),
        ("title: t\n", ":1: columns is missing"),
        ("title: t\ncolumns: [{metric: gfid}]\nratios: {over: step}\n", ":3: ratios.over must be"),
        ("title: [\n", ":2:1: "),
    ],
)
def test_a_layout_that_is_off_is_said_with_line_field_and_closest_name(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(BadConfig, match=re.escape(said)):
        load_layout(str(path))


def test_an_unknown_layout_offers_its_neighbour():
    with pytest.raises(UnknownName, match=r"no table layout named 'ablaton'. Did you mean 'ablation'"):
        load_layout("ablaton")
