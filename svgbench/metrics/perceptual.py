"""Perceptual distance of a reconstruction to its original: LPIPS, or the same formula on a network trained on the drawn images.

    d = sum over layers of mean over positions of  w . (a / |a| - b / |b|)^2    (arXiv 1801.03924)

Protocol: uint8 images of the validation set are compared with their reconstructions. ``lpips``: VGG16 on images that are not resized, five
layers, the linear weights of LPIPS v0.1; same values as the package lpips. ``shapes-lpips``: the small VGG-like classifier of the drawn
images, with weight 1 for every channel; this is a different distance, never compared with LPIPS. Limit: decoders are trained with the same
network in their loss, which lowers their distance, as usual with LPIPS.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from svgbench.errors import BadData, BadWeights
from svgbench.metrics.features import full_precision
from svgbench.metrics.judges import head_widths, identity, weights_file
from svgbench.metrics.protocol import Judge
from svgbench.nets.critic import perceptual_distance
from svgbench.nets.execution import channels_last
from svgbench.weights.files import fill, read

VGG_TAPS = {3: 64, 8: 128, 15: 256, 22: 512, 29: 512}
"""Index of a ReLU in torchvision's VGG16 whose output is compared -> its channels."""
VGG_SHIFT = (-0.030, -0.088, -0.188)
VGG_SCALE = (0.458, 0.448, 0.450)
"""Mean and standard deviation with which LPIPS normalises pixels in [-1, 1] (its ScalingLayer)."""


@dataclass(frozen=True, kw_only=True)
class Perceptual:
    """A distance between images: calling it on two uint8 [B, 3, H, W] gives [B] float64."""

    name: str
    digest: str
    activations: Callable[[Tensor], list[Tensor]]
    """[B, 3, H, W] in [0, 1] -> activations [B, C_l, h_l, w_l]."""
    weights: list[Tensor] | None
    """[C_l] per layer; None: 1 for every channel."""
    device: torch.device

    @property
    def judge(self) -> Judge:
        """The network as protocols name it."""
        return Judge(name=self.name, digest=self.digest)

    @torch.inference_mode()
    def __call__(self, images: Tensor, originals: Tensor) -> Tensor:
        if images.shape != originals.shape or images.dtype != torch.uint8 or originals.dtype != torch.uint8:
            shapes = " and ".join(f"{list(x.shape)} {x.dtype}" for x in (images, originals))
            raise BadData(f"{shapes} do not pair; both must be uint8 [B, 3, H, W].")
        with full_precision():
            ours, theirs = (self.activations(x.to(self.device).float() / 255) for x in (images, originals))
        return perceptual_distance(ours, theirs, self.weights)


def load_perceptual(name: str, weights: str | Path | None = None, device: torch.device | str = "cpu") -> Perceptual:
    """``lpips`` (``weights``: torchvision's VGG16 file) or the small network of drawn images: ``shapes-lpips``, ``scenes-lpips``."""
    path = weights_file("pairs", name, weights)
    digest, device = identity("pairs", name, path), torch.device(device)
    if name == "lpips":
        taps, linear = _vgg(path).to(device), [weight.to(device) for weight in _linear_weights()]
        return Perceptual(name=name, digest=digest, activations=taps, weights=linear, device=device)
    from svgbench.nets.classifier import PERCEPTUAL

    state = read(path)
    network = PERCEPTUAL[name](**head_widths(state, path))
    fill(network, state, where=str(path))
    network.requires_grad_(False).eval().to(device)
    return Perceptual(name=name, digest=digest, activations=network.activations, weights=None, device=device)


class VggTaps(torch.nn.Module):
    """VGG16's five ReLU outputs of images [B, 3, H, W] in [0, 1]."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg16

        self.features = vgg16(weights=None).features[: max(VGG_TAPS) + 1]
        self.register_buffer("shift", torch.tensor(VGG_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(VGG_SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, taps = (2 * channels_last(images) - 1 - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in VGG_TAPS:
                taps.append(x)
        return taps


def _vgg(path: Path) -> VggTaps:
    """The network with the weights of torchvision's file; the classifier's weights are not used."""
    network = VggTaps()
    fill(network, {name: value for name, value in read(path).items() if name.startswith("features.")}, where=str(path))
    return network.requires_grad_(False).eval()


def _linear_weights() -> list[Tensor]:
    """Five vectors [C_l] from the package lpips."""
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None:
        raise BadWeights("lpips needs its linear weights, which are inside the package 'lpips': pip install 'svgbench[lpips]'.")
    state = read(Path(package.origin).parent / "weights" / "v0.1" / "vgg.pth")
    return [state[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(VGG_TAPS))]
