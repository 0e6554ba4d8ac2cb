"""Loss of stage 1: L1 + perceptual + adaptive hinge-GAN (Esser et al., arXiv 2012.09841), without the released loops' redundant work.

All losses depend on the reconstruction, so each is differentiated once with respect to it. With W the weight of the decoder's last layer,
the adaptive weight |dL_rec/dW| / (|dL_gan/dW| + 1e-4) needs only these two gradients propagated through that layer; the decoder's backward
pass then runs once, on their weighted sum. Losses are sums over images divided by the GLOBAL batch size, so they add up over micro-batches
and ranks, and so do the two gradients at W that determine the adaptive weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from svgbench.nets.execution import channels_last, compiled
from svgbench.nets.ldm import AutocastGroupNorm, LdmDecoder
from svgbench.nets.vit_decoder import ViTDecoder

ADAPTIVE_LIMIT = 1e4
"""Largest adaptive weight in the code of VQGAN (arXiv 2012.09841)."""


class PerceptualJudge(Protocol):
    """The network whose activations the perceptual loss compares."""

    @property
    def activations(self) -> Callable[[Tensor], Sequence[Tensor]]:
        """Images [B, 3, H, W] in [0, 1] -> feature maps [B, C_l, h_l, w_l]."""

    @property
    def weights(self) -> Sequence[Tensor] | None:
        """[C_l] per layer."""


class PatchDiscriminator(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] -> one logit per patch [B, 1, h, w] (Isola et al., arXiv 1611.07004).

    Group norm instead of batch norm: a logit depends only on its own image, so micro-batches and ranks give the same update as one big
    batch.
    """

    def __init__(self, base: int = 64, layers: int = 3) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, base, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = base
        for number in range(1, layers + 1):
            wider = base * min(2**number, 8)
            parts += [
                nn.Conv2d(width, wider, 4, stride=2 if number < layers else 1, padding=1, bias=False),
                AutocastGroupNorm(min(8, wider), wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        self.network = nn.Sequential(*parts, nn.Conv2d(width, 1, 4, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(channels_last(images))


def perceptual_distance(first: Sequence[Tensor], second: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Tensor:
    """[B] float64: squared differences of channel-normalised activations, weighted per channel ([C_l], or 1), averaged over positions,
    summed over layers (LPIPS, arXiv 1801.03924)."""
    total = torch.zeros(len(first[0]), dtype=torch.float64, device=first[0].device)
    for layer, (a, b) in enumerate(zip(first, second, strict=True)):
        difference = (_unit(a.float()) - _unit(b.float())) ** 2
        weighted = difference if weights is None else difference * weights[layer].view(1, -1, 1, 1)
        total = total + weighted.sum(1).double().mean((1, 2))
    return total


def _unit(x: Tensor) -> Tensor:
    """Normalises the channels of each position to unit length; the root stays above zero, where it has no gradient."""
    return x / (x.square().sum(1, keepdim=True) + 1e-20).sqrt().add(1e-10)


class Gradients(NamedTuple):
    """Gradients of a micro-batch's losses with respect to its reconstruction, and the losses."""

    reconstruction: Tensor
    """dL_rec/dy [B, 3, H, W]."""
    adversarial: Tensor | None
    """dL_gan/dy [B, 3, H, W]."""
    losses: dict[str, Tensor]


class ReconstructionObjective:
    """The generator's and the discriminator's losses for decoder outputs y [B, 3, H, W] in [-1, 1] and originals in [0, 1]."""

    def __init__(
        self,
        *,
        l1: float,
        perceptual: float,
        adversarial: float,
        judge: PerceptualJudge | None,
        discriminator: PatchDiscriminator | None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """``autocast``: the context of both networks; the losses are fp32."""
        self.l1, self.perceptual, self.adversarial = l1, perceptual, adversarial
        self._judge, self._discriminator, self._autocast = judge, discriminator, autocast
        self._distance = self._perceptual_distance

    def compile_distance(self) -> None:
        """Compiles the perceptual distance, which then keeps no intermediate results of the size of the activations."""
        self._distance = compiled(self._distance)

    def _perceptual_distance(self, *activations: Tensor) -> Tensor:
        """``perceptual_distance`` of the first half of these to the second."""
        assert self._judge is not None
        half = len(activations) // 2
        return perceptual_distance(activations[:half], activations[half:], self._judge.weights)

    def _activations(self, images: Tensor) -> Sequence[Tensor]:
        assert self._judge is not None
        with self._autocast():
            return self._judge.activations(images)

    def _logits(self, images: Tensor) -> Tensor:
        assert self._discriminator is not None
        with self._autocast():
            return self._discriminator(images).float()

    def gradients(self, y: Tensor, originals: Tensor, *, size: int, gan: bool) -> Gradients:
        """Gradients with respect to the decoder's output y [B, 3, H, W], detached from its graph, for originals [B, 3, H, W]. ``size``:
        number of images in the global batch."""
        leaf = y.detach().requires_grad_()
        target = originals * 2 - 1
        losses = {"l1": (leaf - target).abs().mean((1, 2, 3)).sum() / size}
        total = self.l1 * losses["l1"]
        if self.perceptual and self._judge is not None:
            with torch.no_grad():
                wanted = self._activations(originals)
            losses["perceptual"] = self._distance(*self._activations(leaf * 0.5 + 0.5), *wanted).sum() / size
            total = total + self.perceptual * losses["perceptual"]
        (reconstruction,) = torch.autograd.grad(total, leaf)
        adversarial = None
        if gan:
            losses["generator"] = -self._logits(leaf.view_as(leaf)).mean((1, 2, 3)).sum() / size
            (adversarial,) = torch.autograd.grad(losses["generator"], leaf)
        return Gradients(reconstruction, adversarial, {name: value.detach() for name, value in losses.items()})

    def discriminate(self, y: Tensor, originals: Tensor, *, size: int) -> Tensor:
        """The discriminator's hinge loss [] on originals and decoded images y, [B, 3, H, W] each; y gets no gradient."""
        real, fake = self._logits(torch.cat([originals * 2 - 1, y.detach()])).chunk(2)
        return 0.5 * (F.relu(1 - real).mean((1, 2, 3)) + F.relu(1 + fake).mean((1, 2, 3))).sum() / size


def last_layer_gradients(decoder: LdmDecoder | ViTDecoder, hidden: Tensor, at_output: Gradients) -> Tensor:
    """[2, weights] fp32: the gradients of L_rec and L_gan with respect to the weight of the last layer, whose input was ``hidden``. The
    products run in the layer's precision, also under autocast."""
    layer = decoder.conv_out
    assert at_output.adversarial is not None
    both = (at_output.reconstruction, at_output.adversarial)
    if isinstance(layer, nn.Conv2d):
        gradients = [conv2d_weight(hidden.detach(), layer.weight.shape, g.to(hidden.dtype), padding=1) for g in both]
    else:
        with torch.enable_grad():  # recomputes the linear layer, which is cheap compared with the transformer before it
            y = layer(hidden.detach())
        gradients = [torch.autograd.grad(y, layer.weight, g.to(y.dtype), retain_graph=g is both[0])[0] for g in both]
    return torch.stack([gradient.float().flatten() for gradient in gradients])


def adaptive_weight(gradients: Tensor, limit: float | None = None) -> Tensor:
    """|dL_rec/dW| / (|dL_gan/dW| + 1e-4) [], at most ``limit`` (None: 1e4), from the global batch's gradients [2, weights]."""
    norms = gradients.norm(dim=1)
    return (norms[0] / (norms[1] + 1e-4)).clamp(0.0, ADAPTIVE_LIMIT if limit is None else limit)
