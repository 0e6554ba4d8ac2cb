"""An error in a grid's file says the line, the cell and the closest name."""

from __future__ import annotations

import re

import pytest
from pydantic import field_validator

from svgbench.config.experiments import load_experiment
from svgbench.config.lines import line_of
from svgbench.config.parse import validate
from svgbench.config.part import Part
from svgbench.errors import BadConfig, BadInput, closest
from svgbench.lab.configs import configs_of

GRID = """asks: x
base: smoke
set:
  data: {train_images: 64}
  sampling:
    sampler: euler
axes:
  autoencoder.residual.channels: [0, 8]
  tokenizer:
    plain: {encoder.card: dinov3}
    other:
      encoder.card: mae
      diffusion: {shift: 0.5}
"""


@pytest.mark.parametrize(
    ("part", "field", "cell", "line", "near"),
    [
        ("set", "data.train_images", "", 4, 4),
        ("set", "sampling.sampler", "", 6, 6),
        ("set", "sampling.steps", "", None, 5),
        ("set", "sampling", "", 5, 5),
        ("axes", "autoencoder.residual.channels", "channels-8.plain", 8, 8),
        ("axes", "encoder.card", "channels-8.plain", 10, 10),
        ("axes", "encoder.card", "channels-8.other", 12, 12),
        ("axes", "diffusion.shift", "channels-0.other", 13, 13),
        ("axes", "diffusion.size", "channels-0.other", None, 13),
        ("set", "diffusion.shift", "channels-0.other", None, None),
        ("axes", "scores.resamples", "", None, None),
    ],
)
def test_the_line_that_sets_a_field_of_a_cell(tmp_path, part, field, cell, line, near):
    path = tmp_path / "g.yaml"
    path.write_text(GRID)
    assert line_of(path, field, cell, part=part) == line and line_of(path, field, cell, part=part, loose=True) == near


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("base: smoke\nset:\n  sampling: {stepz: [2]}\n", r"g\.yaml:3: sampling\.stepz is not a field\. Did you mean 'steps'"),
        ("base: smoke\naxes:\n  seed: [0]\n  autoencoder.align:\n    - none\n    - frosen\n",
         r"g\.yaml:6, cell 'seed-0.align-frosen'.*'frozen'"),
        ("base: smoke\naxes:\n  encoder.card:\n    - dinov3\n    - dinov4\n",
         r"g\.yaml:5, cell 'dinov4': no encoder card.*Did you mean 'dinov"),
        (
            "base: smoke\naxes:\n  who:\n    a: {seed: 0}\n    b: {diffusion.shfit: 0.1}\n",
            r"g\.yaml:5, cell 'b': diffusion\.shfit.*'shift'",
        ),
        ("base: smoke\nset:\n  sampling.sampler: ddim\n", r"g\.yaml:3: sampling\.sampler ddim does not fit"),
        ("base: smoke\naxis:\n  seed: [0]\n", r"g\.yaml:2: axis is not a field. Did you mean 'axes'"),
        ("base: smoke\npresets: {tiny: {seed: 1}}\n", r"g\.yaml:2: presets is not a field\..* Known: asks, at, axes, "),
        (f"asks: x\naxes:\n  seed: {list(range(101))}\n  a.b: {[0.1] * 100}\n", r"g\.yaml:2: the axes give 10,100 cells, "),
        (f"axes:\n  seed: {list(range(10_001))}\n", r"g\.yaml:1: the axes give 10,001 cells, and .* have 10,000; split it\.$"),
        ("asks: x\naxes:\n  seed: []\n", r"g\.yaml:3: the axis 'seed' is empty; give it values, or leave it out\.$"),
        ("asks: x\nbase: smoek\n", r"g\.yaml:2: no experiment named 'smoek'. Did you mean 'smoke'"),
        ("asks: x\nbase: none.yaml\n", r"g\.yaml:2: the base none\.yaml does not exist\.$"),
        ("base: smoke\naxes:\n  who:\n    a: {seed: 1}\n    b:\n      base: smoek\n", r"g\.yaml:6: no experiment named 'smoek'"),
        ("base: smoke\naxes:\n  who:\n    a: {seed: 1}\n    b:\n", r"g\.yaml:5: axes\.who\.b must be a mapping, got nothing\.$"),
        ("base: smoke\naxes:\n  x: [1]\n  seed: 3\n", r"g\.yaml:4: axes\.seed must be a list or a mapping, got 3\.$"),
        ("base: smoke\nset:\n  scores:\n    extractor: incepton\n", r"g\.yaml:4: no extractor named 'incepton'. Did you mean 'inception'"),
        ("base: smoke\nset: {sampling.steps: []}\n", r"g\.yaml:2: sampling\.steps must be a list of at least 1 entry, got \[\]\.$"),
        ("base: smoke\nset: {sampling.steps: 3}\n", r"sampling\.steps must be a list, got 3\.$"),
        ("base: smoke\nset: {sampling.schedule: linerly}\n", r"late-0.5, linear\.$"),
        ("base: smoke\nset: {encoder.features.layers: []}\n", r"layers must be 'last' or a list of at least 1 entry, got \[\]\.$"),
        ("base: smoke\nset: {encoder.features.layers: [a]}\n", r"layers\.0 must be a valid integer, got 'a'\.$"),
        ("", r"g\.yaml: names no cells; give axes, cells' settings under set, or a base\.$"),
        ("# seed: 1\n", r"g\.yaml: names no cells"),
        ("{}\n", r"g\.yaml: names no cells"),
        ("asks: x\n", r"g\.yaml: names no cells"),
        ("axes: {}\n", r"g\.yaml: names no cells"),
        ("base: smoke\naxes:\n  seed: [0\n", r"g\.yaml:4:1: "),
    ],
)  # fmt: skip
def test_a_wrong_grid_says_file_line_cell_and_the_closest_name(tmp_path, text, sentence):
    path = tmp_path / "g.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        configs_of(str(path), "tiny", None, None)
    assert re.search(sentence, str(caught.value)), caught.value


