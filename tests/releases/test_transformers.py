import functools
import json

import pytest
import torch
from interop import error, fixture, to_map
from plain_transformers import SHAPES, answer, layout, release

from svgbench.errors import BadConfig, BadWeights, UnknownName
from svgbench.nets.ddpm import EpsilonModel
from svgbench.nets.sampler import sample
from svgbench.nets.sit import SiT
from svgbench.releases.sizes import sizes_of
from svgbench.releases.transformers import official_names, open_transformer

FIXTURES = {
    "svg-dit": "svg_dit_tiny", "sit": "sit_s2", "dit": "dit_s2", "repa": "repa_sit_tiny", "lightningdit": "lightningdit_tiny",
    "ddt": "ddt_tiny",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@functools.cache
def opened(kind, **more):
    found = fixture(FIXTURES[kind])
    return open_transformer(kind, found.state, {**found.config, **more}, "it"), found.tensors


# the official code's answers


@pytest.mark.parametrize("kind", ["sit", "lightningdit", "ddt"])
def test_a_release_with_noise_at_time_zero_answers_as_its_authors_code(kind):
    model, t = opened(kind)
    assert error(model(t["in.x"], t["in.t"], t["in.y"]), t["out.velocity"]) < 1e-5


def test_svgs_dit_answers_as_its_authors_code():
    model, t = opened("svg-dit")
    x, labels = to_map(t["in.x"]), t["in.y"]
    assert error(model.outputs(x, t["in.t"], labels), to_map(t["out.velocity"])) < 1e-5
    assert model(x, t["in.t"], labels).shape == x.shape
    te, data = t["out.shifted_t"][:, None, None, None], to_map(t["in.data"])
    loss = (model((1 - te) * x + te * data, t["out.shifted_t"], labels) - (data - x)).square().mean()
    assert error(loss.reshape(1), t["out.loss"]) < 1e-5


@pytest.mark.parametrize(
    ("stored", "steps", "sampler", "shift", "guidance", "schedule"),
    [
        ("euler.5.shift0.15.cfg4.0.constant", 5, "euler", 0.15, 4.0, "constant"),
        ("euler.5.shift1.0.nocfg", 5, "euler", 1.0, 1.0, "constant"),
        ("euler.6.shift0.4.cfg3.0.late", 6, "euler", 0.4, 3.0, "late"),
        ("euler.6.shift0.4.cfg3.0.linear", 6, "euler", 0.4, 3.0, "linear"),
        ("euler.6.shift1.0.cfg3.0.early-0.5", 6, "euler", 1.0, 3.0, "early-0.5"),
        ("heun.3.shift1.0.cfg2.0.constant", 3, "heun", 1.0, 2.0, "constant"),
    ],
)
def test_svgs_samples_are_its_authors_codes(stored, steps, sampler, shift, guidance, schedule):
    model, t = opened("svg-dit")
    got = sample(
        model, to_map(t["in.x"]), t["in.y"], steps=steps, sampler=sampler, shift=shift, guidance=guidance, schedule=schedule
    )  # fmt: skip
    assert error(got, to_map(t[f"out.sample.{stored}"])) < 1e-4


def test_sits_trajectories_are_its_authors_codes():
    model, t = opened("sit")
    got = sample(model, t["in.x"], t["in.y"], steps=7, sampler="euler", shift=1.0)
    assert error(got, t["out.ode.euler.8"]) < 1e-4

    got = sample(model, t["in.x"], t["in.y"], steps=4, sampler="midpoint", shift=1.0, guidance=1.5, guided_channels=3)
    assert error(got, t["out.ode.midpoint.5.cfg1.5"]) < 1e-4


def test_dit_names_its_noise_and_its_ddim_samples_are_its_authors_codes():
    model, t = opened("dit")
    assert isinstance(model, EpsilonModel)
    assert error(model(t["in.x"], t["in.t"], t["in.y"]), t["out.eps_sigma"]) < 1e-5
    assert torch.equal(model.epsilon(t["in.x"], t["in.t"], t["in.y"]), model(t["in.x"], t["in.t"], t["in.y"])[:, :4])
    assert error(sample(model, t["in.x"], t["in.y"], steps=10, sampler="ddim"), t["out.ddim.10"]) < 1e-4


def test_repas_time_and_sign_are_turned_into_ours_without_loss():
    model, t = opened("repa")
    assert error(model(t["in.x"], 1 - t["in.t"], t["in.y"]), -t["out.velocity"]) < 1e-5


def test_raes_time_and_sign_are_turned_into_ours_where_its_noise_is_at_one():
    model, t = opened("ddt", noise_at=1)
    assert error(model(t["in.x"], 1 - t["in.t"], t["in.y"]), -t["out.velocity"]) < 1e-5
    found = fixture("ddt_tiny")
    whole = {"stage_2": {"target": "stage2.models.DDT.DiTwDDTHead", "params": found.config}, "transport": {"params": {}}}
    assert torch.equal(open_transformer("ddt", found.state, whole, "it").wide.final.weight, model.wide.final.weight)


# sizes that no fixture has


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("svg-dit", {"width": 768, "channels": 392}),
        ("svg-dit", {"width": 1152, "channels": 776, "grid": 6}),
        ("sit", {"width": 1024, "channels": 4, "grid": 8, "patch": 2}),
        ("sit", {"width": 768, "channels": 16, "grid": 8, "patch": 4}),
        ("dit", {"width": 1152, "channels": 4, "grid": 12, "patch": 2}),
        ("repa", {"width": 1152, "channels": 4, "grid": 8, "patch": 2}),
        ("repa", {"width": 768, "channels": 8, "grid": 8, "patch": 2, "qk_norm": True}),
        ("lightningdit", {"width": 1152, "channels": 32, "grid": 6}),
        ("lightningdit", {"width": 768, "channels": 16, "grid": 8, "patch": 2, "qk_norm": True}),
        ("lightningdit", {"width": 384, "channels": 16, "grid": 4, "qk_norm": True, "rms": False, "swiglu": False, "rope": False}),
        ("lightningdit", {"width": 384, "channels": 8, "grid": 4, "fourier": True, "sigma": True}),
        ("ddt", {"width": 1152, "channels": 768, "grid": 4, "wide": 2048}),
        ("ddt", {"width": 384, "channels": 1024, "grid": 4, "wide": 1152, "sincos": False}),
        ("ddt", {"width": 384, "channels": 32, "grid": 4, "wide": 384, "qk_norm": True}),
    ],
)
def test_a_release_of_any_size_answers_as_a_plain_network_of_its_names(kind, size):
    torch.manual_seed(0)
    state = release(kind, depth=2, **size)
    model = open_transformer(kind, state, None, "it")  # the named sizes need no config
    x, labels = torch.randn(2, model.channels, model.grid, model.grid), torch.tensor([3, 10])
    t = torch.tensor([0.8, 0.1]) if kind != "dit" else torch.tensor([999, 20])
    heads = {384: 6, 768: 12, 1024: 16, 1152: 16, 2048: 16}
    want = answer(state, x, t, labels, heads=heads[size["width"]], wide_heads=heads[size.get("wide", 384)])
    if kind == "dit":
        got = model(x, t, labels)
    else:
        got, want = model(x, 1 - t if kind == "repa" else t, labels), want[:, : model.channels] * (-1 if kind == "repa" else 1)
    assert error(got, want) < 1e-4
    assert want.abs().max() > 0.1


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.kind}-{shape.width}")
def test_a_release_at_full_depth_is_known_by_its_names_and_has_its_published_parameters(shape):
    with torch.device("meta"):
        state = layout(shape.kind, classes=1000, **shape.size)
        sizes = sizes_of(shape.kind, state, {}, "it")
        model = SiT(**sizes)
    names = [name for names in official_names(shape.kind, sizes, model.state_dict()).values() for name in names]
    fixed = {name for name in state if name == "pos_embed" or "rope.freqs" in name or name.startswith("projectors.")}
    assert sorted(names) == sorted(state.keys() - fixed)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(shape.millions, rel=0.01)


