"""``load_official``: files of another kind, damaged, hostile, or against their config: one sentence each."""

from __future__ import annotations

import os

import official
import pytest
import torch
from safetensors.torch import save_file

import svgbench
from svgbench.errors import BadConfig, BadInput, BadWeights, UnknownName
from svgbench.releases.open import KINDS

HEADS = {"decoder_num_attention_heads": 4}
RAE = official.rae()
LDM = official.ldm()
WHOLE = official.ldm(channels=388, levels=5, resolution=64, attention=(4,))
DECODER = {name.removeprefix("decoder."): value for name, value in WHOLE.items() if name.startswith("decoder.")}


def refused(path, kind, config=None):
    """The one sentence that opening the file answers."""
    with pytest.raises(BadInput) as error:
        svgbench.load_official(kind, path, config)
    assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")
    return str(error.value)


@pytest.fixture
def saved(tmp_path):
    def save(content, name="release.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def test_the_kinds_are_those_of_the_papers():
    assert set(KINDS) == {
        "svg-autoencoder", "svg-dit", "sit", "dit", "repa", "lightningdit", "ddt", "vavae", "sdvae", "rae-decoder",
    }  # fmt: skip


def test_a_release_opens_from_any_of_the_usual_wrappers_frozen(saved, tmp_path):
    save_file(RAE, tmp_path / "plain.safetensors")
    moments = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    lightning = {"epoch": 1, "state_dict": RAE, "optimizer_states": [moments], "callbacks": {"ModelCheckpoint": {"best": None}}}
    paths = [tmp_path / "plain.safetensors", saved(RAE), saved({"ema": RAE, "step": 3}, "ema.pt"), saved(lightning, "l.ckpt")]
    features = torch.randn(3, 20, 4, 4)
    models = [svgbench.load_official("rae-decoder", path, HEADS) for path in paths]
    answers = [model.decode(features) for model in models]
    assert answers[0].shape == (3, 3, 32, 32) and all(torch.equal(answer, answers[0]) for answer in answers)
    assert torch.equal(models[0].decode(features[1:2]), answers[0][1:2])
    assert not any(p.requires_grad for p in models[0].parameters()) and not models[0].training


def test_an_unknown_kind_names_the_closest(saved):
    with pytest.raises(UnknownName, match="no kind of official model named 'rae'"):
        svgbench.load_official("rae", saved(RAE))
    with pytest.raises(UnknownName, match="Did you mean 'lightningdit'"):
        svgbench.load_official("lightning-dit", saved(RAE))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"rae-decoder"}))
def test_a_file_of_another_kind_is_refused_with_what_it_looks_like(saved, kind):
    assert "looks like RAE's decoder (rae-decoder)" in refused(saved(RAE), kind)


@pytest.mark.parametrize("kind", ["rae-decoder", "svg-autoencoder"])
def test_an_autoencoder_where_another_is_asked_says_so(saved, kind):
    assert "it looks like an autoencoder in LDM's layout (vavae, sdvae)" in refused(saved(LDM), kind)


def test_missing_surplus_and_misshapen_tensors_are_counted_in_the_files_own_names(saved):
    state = dict(RAE)
    del state["decoder_norm.weight"], state["decoder_layers.1.attention.attention.key.bias"]
    state["extra"] = torch.zeros(2)
    state["trainable_cls_token"] = torch.zeros(1, 1, 7)
    sentence = refused(saved(state), "rae-decoder", HEADS)
    assert "2 missing (decoder_layers.1.attention.attention.key.bias, decoder_norm.weight)" in sentence
    assert "1 unexpected (extra)" in sentence and "trainable_cls_token is (1, 1, 7) instead of (1, 1, 32)" in sentence


@pytest.mark.parametrize("lost", ["encoder.patch_embed.proj.bias", "encoder.rope_embed.periods", "encoder.blocks.11.mlp.fc1.weight"])
def test_an_encoder_inside_svgs_checkpoint_that_lacks_a_tensor_is_one_sentence(saved, lost):
    state = official.dinov3() | official.residual(channels=4) | {f"decoder.{n}": v for n, v in DECODER.items()}
    del state[lost]
    if lost == "encoder.rope_embed.periods":  # a table that the card's network computes
        assert svgbench.load_official("svg-autoencoder", saved(state)).channels == 388
    else:
        assert "the encoder 'dinov3-s16' in" in refused(saved(state), "svg-autoencoder")