def test_what_set_got_wrong_is_not_the_file_s_fault(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text("base: smoke\naxes:\n  seed: [0, 1]\n")
    with pytest.raises(BadConfig, match=r"^--set: sampling\.stepz"):
        configs_of(str(path), "tiny", ["sampling.stepz=[2]"], None)


def test_an_error_in_a_base_is_said_of_the_base(tmp_path):
    (tmp_path / "below.yaml").write_text("base: smoke\nset:\n  data.resolution: 36\n")
    path = tmp_path / "g.yaml"
    path.write_text(f"base: {tmp_path / 'below.yaml'}\naxes:\n  diffusion.shift: [0.1]\n")
    assert load_experiment(str(path)).base
    with pytest.raises(BadConfig, match=r"below\.yaml:3, cell 'diffusion-shift-0.1': images of 36 px cannot be divided"):
        configs_of(str(path), "tiny", None, None)


def test_an_error_in_the_base_of_a_cell_is_said_of_that_base(tmp_path):
    (tmp_path / "below.yaml").write_text("base: smoke\nset:\n  autoencoder.algin: none\n")
    path = tmp_path / "g.yaml"
    path.write_text(f"axes:\n  recipe:\n    a: {{base: smoke}}\n    b: {{base: {tmp_path / 'below.yaml'}}}\n")
    with pytest.raises(BadConfig, match=r"below\.yaml:3, cell 'b': autoencoder\.algin is not a field\. Did you mean 'align'"):
        configs_of(str(path), "tiny", None, None)


def test_what_a_cell_s_base_sets_is_not_laid_at_the_door_of_what_it_overrides(tmp_path):
    (tmp_path / "below.yaml").write_text("base: smoke\nset:\n  diffusion.shift: -1\n")
    path = tmp_path / "g.yaml"
    path.write_text(f"set: {{diffusion: {{size: tiny}}}}\naxes:\n  recipe:\n    b: {{base: {tmp_path / 'below.yaml'}}}\n")
    with pytest.raises(BadConfig, match=r"below\.yaml:3, cell 'b': diffusion\.shift must be .*, got -1"):
        configs_of(str(path), "tiny", None, None)


def test_a_value_that_holds_at_one_preset_is_found_at_its_line(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text("set: {seed: 1}\nat:\n  tiny:\n    diffusion.shift: -1\n  paper:\n    diffusion.shift: 0.5\n")
    with pytest.raises(BadConfig, match=r"g\.yaml:4: diffusion\.shift must be .*, got -1"):
        configs_of(str(path), "tiny", None, None)
    path.write_text("axes:\n  what:\n    a: {seed: 1}\n    b:\n      seed: 2\n      at: {tiny: {diffusion.shfit: 1}}\n")
    with pytest.raises(BadConfig, match=r"g\.yaml:6, cell 'b': diffusion\.shfit is not a field\. Did you mean 'shift'"):
        configs_of(str(path), "tiny", None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("at: {papr: {seed: 1}}\n", "g.yaml:1: at: no preset named 'papr'. Did you mean 'paper'?"),
        ("seed: 1\n", "g.yaml:1: seed is not a field"),
        ("axes:\n  x:\n    a: {at: {larg: {seed: 1}}}\n", "g.yaml:3: axes.x.a.at: no preset named 'larg'"),
        ("axes:\n  x:\n    a: {at: paper}\n", "g.yaml:3: axes.x.a.at must map presets to settings, such as at: {paper: {seed: 1}}."),
        ("at: {paper: 3}\n", "g.yaml:1: at.paper must be"),
    ],
)
def test_an_at_that_names_no_preset_is_refused(tmp_path, text, said):
    path = tmp_path / "g.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        configs_of(str(path), "tiny", None, None)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [("set: {data: {on: 1}}\n", "1: set.data"), ("axes: {who: {x: {data: {on: 1}}}}\n", "1: axes.who.x.data"), ("on: 1\n", "")],
)
def test_a_name_that_is_no_text_is_asked_for_in_quotes_at_any_depth(tmp_path, text, place):
    path = tmp_path / "g.yaml"
    path.write_text(text)
    said = f"g.yaml{':' * bool(place)}{place}: a name here must be text, got True; put it in quotes."
    with pytest.raises(BadConfig, match=re.escape(said)):
        configs_of(str(path), "tiny", None, None)