# words and files that are off

SMALL = {"width": 64, "channels": 4, "grid": 4}  # of no named size


def refusal(kind, state, config=None, error=BadWeights):
    with pytest.raises(error) as caught:
        open_transformer(kind, state, config, "file.pt")
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


def test_a_kind_nobody_released_is_refused_with_the_closest():
    assert "Did you mean 'lightningdit'" in refusal("lightning-dit", {}, error=UnknownName)


def test_a_file_of_another_kind_is_named():
    text = refusal("sit", release("svg-dit", depth=1, **SMALL), {"num_heads": 4})
    assert "svg-dit" in text and "x_embedder.proj.weight" in text
    assert "'ddt'" in refusal("ddt", release("sit", depth=1, patch=2, **SMALL))
    assert "file.pt" in refusal("sit", {"conv1.weight": torch.zeros(3)})


def test_missing_surplus_and_misshapen_tensors_are_counted_and_named():
    state = release("sit", depth=2, patch=2, **SMALL)
    del state["blocks.1.mlp.fc2.bias"]
    state["blocks.0.attn.proj.bias"] = torch.zeros(3)
    state["head.weight"] = torch.zeros(3)
    text = refusal("sit", state, {"num_heads": 4})
    assert "1 missing (blocks.1.mlp.fc2.bias)" in text and "1 unexpected (head.weight)" in text
    assert "1 with another shape (blocks.0.attn.proj.bias is (3,))" in text


def test_a_file_that_ends_in_the_middle_of_its_blocks_is_refused():
    state = release("sit", depth=3, patch=2, **SMALL)
    assert "no block 1" in refusal("sit", {name: value for name, value in state.items() if not name.startswith("blocks.1.")})


