"""A grid of many cells that is finished already: what its re-run reads and writes does not grow with its cells where it need not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from svgbench import shelf
from svgbench.lab import plan as planning
from svgbench.lab import record as recording
from svgbench.lab.configs import configs_of
from svgbench.lab.plan import make_plan
from svgbench.lab.schedule import Outcome
from svgbench.tables import collect as collecting


def grid(path, seeds):
    path.write_text(f"base: smoke\naxes:\n  diffusion.shift: [0.2, 0.3]\n  seed: {list(range(seeds))}\n")
    return str(path)


def test_cells_of_a_grid_share_listings_parsed_files_and_judges(tmp_path, monkeypatch):
    asked = []

    def counted(owner, name):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *words, **more: asked.append(name) or real(*words, **more))

    counted(Path, "glob")
    counted(shelf, "yaml_text")
    counted(planning.judges, "identity")
    found = {}
    for seeds in (2, 12):
        asked.clear()
        make_plan(configs_of(grid(tmp_path / f"{seeds}.yaml", seeds), "tiny", None, None))
        found[seeds] = len(asked)
    assert found[12] <= found[2] < 60  # 24 cells ask for no more than 4


def test_a_finished_run_is_compared_and_not_written_again(tmp_path, monkeypatch):
    made = make_plan(configs_of(grid(tmp_path / "grid.yaml", 1), "tiny", None, None))
    recording.record(made, made.runs[0], tmp_path, Outcome())
    assert (tmp_path / made.runs[0].name / "run.json").read_text().startswith('{\n "run": ')
    for costly in ("_indented", "_rows"):
        monkeypatch.setattr(recording, costly, lambda *words: pytest.fail("read or written again"))
    recording.record(made, made.runs[0], tmp_path, Outcome())


def test_configurations_that_a_command_has_are_not_read_again_for_its_table(tmp_path, monkeypatch):
    made = make_plan(configs_of(grid(tmp_path / "grid.yaml", 1), "tiny", None, None))
    for run in made.runs:
        recording.record(made, run, tmp_path, Outcome())
    names, known = [run.name for run in made.runs], {run.name: run.config for run in made.runs}
    read = [record.config() for record in collecting.collect(tmp_path, names)]
    monkeypatch.setattr(collecting, "read_yaml", lambda *words: pytest.fail("read again"))
    assert [record.config() for record in collecting.collect(tmp_path, names, recorded=known)] == read


def test_a_new_file_in_a_user_s_folder_is_found_at_once_and_a_kept_listing_follows_the_folder(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.yaml").write_text("x: 1\n")
        assert name in shelf.entries("ablations", tmp_path)
    settled = time.time() - 60
    os.utime(tmp_path, (settled, settled))
    assert "c" in shelf.entries("ablations", tmp_path)
    (tmp_path / "d.yaml").write_text("x: 1\n")
    (tmp_path / "c.yaml").unlink()
    assert {"a", "b", "d"} == set(shelf.entries("ablations", tmp_path)) - set(shelf.entries("ablations"))
