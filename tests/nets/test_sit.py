import math

import pytest
import torch

from svgbench.errors import BadConfig
from svgbench.nets.blocks import Attention, TimeEmbedding, grid_positions
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