def test_numbers_that_are_not_finite_are_refused():
    state = release("sit", depth=1, patch=2, **SMALL)
    state["blocks.0.attn.qkv.weight"][0, 0] = torch.nan
    assert "not finite" in refusal("sit", state, {"num_heads": 4})


def test_heads_that_nothing_tells_are_asked_for():
    assert "num_heads in the config" in refusal("sit", release("sit", depth=1, patch=2, **SMALL))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"depth": 3, "num_heads": 4}, "depth 1"),
        ({"in_channels": 16, "num_heads": 4}, "in_channels 4"),
        ({"num_classes": 100, "num_heads": 4}, "num_classes 10"),
        ({"variant": "SiT-XL/2"}, "hidden_size 64"),
        ({"use_swiglu": True, "num_heads": 4}, "use_swiglu"),
        ({"use_rope": True, "num_heads": 4}, "use_rope"),
        ({"variant": "SiT-XXL/2"}, "SiT-XXL/2"),
        ({"num_head": 4}, "Did you mean 'num_heads'"),
        ({"num_heads": 4, "noise_at": 2}, "noise_at"),
        ({"num_heads": 5}, "64 with 5 heads"),
    ],
)
def test_a_config_that_the_tensors_contradict_is_refused(config, words):
    assert words in refusal("sit", release("sit", depth=1, patch=2, **SMALL), config, BadConfig)


def test_networks_without_shifts_and_with_trained_positions_are_refused():
    state = release("lightningdit", depth=1, **{**SMALL, "width": 384})
    assert "wo_shift" in refusal("lightningdit", state, {"wo_shift": True})
    narrow = {n: v[: 4 * 384] if ".adaLN_modulation" in n and n.startswith("blocks") else v for n, v in state.items()}
    assert "wo_shift" in refusal("lightningdit", narrow)
    state["pos_embed"] = state["pos_embed"] + 0.1
    assert "pos_embed is not the fixed position embedding" in refusal("lightningdit", state)


@pytest.mark.parametrize("kind, size", [("sit", {}), ("lightningdit", {}), ("ddt", {"wide": 768}), ("repa", {})])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("widened", [False, True])
def test_half_precision_throughout_opens_and_answers_as_its_own_numbers(kind, size, stored, widened):
    """Tables of places are held against ours within the rounding of the type, also where the file was widened again afterwards; what is
    turned in the weights is turned in single precision."""
    whole = release(kind, width=384, depth=2, channels=4, grid=4, **size)
    half = {name: value.to(stored) for name, value in whole.items()}
    state = {name: value.float() for name, value in half.items()} if widened else half
    config = {"noise_at": 1}
    exact = {name: value if "pos_embed" in name or "freqs" in name else half[name].float() for name, value in whole.items()}
    inputs = torch.randn(2, 4, 4, 4), torch.tensor([0.3, 0.7]), torch.tensor([1, 2])
    found, wanted = (open_transformer(kind, one, config, "it")(*inputs) for one in (state, exact))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_a_table_off_by_more_than_its_rounding_is_refused(stored):
    state = release("sit", width=384, depth=1, channels=4, grid=4)
    state["pos_embed"] = (state["pos_embed"] + 0.003).to(stored)
    assert "pos_embed is not the fixed position embedding" in refusal("sit", state)


def test_configs_are_read_as_lightningdit_writes_them():
    state = release("lightningdit", depth=1, **{**SMALL, "width": 384})
    written = {"model": {"use_qknorm": False, "use_swiglu": True, "use_rope": True, "use_rmsnorm": True, "wo_shift": False, "in_chans": 4}}
    model = open_transformer("lightningdit", state, written, "it")
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    assert "hidden_size" in refusal("lightningdit", state, {"model": {"model_type": "LightningDiT-XL/1"}}, BadConfig)


def test_the_sizes_of_an_opened_release_build_it_again():
    state = release("ddt", depth=2, width=384, channels=32, grid=4, wide=768)
    sizes = json.loads(json.dumps(sizes_of("ddt", state, {}, "it")))
    SiT(**sizes).load_state_dict(open_transformer("ddt", state, None, "it").state_dict())


@pytest.mark.parametrize("other", [None, torch.zeros(()), torch.zeros(3, 5)], ids=["absent", "number", "matrix"])
def test_a_file_with_any_one_tensor_absent_or_of_another_shape_is_refused_in_a_sentence(other):
    state = release("ddt", width=64, wide=384, depth=1, channels=4, grid=2)
    open_transformer("ddt", state, None, "it")
    for name in state.keys() | {"blocks.one.attn.qkv.weight", "blocks.7"}:
        table = name == "pos_embed" or "rope.freqs" in name
        broken = {n: v for n, v in state.items() if n != name} | ({} if other is None else {name: other})
        if other is not None or (name in state and not table):
            refusal("ddt", broken, None, (BadWeights, BadConfig))
