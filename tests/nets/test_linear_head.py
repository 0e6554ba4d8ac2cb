"""The dense head is torch's batch norm and 1x1 convolution, with moments that add up over micro-batches."""

from __future__ import annotations

import torch
from torch import nn

from svgbench.nets.linear_head import DenseHead, dropped

LATENTS = 3 * torch.randn(5, 6, 4, 7, generator=torch.Generator().manual_seed(0)) + 2


def twin(head: DenseHead) -> nn.Sequential:
    """The same head of torch's own layers."""
    made = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1))
    made[1].load_state_dict({"weight": head.weight, "bias": head.bias})
    return made


def test_training_and_inference_are_those_of_torchs_own_layers():
    head = DenseHead(6, 3, seed=1)
    other = twin(head)
    for _ in range(3):
        moments = head.moments(head.sums(LATENTS))
        torch.testing.assert_close(head(LATENTS, moments), other(LATENTS), rtol=1e-5, atol=1e-6)
        head.follow(moments)
    torch.testing.assert_close(head.mean, other[0].running_mean)
    torch.testing.assert_close(head.variance, other[0].running_var)
    torch.testing.assert_close(head(LATENTS), other.eval()(LATENTS), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_torchs_own_layers():
    head = DenseHead(6, 3, seed=1)
    other = twin(head)
    for net, outputs in ((head, head(LATENTS, head.moments(head.sums(LATENTS)))), (other, other(LATENTS))):
        outputs.square().mean().backward()
        assert all(p.grad is not None for p in net.parameters())
    torch.testing.assert_close(head.weight.grad, other[1].weight.grad)
    torch.testing.assert_close(head.scale.grad, other[0].weight.grad, rtol=1e-4, atol=1e-7)


def test_sums_of_parts_are_those_of_the_whole():
    parts = DenseHead.sums(LATENTS[:2]) + DenseHead.sums(LATENTS[2:]) + DenseHead.sums(LATENTS[:0])
    torch.testing.assert_close(parts, DenseHead.sums(LATENTS), rtol=1e-12, atol=0)


def test_whole_channels_are_dropped_by_position_and_the_mean_is_kept():
    latents, positions = torch.ones(400, 10, 2, 2), torch.arange(400)
    found = dropped(latents, positions, 0.1, 0)
    assert set(found.unique().tolist()) == {0.0, (torch.tensor(1.0) / 0.9).item()}
    assert (found.amax((2, 3)) == found.amin((2, 3))).all()
    assert abs(found.mean().item() - 1) < 0.02
    assert torch.equal(found[100:], dropped(latents[100:], positions[100:], 0.1, 0))
    assert dropped(latents, positions, 0.0, 0) is latents
