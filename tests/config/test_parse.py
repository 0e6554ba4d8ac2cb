"""A wrong word is answered with one sentence that names the field, the bound and the closest name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svgbench.config.build import build
from svgbench.config.parse import merge, nested, override, validate
from svgbench.config.schema import RunConfig
from svgbench.errors import BadConfig, SvgbenchError
from svgbench.shelf import read_yaml


def test_an_unknown_field_offers_the_closest_name():
    with pytest.raises(BadConfig, match=r"autoencoder\.residual\.chanels is not a field\. Did you mean 'channels'"):
        validate(RunConfig, {"autoencoder": {"residual": {"chanels": 8}}}, where="grid.yaml")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("data.resolution=8", r"data\.resolution must be greater than or equal to 16, got 8"),
        ("autoencoder.align=freeze", r"Did you mean 'frozen'"),
        ("seed=abc", r"seed must be a valid integer"),
        ("diffusion.training.ema=1.5", r"diffusion\.training\.ema must be less than 1"),
        ("diffusion.transformer.heads=7", r"not a multiple of heads"),
        ("seed=-1", r"seed must be greater than or equal to 0, got -1"),
        ("data.seed=-1", r"data\.seed must be greater than or equal to 0, got -1"),
        ("sampling.schedule=interval-0.9-0.2", r"must begin before it ends, but 0\.9 is not below 0\.2; give the earlier"),
        ("sampling.schedule=interval-0.5-0.5", r"0\.5 is not below 0\.5"),
        ("autoencoder.residual.heads=7", r"autoencoder\.residual: width 96 is not a multiple of heads 7\.$"),
        ("seed", r"write it as field\.field=value"),
        ("diffusion.shift=.nan", r"diffusion\.shift must be"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_bound(word, sentence):
    with pytest.raises(BadConfig, match=sentence):
        build(override([word]), preset="tiny")


def test_an_unknown_preset_offers_its_neighbour():
    with pytest.raises(SvgbenchError, match="Did you mean 'tiny'"):
        build({}, preset="tini")


def test_later_settings_win_and_leave_their_neighbours_alone():
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    assert override(["a.b=1e-4", "a.c=[1, 2]"]) == {"a": {"b": 1e-4, "c": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"a: 1\na: 2\n", "is repeated"),
        (b"a: [1\n", r":\d+:\d+"),
        (b"\xff\xfe", "not UTF-8"),
        (b"- 1\n", "not a mapping"),
        (b"a: &x [1]\nb: *x\n", "aliases are not allowed"),
        (b"a: !!python/object:os.system {}\n", "could not determine a constructor"),
        (b"a:\t1\n b: 2", r":\d+:\d+"),
    ],
)
def test_a_bad_yaml_file_is_one_sentence_with_its_place(tmp_path, text, sentence):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    with pytest.raises(BadConfig, match=sentence) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*RunConfig.model_fields, "x"]), ANYTHING, max_size=3))
def test_no_content_gets_past_validation_with_another_error(content):
    try:
        assert isinstance(validate(RunConfig, content), RunConfig)
    except BadConfig as error:
        assert "\n" not in str(error).strip()


def test_a_setting_of_each_entry_of_a_list():
    words = override(["continued.*.positions=recomputed", "continued.*.diffusion.images=5"])
    steps = {"continued": [{"resolution": 16, "diffusion": {"images": 1, "lr": 0.1}}, {"resolution": 24}]}
    first, second = merge(steps, words)["continued"]
    assert first == {"resolution": 16, "positions": "recomputed", "diffusion": {"images": 5, "lr": 0.1}}
    assert second == {"resolution": 24, "positions": "recomputed", "diffusion": {"images": 5}}
    assert build(words, preset="tiny") == build({}, preset="tiny")  # there is no entry
    assert merge(words, steps) == steps  # a list that is set later stands
    for word in ("continued.*=3", "continued.0.positions=recomputed"):
        with pytest.raises(BadConfig, match="continued must be a list"):
            build(merge(steps, override([word])), preset="tiny")


def test_nested_makes_a_path():
    assert nested("a.b.c", 1) == {"a": {"b": {"c": 1}}}
