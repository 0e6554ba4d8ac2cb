import math

import pytest
import torch

from svgbench.errors import BadConfig
from svgbench.nets.blocks import Attention, Block, TimeEmbedding, grid_positions, hidden_width, rotary_angles, rotate
from svgbench.nets.sit import SiT

SMALL = dict(channels=6, grid=4, width=32, depth=2, heads=4, classes=5)


def awake(model: SiT) -> SiT:
    """The model with its zero-initialised layers filled, so that every path carries signal."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return model


def test_velocity_has_the_latents_shape_and_starts_at_zero():
    model = SiT(**SMALL)
    velocity = model(torch.randn(3, 6, 4, 4), torch.rand(3), torch.tensor([0, 4, 5]))
    assert velocity.shape == (3, 6, 4, 4)
    assert not velocity.any()


def test_blocks_begin_as_the_identity():
    model = SiT(**SMALL)
    tokens, modulation = torch.randn(2, 16, 32), torch.zeros(2, 6, 32)
    assert torch.equal(model.blocks[0](tokens, modulation), tokens)


@pytest.mark.parametrize("patch", [1, 2])
def test_patches_and_output_keep_each_position_at_its_place(patch):
    model = SiT(**{**SMALL, "patch": patch})
    x = torch.randn(2, 6, 4, 4)
    tokens = model.tokens(x)
    assert tokens.shape == (2, 16 // patch**2, 6 * patch**2)
    channel_last = tokens.unflatten(2, (6, patch * patch)).transpose(2, 3).flatten(2)
    assert torch.equal(model.latents(channel_last), x)
    weight = torch.randn(7, 6, patch, patch)
    by_convolution = torch.nn.functional.conv2d(x, weight, stride=patch).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens @ weight.flatten(1).T, by_convolution)


def test_time_and_label_and_place_all_matter():
    model = awake(SiT(**SMALL))
    x, t, labels = torch.randn(1, 6, 4, 4), torch.tensor([0.3]), torch.tensor([1])
    velocity = model(x, t, labels)
    assert not torch.allclose(velocity, model(x, t + 0.2, labels))
    assert not torch.allclose(velocity, model(x, t, labels + 1))
    assert not torch.allclose(velocity.flip(-1), model(x.flip(-1), t, labels))


def test_a_velocity_does_not_depend_on_batch_mates():
    model = awake(SiT(**SMALL))
    x, t, labels = torch.randn(4, 6, 4, 4), torch.rand(4), torch.tensor([0, 1, 2, 5])
    torch.testing.assert_close(model(x, t, labels)[2:3], model(x[2:3], t[2:3], labels[2:3]))


def test_attention_is_the_softmax_of_normalised_queries_and_keys():
    layer = Attention(16, 2, qk_norm=True)
    x = torch.randn(2, 5, 16)
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    heads = []
    for h in range(2):
        part = slice(8 * h, 8 * h + 8)
        scores = layer.q_norm(q[..., part]) @ layer.k_norm(k[..., part]).transpose(1, 2) / math.sqrt(8)
        heads.append(scores.softmax(-1) @ v[..., part])
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(heads, -1)))


def test_position_and_time_embeddings_are_the_published_sines():
    table = grid_positions(8, 3)
    row, column, omega = 2, 1, 10000**-0.5
    expected = [f(p * w) for p in (column, row) for f in (math.sin, math.cos) for w in (1, omega)]
    torch.testing.assert_close(table[row * 3 + column], torch.tensor(expected))
    embedding = TimeEmbedding(8)
    assert embedding.frequencies[0] == 1 and embedding.frequencies[64].item() == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("width", "depth", "heads", "millions"), [(384, 12, 6, 33), (768, 12, 12, 131), (1024, 24, 16, 459), (1152, 28, 16, 676)]
)
def test_sizes_hold_the_published_parameters(width, depth, heads, millions):
    with torch.device("meta"):
        model = SiT(channels=392, grid=16, width=width, depth=depth, heads=heads, classes=1000)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=1)


def test_an_xl_training_step_stays_within_its_flops():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = SiT(channels=392, grid=16, width=1152, depth=28, heads=16, classes=1000)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(2, 392, 16, 16), torch.empty(2), torch.zeros(2, dtype=torch.int64)).sum().backward()
    assert counter.get_total_flops() / 2 <= 716e9


def test_half_precision_arithmetic_stays_near_full():
    model = awake(SiT(**SMALL))
    x, t, labels = torch.randn(2, 6, 4, 4), torch.rand(2), torch.tensor([0, 1])
    full = model(x, t, labels)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, t, labels)
    assert (half.float() - full).abs().max() < 0.05 * full.abs().max()


def test_sizes_that_do_not_fit_are_refused_in_one_sentence():
    with pytest.raises(BadConfig, match="does not divide into tokens"):
        SiT(**{**SMALL, "patch": 3})
    with pytest.raises(BadConfig, match="width 30"):
        SiT(**{**SMALL, "width": 30})


# the choices in which the released networks differ

CHOICES = [
    {"norm": "rms"},
    {"norm": "rms", "qk_norm": False},
    {"mlp": "swiglu"},
    {"position": "rope"},
    {"position": "both"},
    {"time": "fourier"},
    {"learned_sigma": True},
    {"patch": 2, "learned_sigma": True},
    {"wide": {"width": 48, "depth": 2, "heads": 4}},
    {"wide": {"width": 32, "depth": 1, "heads": 4}, "position": "rope", "norm": "rms", "mlp": "swiglu", "time": "fourier"},
]


def named(choice):
    return ",".join(f"{name}={value if not isinstance(value, dict) else value['width']}" for name, value in choice.items())


def test_the_default_network_keeps_its_names_first_weights_and_numbers():
    torch.manual_seed(0)
    model = SiT(**SMALL)
    assert len(model.state_dict()) == 37 and {name.split(".")[0] for name in model.state_dict()} == {
        "patches", "time", "labels", "blocks", "modulation", "final_modulation", "final",
    }  # fmt: skip
    weights = (model.patches.weight, model.labels.weight, model.blocks[1].mlp.fc2.weight)
    assert [weight.abs().sum().item() for weight in weights] == pytest.approx([40.20598, 2.96322, 398.16077], rel=1e-5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    x, t = torch.randn(3, 6, 4, 4, generator=generator), torch.rand(3, generator=generator)
    velocity = model(x, t, torch.tensor([0, 1, 5]))
    assert [velocity.sum().item(), velocity.std().item()] == pytest.approx([-146.09671, 1.8229449], rel=1e-4)


@pytest.mark.parametrize("choice", CHOICES, ids=named)
def test_every_choice_starts_at_zero_velocity_and_keeps_batch_mates_apart(choice):
    model = SiT(**{**SMALL, **choice})
    x, t, labels = torch.randn(4, 6, 4, 4), torch.rand(4), torch.tensor([0, 1, 2, 5])
    assert model(x, t, labels).shape == x.shape and not model(x, t, labels).any()
    awake(model)
    assert model(x, t, labels).abs().min() > 0
    torch.testing.assert_close(model(x, t, labels)[2:3], model(x[2:3], t[2:3], labels[2:3]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("choice", CHOICES, ids=named)
def test_every_weight_of_every_choice_has_a_part_in_the_velocity(choice):
    model = awake(SiT(**{**SMALL, **choice}))
    model(torch.randn(2, 6, 4, 4), torch.rand(2), torch.tensor([0, 5])).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("choice", CHOICES, ids=named)
def test_every_choice_sees_time_label_and_place(choice):
    model = awake(SiT(**{**SMALL, **choice}))
    x, t, labels = torch.randn(1, 6, 4, 4), torch.tensor([0.3]), torch.tensor([1])
    velocity = model(x, t, labels)
    for other in (model(x, t + 0.2, labels), model(x, t, labels + 1), model(x.flip(-1), t, labels).flip(-1)):
        assert not torch.allclose(velocity, other, rtol=1e-3)


@pytest.mark.parametrize("choice", CHOICES, ids=named)
def test_every_choice_computes_near_the_same_in_half_precision(choice):
    model = awake(SiT(**{**SMALL, **choice}))
    x, t, labels = torch.randn(2, 6, 4, 4), torch.rand(2), torch.tensor([0, 1])
    full = model(x, t, labels)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, t, labels)
    assert (half.float() - full).abs().max() < 0.1 * full.abs().max()


def test_a_learned_variances_numbers_come_after_the_velocity():
    model = awake(SiT(**{**SMALL, "learned_sigma": True, "patch": 2}))
    x, t, labels = torch.randn(2, 6, 4, 4), torch.rand(2), torch.tensor([0, 1])
    outputs = model.outputs(x, t, labels)
    assert outputs.shape == (2, 12, 4, 4) and torch.equal(outputs[:, :6], model(x, t, labels))


@pytest.mark.parametrize("choice", [{}, *CHOICES[-2:]], ids=named)
def test_a_tap_gives_the_tokens_after_its_block_and_changes_no_velocity(choice):
    model = awake(SiT(**{**SMALL, **choice}))
    x, t, labels = torch.randn(2, 6, 4, 4), torch.rand(2), torch.tensor([0, 1])
    seen = []
    model.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    velocity, tokens = model(x, t, labels, tap=1)
    assert torch.equal(velocity, model(x, t, labels)) and torch.equal(tokens, seen[0]) and tokens.shape == (2, 16, 32)
    assert torch.equal(model.outputs(x, t, labels, tap=1).tokens, tokens)
    with pytest.raises(BadConfig, match="after block 3"):
        model(x, t, labels, tap=3)


def test_rotary_attention_sees_only_how_far_apart_two_places_are():
    angles, q, k = rotary_angles(8, 5), torch.randn(8), torch.randn(8)
    turned_q, turned_k = (rotate(v.expand(25, 8), angles) for v in (q, k))
    scores = turned_q @ turned_k.T
    place = lambda row, column: 5 * row + column  # noqa: E731
    torch.testing.assert_close(scores[place(0, 1), place(2, 2)], scores[place(1, 3), place(3, 4)])
    assert not torch.isclose(scores[place(0, 1), place(2, 2)], scores[place(2, 2), place(0, 1)])
    torch.testing.assert_close(turned_q.norm(dim=1), q.norm().expand(25))


def test_swiglu_holds_as_many_weights_as_gelu_to_a_hundredth():
    blocks = [Block(192, 3, mlp_ratio=4.0, qk_norm=False, mlp=kind) for kind in ("gelu", "swiglu")]
    gelu, swiglu = (sum(p.numel() for p in block.parameters()) for block in blocks)
    assert swiglu == pytest.approx(gelu, rel=0.01)
    assert [hidden_width(width, 4.0, "swiglu") for width in (256, 192, 320, 1152)] == [682, 512, 853, 3072]


def test_drawn_time_frequencies_are_kept_with_the_weights_and_never_trained():
    model = SiT(**{**SMALL, "time": "fourier"})
    assert "time.frequencies" in model.state_dict() and "time.frequencies" not in dict(model.named_parameters())
    other = SiT(**{**SMALL, "time": "fourier"})
    t = torch.rand(3)
    assert not torch.equal(other.time(t), model.time(t))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.time(t), model.time(t))


def test_raes_published_size_is_reached():
    with torch.device("meta"):
        wide = {"width": 2048, "depth": 2, "heads": 16}
        more = {"norm": "rms", "mlp": "swiglu", "position": "both", "time": "fourier", "qk_norm": False}
        model = SiT(channels=768, grid=16, width=1152, depth=28, heads=16, classes=1000, wide=wide, **more)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(839, rel=0.01)  # RAE, table 4: DiT-DH-XL


def test_choices_that_do_not_fit_are_refused_in_one_sentence():
    with pytest.raises(BadConfig, match="width is a multiple of 4"):
        SiT(**{**SMALL, "width": 24, "position": "rope"})
    with pytest.raises(BadConfig, match="wide head of width 50"):
        SiT(**{**SMALL, "wide": {"width": 50, "depth": 2, "heads": 4}})


def test_compiling_the_blocks_compiles_the_wide_heads_too():
    model = SiT(**{**SMALL, **CHOICES[-2]})
    compiled = []
    for block in [*model.blocks, *model.wide.blocks]:
        block.compile = lambda block=block: compiled.append(block)
    model.compile_blocks()
    assert len(compiled) == 4
