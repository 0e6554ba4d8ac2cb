"""The dense heads of the SVG paper's protocol (arXiv 2510.15301v4, appendix B): mmsegmentation's FPNHead on one scale, and the depth head
of Xie et al. (arXiv 2205.13543; SwinTransformer/MIM-Depth-Estimation, models/model.py), reimplemented.

Both have batch norms after trained layers: moments are those of the global batch on all ranks, and gradients flow through them. A head
therefore has two parts: ``trunk`` processes all crops of a rank at once; ``tail`` (larger maps, no batch norm) can process the result in
pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.nets import draws

Total = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks, in place."""


def one_rank(tensor: Tensor) -> Tensor:
    """The sum over a single rank: the tensor [...] itself."""
    return tensor


class _Total(torch.autograd.Function):
    """The sum over ranks; its gradient on each rank is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, total: Total) -> Tensor:
        ctx.total = total
        return total(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.total(gradients[0].clone()), None


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm that in training uses the moments of the images [B, C, h, w] of all ranks (SyncBN on any device); a rank may have no
    image."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor, total: Total = one_rank) -> Tensor:
        if not self.training:
            return super().forward(x)
        flat = x.transpose(0, 1).flatten(1).double()
        sums = torch.cat([flat.new_full((1,), flat.shape[1]), flat.sum(1), flat.square().sum(1)])
        summed = _Total.apply(sums, total)
        count = summed[0].detach()
        means, squares = (summed[1:] / count).chunk(2)
        variance = (squares - means.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(means.float(), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1).clamp_min(1)).float(), self.momentum)
        scale = self.weight * (variance.float() + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - means.float() * scale)[:, None, None]


class ConvNorm(nn.Module):
    """3x3 convolution without bias, batch norm, ReLU: [B, C, h, w] -> [B, K, h, w]; with the state names of mmcv's ConvModule."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = SharedBatchNorm(outputs)

    def forward(self, x: Tensor, total: Total = one_rank) -> Tensor:
        """[B, K, h, w] of [B, C, h, w]."""
        return self.bn(self.conv(x), total).relu()


class FpnHead(nn.Module):
    """mmsegmentation's FPNHead (Semantic FPN, arXiv 1901.02446) with one scale: latents [B, C, h, w] -> class logits [B, K, h, w]. Its
    state has mmsegmentation's names, so weights can be exchanged. The caller applies dropout to hidden channels."""

    def __init__(self, channels: int, classes: int, *, width: int, seed: int) -> None:
        super().__init__()
        hidden = ConvNorm(channels, width)
        self.scale_heads = nn.ModuleList([nn.ModuleList([hidden])])
        self.conv_seg = nn.Conv2d(width, classes, 1)
        fan = (2 / (9 * width)) ** 0.5  # mmcv's ConvModule: Kaiming, fan out, ReLU
        _draw(hidden.conv, fan, seed, "hidden")
        _draw(self.conv_seg, 0.01, seed, "classes")

    def trunk(self, latents: Tensor, total: Total = one_rank) -> Tensor:
        """Hidden maps [B, width, h, w] of all latents of this rank."""
        (hidden,) = self.scale_heads[0].children()
        return hidden(latents, total)

    def tail(self, hidden: Tensor) -> Tensor:
        """Logits [B, K, h, w] of hidden maps."""
        return self.conv_seg(hidden)

    def forward(self, latents: Tensor) -> Tensor:
        return self.tail(self.trunk(latents))


class DeconvHead(nn.Module):
    """Latents [B, C, h, w] -> depth [B, 1, H, W] in metres: transposed convolutions of stride 2 with batch norm and ReLU, a 3x3
    convolution, bilinear doubling up to the image's size, two 3x3 convolutions and a sigmoid times ``farthest``.

    The source's encoder has stride 32 (three transposed convolutions, two doublings); other strides change the number of doublings.
    """

    def __init__(self, channels: int, *, stride: int, filters: tuple[int, ...], width: int, farthest: float, seed: int) -> None:
        super().__init__()
        doublings = stride.bit_length() - 1  # for a stride that is no power of two: the power of two below it
        filters = filters[:doublings]
        self._farthest, self._doublings = farthest, doublings - len(filters)
        inputs = (channels, *filters)
        self.deconvolutions = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2, bias=False) for a, b in zip(inputs[:-1], filters, strict=True))
        self.norms = nn.ModuleList(SharedBatchNorm(size) for size in filters)
        self.convolution = nn.Conv2d(inputs[-1], width, 3, padding=1, bias=False)  # the norm would remove a bias
        self.norm = SharedBatchNorm(width)
        self.last = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)])
        for number, layer in enumerate([*self.deconvolutions, self.convolution, *self.last]):
            _draw(layer, 0.001, seed, str(number))

    def trunk(self, latents: Tensor, total: Total = one_rank) -> Tensor:
        """Maps [B, width, h', w'] of all latents of this rank, before they are enlarged."""
        for layer, norm in zip(self.deconvolutions, self.norms, strict=True):
            latents = norm(layer(latents), total).relu()
        return self.norm(self.convolution(latents), total).relu()

    def tail(self, hidden: Tensor) -> Tensor:
        """Depth [B, 1, H, W] from the maps of ``trunk``."""
        for _ in range(self._doublings):
            hidden = F.interpolate(hidden, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last[1](self.last[0](hidden).relu()).sigmoid() * self._farthest

    def forward(self, latents: Tensor) -> Tensor:
        return self.tail(self.trunk(latents))


@torch.no_grad()
def _draw(layer: nn.Conv2d | nn.ConvTranspose2d, deviation: float, seed: int, name: str) -> None:
    """Initialises weights from a normal distribution of this standard deviation, by seed and the layer's name; biases are zero."""
    index = torch.zeros(1, dtype=torch.int64)
    layer.weight.copy_(deviation * draws.normal(draws.stream(seed, f"paper/{name}"), index, tuple(layer.weight.shape))[0])
    if layer.bias is not None:
        layer.bias.zero_()
