"""What an experiment stands on: bases end, presets are the shelf's own files, and what a file names is one set of runs."""

from __future__ import annotations

import pytest

from svgbench.cli.selection import Named
from svgbench.config.experiments import cells, experiment_at, load_experiment, place_of, preset_of, run_of, settings_of
from svgbench.errors import BadConfig, BadInput
from svgbench.lab.configs import configs_of


def written(folder, name: str, text: str) -> str:
    """The path of a grid of that text."""
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("ask", [settings_of, preset_of, run_of, lambda e: place_of(str(e.file), "", "seed")])
@pytest.mark.parametrize("bases", [("a",), ("b", "a"), ("b", "c", "b")])
def test_bases_that_come_back_are_refused_with_their_place(tmp_path, ask, bases):
    for name, base in zip("abc", bases, strict=False):
        written(tmp_path, f"{name}.yaml", f"asks: x\nbase: {tmp_path / base}.yaml\n")
    with pytest.raises(BadConfig, match=r"[abc]\.yaml:2: the bases of 'a' form a circle with '[ab]'; name another base\."):
        ask(load_experiment(str(tmp_path / "a.yaml")))


def test_a_file_may_stand_on_an_experiment_of_its_own_name(tmp_path):
    assert preset_of(load_experiment(written(tmp_path, "smoke.yaml", "base: smoke\nset: {seed: 3}\n"))) == "tiny"


def test_the_nearest_setting_wins_and_at_holds_at_its_preset_alone(tmp_path):
    """The experiment's bases, the cell's base, the experiment's own set and at, the cell's own and its at: each overrides those before."""
    written(tmp_path, "far.yaml", "set: {diffusion: {shift: 0.1, class_dropout: 0.1}, seed: 1}\nat: {paper: {seed: 2}}\n")
    recipe = "set: {diffusion: {shift: 0.2, class_dropout: 0.2}, seed: 3}\nat: {paper: {seed: 4, diffusion.shift: 0.3}}\n"
    written(tmp_path, "recipe.yaml", recipe)
    grid = written(
        tmp_path,
        "grid.yaml",
        f"base: {tmp_path}/far.yaml\nset: {{diffusion.class_dropout: 0.4}}\nat: {{paper: {{diffusion.class_dropout: 0.5}}}}\n"
        f"axes:\n  x:\n    plain: {{}}\n    a: {{base: {tmp_path}/recipe.yaml}}\n"
        f"    b: {{base: {tmp_path}/recipe.yaml, seed: 5, at: {{paper: {{seed: 6, diffusion: {{class_dropout: 0.6}}}}}}}}\n",
    )

    def found(preset):
        made = cells(load_experiment(grid), preset=preset)
        return {name: (s["diffusion"]["shift"], s["diffusion"]["class_dropout"], s["seed"]) for name, s in made.items()}

    assert found("tiny") == found(None) == {"plain": (0.1, 0.4, 1), "a": (0.2, 0.4, 3), "b": (0.2, 0.4, 5)}
    assert found("paper") == {"plain": (0.1, 0.5, 2), "a": (0.3, 0.5, 4), "b": (0.3, 0.6, 6)}
    by_preset = {preset: {c.seed for c in configs_of(grid, preset, None, None, resolved=False).values()} for preset in ("tiny", "paper")}
    assert by_preset == {"tiny": {1, 3, 5}, "paper": {2, 4, 6}}


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


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        (
            "base: smoke\nrun: mine\nset: {autoencoder.residual.channels: 0}\naxes:\n  autoencoder.align: [none, frozen, whiten]\n",
            {"mine.align-none"},
            ["cell 'align-frozen' is the same run as 'align-none'; it runs once.", "cell 'align-whiten' is the same run as 'align-none'"],
        ),
        (
            "base: smoke\naxes:\n  encoder.card: [sd-vae]\n  autoencoder.align: [frozen, none]\n",
            {"sd-vae-tiny"},
            ["cell 'sd-vae.align-none' is the same run as 'sd-vae.align-frozen'; it runs once."],
        ),
        ("base: smoke\nrun: m\naxes: {seed: [0, 1, 0]}\n", {"m.seed-0", "m.seed-1"}, ["the axis 'seed' lists 0 twice; it runs once."]),
    ],
)
@pytest.mark.parametrize("resolved", [True, False])
def test_cells_that_are_the_same_work_are_said_and_are_one_run(tmp_path, capsys, text, names, said, resolved):
    found = configs_of(written(tmp_path, "g.yaml", text), "tiny", None, None, resolved=resolved)
    err = capsys.readouterr().err
    assert len(found) == len(names) and all(sentence in err for sentence in said) and len(err.splitlines()) == len(said)
    assert {name if name.startswith("m") else name.split(".")[0] for name in found} == names


