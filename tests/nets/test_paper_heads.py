"""The paper's dense heads: the same functions as mmsegmentation's FPNHead and Xie et al.'s depth head carrying the same weights."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import in_ranks

from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch
from svgbench.nets.paper_heads import DeconvHead, FpnHead, SharedBatchNorm
from svgbench.stages.segmentation import pixel_cross_entropy

GENERATOR = torch.Generator().manual_seed(0)


def shaken(module: nn.Module) -> nn.Module:
    """A module with every number of its state drawn anew; variances positive."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=GENERATOR) * 0.3)
            if name.endswith("var"):
                tensor.abs_().add_(0.1)
    return module


def semantic_fpn(state: dict[str, Tensor], x: Tensor, *, training: bool) -> Tensor:
    """mmsegmentation's FPNHead of one scale, from its description: ConvModule (3x3, batch norm, ReLU), then ``conv_seg``."""
    bn = "scale_heads.0.0.bn."
    x = F.conv2d(x, state["scale_heads.0.0.conv.weight"], None, padding=1)
    x = F.batch_norm(x, state[bn + "running_mean"], state[bn + "running_var"], state[bn + "weight"], state[bn + "bias"], training)
    return F.conv2d(x.relu(), state["conv_seg.weight"], state["conv_seg.bias"])


@pytest.mark.parametrize("training", [False, True])
def test_the_fpn_head_is_its_transcription(training):
    head = shaken(FpnHead(6, 5, width=8, seed=0)).train(training)
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    x = torch.randn(3, 6, 7, 9, generator=GENERATOR)
    torch.testing.assert_close(head(x), semantic_fpn(state, x, training=training), rtol=1e-5, atol=1e-5)
    after = {name: tensor for name, tensor in head.state_dict().items() if "running" in name}
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, state[name])  # F.batch_norm moved its own copy


@pytest.mark.parametrize("training", [False, True])
def test_the_fpn_head_is_mmsegmentations_with_the_same_weights_and_gradients(training):
    pytest.importorskip("mmseg", reason="mmsegmentation is not installed (extra seg)")
    from mmseg.models.decode_heads import FPNHead

    theirs = FPNHead(
        feature_strides=[16], in_channels=[6], in_index=[0], channels=8, num_classes=5, norm_cfg={"type": "BN"}, dropout_ratio=0.0
    ).train(training)
    head = FpnHead(6, 5, width=8, seed=0).train(training)
    head.load_state_dict(shaken(theirs).state_dict())  # strict: the names are the same
    x = torch.randn(3, 6, 7, 9, generator=GENERATOR)
    found, wanted = head(x), theirs([x])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn(found.shape, generator=GENERATOR)
    for output in (found, wanted):
        (output * weights).sum().backward()
    others = dict(theirs.named_parameters())
    for name, one in head.named_parameters():
        torch.testing.assert_close(one.grad, others[name].grad, rtol=1e-4, atol=1e-4)


def test_the_loss_is_mmsegmentations():
    pytest.importorskip("mmseg", reason="mmsegmentation is not installed (extra seg)")
    from mmseg.models.losses import CrossEntropyLoss

    logits = torch.randn(3, 5, 4, 6, generator=GENERATOR)
    targets = torch.randint(0, 5, (3, 4, 6), generator=GENERATOR)
    targets[:, 0] = 255
    found = []
    for runtime in (Runtime(device="cpu"), Runtime(device="cpu", micro_batch=2)):
        leaf = logits.clone().requires_grad_()
        batch = Batch(indices=torch.arange(3), positions=torch.arange(3), size=3)
        found.append((pixel_cross_entropy(lambda rows, leaf=leaf: leaf[rows], targets.byte(), batch, runtime, every=True), leaf.grad))
    theirs = logits.clone().requires_grad_()
    wanted = CrossEntropyLoss()(theirs, targets, ignore_index=255)
    wanted.backward()
    for loss, gradient in found:
        torch.testing.assert_close(loss, wanted.detach())
        torch.testing.assert_close(gradient, theirs.grad)


class PlainDepth(nn.Module):
    """Xie et al.'s head for an encoder of stride 32, from its description: three transposed convolutions of 2 px with batch norm and ReLU,
    a 3x3 convolution with the same, two bilinear doublings, two 3x3 convolutions around a ReLU, a sigmoid times the largest depth."""

    def __init__(self, channels: int, filters: tuple[int, ...], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *filters), filters, strict=False):
            layers += [nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.Conv2d(filters[-1], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False) for _ in range(2)]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(x)) * 10.0


@pytest.mark.parametrize("training", [False, True])
def test_the_depth_head_is_its_sources_at_its_stride(training):
    plain = shaken(PlainDepth(5, (4, 4, 4), 6)).train(training)
    head = DeconvHead(5, stride=32, filters=(4, 4, 4), width=6, farthest=10.0, seed=0).train(training)
    ours = [
        *(pair for pairs in zip(head.deconvolutions, head.norms, strict=True) for pair in pairs),
        head.convolution,
        head.norm,
        *head.last,
    ]
    theirs = [layer for layer in plain.layers if layer.state_dict()]
    for one, other in zip(ours, theirs, strict=True):
        one.load_state_dict(other.state_dict())
    x = torch.randn(2, 5, 3, 4, generator=GENERATOR)
    found = head(x)
    assert found.shape == (2, 1, 96, 128)
    torch.testing.assert_close(found, plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stride", "sides"), [(16, 32), (8, 16), (4, 8), (14, 16)])
def test_the_depth_head_ends_at_the_images_size_for_powers_of_two(stride, sides):
    head = DeconvHead(3, stride=stride, filters=(4, 4, 4), width=4, farthest=5.0, seed=0)
    depth = head(torch.randn(2, 3, 2, 2))
    assert depth.shape == (2, 1, sides, sides)  # 14 px: 2 ** 3 a position, the caller enlarges
    assert depth.min() > 0 and depth.max() < 5


def test_moments_of_two_ranks_are_those_of_one_batch(tmp_path):
    x, weights = torch.randn(5, 3, 4, 4, generator=GENERATOR), torch.randn(5, 3, 4, 4, generator=GENERATOR)

    def ranked():
        runtime = Runtime(device="cpu", threads=1, quiet=True).start()
        norm, rows = SharedBatchNorm(3), slice(0, 5) if runtime.rank else slice(0, 0)  # the first rank has no image
        mine = x[rows].clone().requires_grad_()
        (norm(mine, runtime.all_reduce_) * weights[rows]).sum().backward()
        gradients = [runtime.all_reduce_(norm.weight.grad), runtime.all_reduce_(norm.bias.grad)]
        if runtime.rank:
            made = [*gradients, norm.running_mean, norm.running_var]
            (tmp_path / "made.json").write_text(json.dumps([mine.grad.tolist(), *(tensor.tolist() for tensor in made)]))
        runtime.stop()

    assert in_ranks(2, ranked) == [0, 0]
    plain, whole = nn.BatchNorm2d(3), x.clone().requires_grad_()
    (plain(whole) * weights).sum().backward()
    wanted = [whole.grad, plain.weight.grad, plain.bias.grad, plain.running_mean, plain.running_var]
    for one, other in zip(json.loads((tmp_path / "made.json").read_text()), wanted, strict=True):
        torch.testing.assert_close(torch.tensor(one), other, rtol=1e-4, atol=1e-5)
