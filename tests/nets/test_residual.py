import pytest
import torch

from svgbench.nets.residual import PatchResidual, ResidualEncoder

SMALL = dict(channels=4, layers=2, width=32, heads=4, mlp=48, patch=8, resolution=32)
IMAGES = torch.rand(6, 3, 32, 32)
POSITIONS = torch.arange(40, 46)


def encoder(dropout=0.2, drop=0.5):
    torch.manual_seed(0)
    return ResidualEncoder(**SMALL, dropout=dropout, drop=drop)


def test_the_papers_residual_encoder_has_eleven_million_parameters():
    with torch.device("meta"):
        net = ResidualEncoder(channels=8, layers=6, width=384, heads=8, mlp=1536, dropout=0.1, drop=0.1, patch=16, resolution=256)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(11.2e6, rel=0.01)


def test_without_positions_there_is_no_dropout_whatever_the_mode():
    net = encoder()
    assert net(IMAGES).shape == (6, 4, 4, 4)
    assert torch.equal(net.train()(IMAGES), net.eval()(IMAGES))


def test_dropout_is_a_function_of_seed_and_position():
    net = encoder()
    first = net(IMAGES, POSITIONS, 1)
    assert torch.equal(first, net(IMAGES, POSITIONS, 1))
    assert not torch.allclose(first, net(IMAGES, POSITIONS, 2))
    assert not torch.allclose(first, net(IMAGES, POSITIONS + 6, 1))
    assert not torch.allclose(first, net(IMAGES))


def test_training_residuals_do_not_depend_on_the_micro_batch():
    net = encoder()
    whole = net.replace(net(IMAGES, POSITIONS, 1), POSITIONS, 1)
    parts = [net.replace(net(IMAGES[s], POSITIONS[s], 1), POSITIONS[s], 1) for s in (slice(0, 1), slice(1, 4), slice(4, 6))]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_dropped_residuals_are_the_mask_token_everywhere_and_teach_it():
    net = encoder(drop=0.3)
    with torch.no_grad():
        net.mask_token.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    aligned = torch.zeros(2000, 4, 2, 2)
    replaced = net.replace(aligned, torch.arange(2000), 0)
    dropped = replaced[:, 0, 0, 0] == 1
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(replaced[dropped], net.mask_token[None, :, None, None].expand(int(dropped.sum()), 4, 2, 2))
    assert not replaced[~dropped].any()
    replaced.sum().backward()
    assert torch.equal(net.mask_token.grad, torch.full((4,), 4.0 * dropped.sum()))


def test_a_residual_of_kind_patch_is_linear_in_each_patch_and_is_replaced_like_the_other():
    torch.manual_seed(0)
    net = PatchResidual(channels=4, drop=0.5, patch=8)
    found = net(IMAGES, POSITIONS, 1)
    assert found.shape == (6, 4, 4, 4) and torch.equal(found, net(IMAGES))
    middle = net((IMAGES[:3] + IMAGES[3:]) / 2)
    torch.testing.assert_close(middle, (found[:3] + found[3:]) / 2)
    changed = IMAGES.clone()
    changed[:, :, :8, :8] = 0
    differing = (net(changed) - found).abs().amax((0, 1)) > 1e-6
    assert differing[0, 0] and differing.sum() == 1
    other = encoder()
    assert torch.equal(net.replace(found, POSITIONS, 1) == net.mask_token.view(1, 4, 1, 1), other.replace(found, POSITIONS, 1) == 0)


def test_dropout_keeps_the_mean():
    net = encoder(dropout=0.25)
    from svgbench.nets import draws
    from svgbench.nets.plain_block import Mask, drop

    kept = drop(torch.ones(500, 5, 40), Mask(draws.chance(3, torch.arange(500), (5, 40), 0.75), 0.25))
    assert kept.mean().item() == pytest.approx(1.0, abs=0.01)
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert net._dropout.dropout == 0.25


def test_another_grid_gets_positions_resampled_and_the_trained_one_its_own():
    net = encoder().eval()
    assert net._positions(4, 4) is net.positions
    assert net(torch.rand(2, 3, 64, 48)).shape == (2, 4, 8, 6)
    with torch.no_grad():
        net.positions[:, 1:] = torch.arange(4.0).repeat_interleave(4)[None, :, None]  # the row's number
        found = net._positions(8, 4)
    assert torch.equal(found[:, :1], net.positions[:, :1])
    rows = found[0, 1:, 0].view(8, 4)
    assert (rows[1:] > rows[:-1]).all() and torch.allclose(rows, rows[:, :1].expand(8, 4), atol=1e-5)
    torch.testing.assert_close(rows[2:6:2, 0].diff() / 2, torch.tensor([0.5]), rtol=0.1, atol=0)


def test_dropout_of_attention_weights_is_torch_s_formula_with_masks_by_position():
    from svgbench.nets import draws
    from svgbench.nets.plain_block import BlockMasks, Mask

    net = ResidualEncoder(**{**SMALL, "resolution": 16, "layers": 3}, dropout=0.0, drop=0.0, attention_dropout=0.3)
    block, x = net.blocks[2], torch.randn(6, 5, 32)
    masks = net._masks(POSITIONS, 1, 5)[1][2]
    found = block(x, masks)
    q, k, v = block.qkv(block.norm_1(x)).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    weights = torch.einsum("bhnd,bhmd->bhnm", q, k).div(8**0.5).softmax(-1)
    keep = draws.chance(draws.stream(1, "residual/2/weights"), POSITIONS, (4, 5, 5), 0.7)
    assert keep.float().mean().item() == pytest.approx(0.7, abs=0.06)
    y = x + block.out((weights * keep / 0.7 @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, y + block.down(torch.nn.functional.gelu(block.up(block.norm_2(y)))), rtol=1e-5, atol=1e-5)
    assert isinstance(masks.weights, Mask) and torch.equal(masks.weights.keep, keep) and masks == BlockMasks(weights=masks.weights)


def test_attention_dropout_acts_in_training_alone_and_not_by_micro_batch():
    net = ResidualEncoder(**SMALL, dropout=0.0, drop=0.0, attention_dropout=0.3)
    whole = net(IMAGES, POSITIONS, 1)
    assert not torch.allclose(whole, net(IMAGES)) and torch.equal(net(IMAGES), net.eval()(IMAGES))
    torch.testing.assert_close(torch.cat([net(IMAGES[s], POSITIONS[s], 1) for s in (slice(0, 1), slice(1, 6))]), whole)
