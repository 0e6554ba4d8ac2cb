"""What an experiment stands on: bases end, presets are the shelf's own files, and what a file names is one set of runs."""

from __future__ import annotations

import pytest

from svgbench.cli.cells import configs_of
from svgbench.config.grid import load_experiment, place_of, preset_of, run_of, settings_of
from svgbench.errors import BadConfig


def written(folder, name: str, text: str) -> str:
    """The path of a grid of that text."""
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("ask", [settings_of, preset_of, run_of, lambda e: place_of(str(e.file), "", "seed")])
@pytest.mark.parametrize("bases", [("a",), ("b", "a"), ("b", "c", "b")])
def test_bases_that_come_back_are_refused_with_their_place(tmp_path, ask, bases):
    for name, base in zip("abc", bases, strict=False):
        written(tmp_path, f"{name}.yaml", f"asks: x\nbase: {tmp_path / base}.yaml\n")
    with pytest.raises(BadConfig, match=r"[abc]\.yaml:2: the bases of 'a' come back to '[ab]'; name another base\."):
        ask(load_experiment(str(tmp_path / "a.yaml")))


def test_a_file_may_stand_on_an_experiment_of_its_own_name(tmp_path):
    assert preset_of(load_experiment(written(tmp_path, "smoke.yaml", "base: smoke\nset: {seed: 3}\n"))) == "tiny"


@pytest.mark.parametrize("name", ["paper", "small", "preset-paper"])
def test_a_user_s_file_is_no_preset_whatever_its_name(tmp_path, name):
    grid = written(tmp_path, f"{name}.yaml", f"name: preset-{name}\naxes: {{seed: [0, 1]}}\n")
    assert preset_of(load_experiment(grid)) is None
    assert {config.preset for config in configs_of(grid, "tiny", None, None).values()} == {"tiny"}


@pytest.mark.parametrize(
    ("name", "preset"), [("tiny", "tiny"), ("plateau", "tiny"), ("smoke", "tiny"), ("preset-small", "small"), ("svg", None)]
)
def test_the_shelf_s_experiments_stand_on_their_presets(name, preset):
    assert preset_of(load_experiment(name)) == preset