def test_many_equal_cells_are_one_line_and_a_report_says_nothing_of_them(tmp_path, capsys):
    assert len(configs_of("layer", "tiny", ["seed=0"], None, resolved=False)) == 3
    said = "6 of 9 cells are the same run as another cell, for example 'early.seed-1' as 'early.seed-0'; each runs once."
    assert capsys.readouterr().err.splitlines() == [said]
    assert len(Named(tmp_path, sets=["seed=0"]).cells("layer")) == 3 and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("base: smoke\nrun: pa\naxes: {data.source: [./im, shapes]}\n", ["pa.data-source-.-im", "pa.data-source-shapes"]),
        ("base: smoke\nrun: a\naxes:\n  who:\n    ..: {seed: 1}\n    /: {seed: 2}\n", ["a.-", "a.-.df7e94"]),
    ],
)
def test_a_run_s_name_is_one_directory_below_out(tmp_path, text, names):
    found = configs_of(written(tmp_path, "g.yaml", text), "tiny", None, None, resolved=False)
    assert list(found) == names and all((tmp_path / name).resolve().parent == tmp_path.resolve() for name in found)


@pytest.mark.parametrize("run", ["..", "../../up", ".hidden", "store", "Plans"])
def test_a_file_that_names_its_run_like_a_path_or_another_directory_is_refused(tmp_path, run):
    with pytest.raises(BadInput, match=r"g\.yaml: the run's name '.*' (starts with|is reserved for)"):
        configs_of(written(tmp_path, "g.yaml", f"base: smoke\nrun: {run}\n"), "tiny", None, None, resolved=False)


AXES_AT = """at:
  paper: {sampling.count: 7, axes: {seed: [4, 5], x: [b]}}
axes:
  x:
    a: {diffusion.shift: 0.1}
    b: {diffusion.shift: 0.2}
    c: {diffusion.shift: 0.3}
  seed: [0, 1]
contrasts:
  - {name: kept, metric: gfid, between: [b, a], why: w}
"""


def test_a_preset_may_have_other_axes_and_leaves_out_the_contrasts_of_cells_that_it_drops(tmp_path):
    grid = written(tmp_path, "grid.yaml", AXES_AT)
    at = {preset: experiment_at(grid, preset) for preset in ("tiny", "paper")}
    found = {preset: list(configs_of(grid, preset, None, None, resolved=False).values()) for preset in at}
    assert [(c.diffusion.shift, c.seed) for c in found["paper"]] == [(0.2, 4), (0.2, 5)] and found["paper"][0].sampling.count == 7
    assert len(found["tiny"]) == 6 and {c.seed for c in found["tiny"]} == {0, 1}
    assert (len(at["tiny"].contrasts), len(at["paper"].contrasts)) == (1, 0)
    kept = written(tmp_path, "kept.yaml", AXES_AT.replace("x: [b]", "x: [b, a]"))
    assert len(experiment_at(kept, "paper").contrasts) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("x: [b]", "x: [d]", r"grid\.yaml:2: no cell named 'd'"),
        ("x: [b]", "y: [1]", r"grid\.yaml:2: no axis named 'y'"),
        ("x: [b]", "x: []", r"grid\.yaml:2: at\.paper\.axes must map axes to lists that are not empty"),
    ],
)
def test_axes_of_a_preset_that_do_not_exist_are_refused_with_their_line(tmp_path, old, new, said):
    with pytest.raises(BadInput, match=said):
        load_experiment(written(tmp_path, "grid.yaml", AXES_AT.replace(old, new)))