@pytest.mark.parametrize("word", ["on", "no", "1"])
def test_a_cell_s_name_that_yaml_takes_for_something_else_is_asked_for_in_quotes(tmp_path, word):
    path = tmp_path / "g.yaml"
    path.write_text(f"axes:\n  way:\n    {word}: {{seed: 1}}\n")
    with pytest.raises(BadConfig, match=r"g\.yaml:\d: axes\.way: a name here must be text, got \w+; put it in quotes\."):
        configs_of(str(path), "tiny", None, None)


def test_an_axis_that_changes_nothing_is_said_and_runs_once(tmp_path, capsys):
    path = tmp_path / "g.yaml"
    path.write_text("base: smoke\nset: {autoencoder.residual.channels: 0}\naxes:\n  autoencoder.align: [none, frozen]\n")
    assert len(configs_of(str(path), "tiny", None, None)) == 1
    assert "cell 'align-frozen' is the same run as 'align-none'; it runs once" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["base: smoke\n", "set: {seed: 1}\n", "run: mine\n"])
def test_a_file_without_axes_is_one_run(tmp_path, text):
    path = tmp_path / "g.yaml"
    path.write_text(text)
    assert len(configs_of(str(path), "tiny", None, None)) == 1


def test_a_list_of_names_that_is_cut_short_ends_in_one_ellipsis():
    names = [f"name{i}" for i in range(30)]
    assert closest("x", names).endswith(", ...") and closest("x", names[:2]) == " Known: name0, name1."

    class Named(Part):
        name: str

        @field_validator("name")
        @classmethod
        def _known(cls, word: str) -> str:
            raise ValueError(f"no such name.{closest(word, names)}")

    with pytest.raises(BadConfig, match=r"[^.], \.\.\.$"):
        validate(Named, {"name": "x"})