def test_parts_of_two_svg_trainings_are_refused(saved):
    state = official.dinov3() | official.residual(channels=8) | {f"decoder.{n}": v for n, v in DECODER.items()}
    assert "decodes 388 channels, but dinov3-s16 gives 384 and the residual 8" in refused(saved(state), "svg-autoencoder")


@pytest.mark.parametrize("changes", [{"encoder": "dinov3_vitb16"}, {"dinoconfig": {"model_name": "dinov3_vits16plus"}}])
def test_a_config_that_names_another_encoder_is_refused(saved, changes):
    state = official.dinov3() | official.residual(channels=4) | {f"decoder.{n}": v for n, v in DECODER.items()}
    assert "has dinov3_vits16; correct the config" in refused(saved(state), "svg-autoencoder", changes)


def test_numbers_that_are_not_finite_are_refused(saved):
    state = {**RAE, "decoder_norm.bias": torch.full((32,), float("nan"))}
    assert "not finite" in refused(saved(state), "rae-decoder", HEADS)


@pytest.mark.parametrize(
    "kind, state, config, words",
    [
        ("rae-decoder", RAE, {**HEADS, "decoder_hidden_size": 64}, "the config has decoder_hidden_size 64, .* has 32; correct"),
        ("rae-decoder", RAE, {"decoder_num_attention_heads": 5}, "5 heads do not divide the width 32"),
        ("rae-decoder", RAE, None, "no released decoder has the width 32 .* give decoder_num_attention_heads"),
        ("rae-decoder", RAE, {**HEADS, "hidden_act": "relu"}, "the config has hidden_act relu"),
        ("vavae", LDM, {"embed_dim": 32}, "the config has embed_dim 32, .* has 6"),
        ("vavae", LDM, {"ch": 128, "ch_mult": [1, 1, 2]}, r"ch x ch_mult\) \[128, 128, 256\], .* has \[128, 128, 128\]"),
        ("vavae", LDM, {"ddconfig": {"attn_resolutions": [16], "resolution": 32}}, r"attn_resolutions \[16\], .* has \[8\]"),
        ("sdvae", LDM, {"z_channels": 4}, "the config has z_channels 4, .* has 6"),
        ("vavae", LDM, {"attn_resolutions": 8}, "attn_resolutions in the config of a release is 8; give a list of whole numbers"),
        ("sdvae", LDM, {"resolution": "256"}, "resolution in the config of a release is '256'; give a whole number"),
        ("vavae", LDM, {"ddconfig": 3}, "ddconfig in the config of a release is int"),
    ],
)  # fmt: skip
def test_a_config_against_the_shapes_is_refused(saved, kind, state, config, words):
    with pytest.raises(BadConfig, match=words):
        svgbench.load_official(kind, saved(state), config)


def test_other_positions_than_the_fixed_ones_are_refused(saved):
    state = {**RAE, "decoder_pos_embed": RAE["decoder_pos_embed"] + 0.1}
    assert "positions that are not the fixed sines and cosines" in refused(saved(state), "rae-decoder", HEADS)


def test_levels_that_the_groups_do_not_divide_are_refused(saved):
    state = {n: v[:48] if n == "decoder.up.0.block.0.conv1.weight" else v for n, v in LDM.items()}
    assert "has levels of [48, 128, 128] channels, which the 32 groups" in refused(saved(state), "vavae")


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("kept", [0, 20, 3000])
def test_truncated_files_are_refused(saved, kind, kept):
    path = saved(RAE)
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated or not a weights file" in refused(path, kind)


class Payload:
    """An object whose unpickling creates a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(saved, tmp_path, kind):
    path = saved({"state_dict": {**RAE, "extra": Payload(tmp_path / "ran")}})
    assert "could run code" in refused(path, kind)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_absent_file_and_one_without_tensors_are_refused(saved, tmp_path, kind):
    assert "does not exist" in refused(tmp_path / "none.pt", kind)
    assert "give a file with a state dict" in refused(saved({"step": 3}), kind)
    with pytest.raises(BadWeights):
        svgbench.load_official(kind, saved({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}))
