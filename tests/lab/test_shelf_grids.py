"""Every experiment of the shelf says what it is for and can be planned at every preset, with its cells told apart."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from svgbench.config.experiments import PRESETS, cells, experiment_at, load_experiment, preset_of
from svgbench.lab.configs import configs_of
from svgbench.lab.plan import make_plan
from svgbench.shelf import entries

NAMES = sorted(name for name in entries("ablations") if not name.startswith("preset-"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, list[str]]:
    """What each preset needs from its user: images of two classes, a file in the place of Inception's weights."""
    folder = tmp_path_factory.mktemp("paper")
    for i in range(8):
        path = folder / "data" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path)
    (folder / "inception.pth").write_bytes(b"not opened by a plan")
    paper = [f"data.source={folder / 'data'}", f"scores.extractor_weights={folder / 'inception.pth'}"]
    return {"tiny": [], "mini": [], "small": [], "paper": paper}


def test_every_experiment_names_its_table_or_figure_of_the_paper_or_none():
    named = {name: load_experiment(name).paper for name in NAMES}
    wrong = {name: paper for name, paper in named.items() if not re.fullmatch(r"none|(table|figure|figures|appendix) [\w ,-]+", paper)}
    assert not wrong, "paper: the table or figure of arXiv 2510.15301 that the experiment is, or none"
    assert {"table 1", "table 2a", "table 2b", "table 3", "table 4", "table 6", "figure 13"} <= set(named.values())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_planned_at_a_preset(name, preset, sets, capsys):
    about = load_experiment(name)
    assert about.asks and about.costs and about.compares
    if preset_of(about) not in (None, preset):
        pytest.skip(f"{name} stands on the preset {preset_of(about)} by itself")
    configs = configs_of(name, preset, sets[preset], None)
    assert len(configs) == len(cells(experiment_at(name, preset))) and "same run" not in capsys.readouterr().err
    plan = make_plan(configs)
    parts = [set(run.nodes) for run in plan.runs]
    assert len(plan.nodes) == len(set.union(*parts)) and all(config.preset == preset for config in configs.values())
    for i, part in enumerate(parts):
        assert part <= set(plan.nodes) and all(part != other for other in parts[:i]), "two cells with one plan are one experiment"
    order = {key: i for i, key in enumerate(plan.nodes)}
    assert all(order[needed] < order[key] for key, node in plan.nodes.items() for needed in node.inputs.values())


@pytest.mark.parametrize(
    ("name", "runs", "samples"),
    [("scaling", 24, None), ("guidance", 15, 78), ("few-step", 9, 207), ("shift-steps", 18, 108), ("tiny", 24, None)],
)
def test_what_an_experiment_says_it_costs_is_of_as_many_runs_and_samples(name, runs, samples):
    plan = make_plan(configs_of(name, "tiny", None, None))
    assert len(plan.runs) == runs
    if samples is not None:
        assert sum(node.stage == "samples" for node in plan.nodes.values()) == samples and f"{samples} sets" in load_experiment(name).costs
    else:
        assert f"{runs} runs" in load_experiment(name).costs
