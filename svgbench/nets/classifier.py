"""The small convolutional networks shipped with the drawn images: two for ``shapes``, three for ``scenes``.

The Frechet distance of ``shapes`` compares ShapesCNN's features, the perceptual loss compares ShapesVGG's activations. All were trained to
predict everything in a caption (class, colours, number, background, ...), so that their features encode more than the class. The two of
a source differ in architecture, seed and images, so that no decoder is trained on the features with which it is evaluated. The third one
for ``scenes`` has seen no labels and no captions: it was trained by SimCLR (arXiv 2002.05709).
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Self

import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.nets.execution import channels_last


class Seen(NamedTuple):
    """Features [B, 128], class logits [B, classes] and caption-word logits [B, words]."""

    features: Tensor
    logits: Tensor
    words: Tensor


class _Naming(nn.Module):
    """Base class of both: heads ``logits`` (classes) and ``words``, with sizes read from a state dict."""

    @classmethod
    def filled(cls, state: dict[str, Tensor]) -> Self:
        """The network with the weights of a state dict (half precision is converted to float32), in evaluation mode, without gradients."""
        network = cls(classes=len(state["logits.weight"]), words=len(state["words.weight"]))
        network.load_state_dict(state)
        return network.eval().requires_grad_(False)


class Trunk(nn.Module):
    """A residual network with group norms on 16x16, 8x8 and 4x4 grids; 128 averaged features; other image sizes are resized."""

    dim = 128
    side = 32
    """Side in pixels at which it was trained."""
    strides = (1, 2, 1, 2, 1)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, stride=2, padding=1)
        widths = (32, 32, 64, 64, 128, 128)
        self.blocks = nn.Sequential(*(_Block(*sizes) for sizes in zip(widths, widths[1:], self.strides, strict=False)))
        self.norm = nn.GroupNorm(8, 128)

    def features(self, images: Tensor) -> Tensor:
        """Features [B, 128] of images [B, 3, H, W] in [0, 1]."""
        if images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False)
        return F.silu(self.norm(self.blocks(self.stem(images * 2 - 1)))).mean((2, 3))


class ShapesCNN(Trunk, _Naming):
    """The trunk with heads for the class and the words of the caption."""

    def __init__(self, *, classes: int, words: int) -> None:
        super().__init__()
        self.logits = nn.Linear(128, classes)
        self.words = nn.Linear(128, words)

    def forward(self, images: Tensor) -> Seen:
        """Features, class logits and word logits of images [B, 3, H, W] in [0, 1]."""
        features = self.features(images)
        return Seen(features, self.logits(features), self.words(features))


class _Block(nn.Module):
    """Pre-activation residual block; the first convolution may halve the grid."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, channels), nn.Conv2d(channels, out, 3, stride=stride, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Identity() if (channels, stride) == (out, 1) else nn.Conv2d(channels, out, stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Grid [B, C, h, w] -> [B, out, h / stride, w / stride]."""
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class ShapesVGG(_Naming):
    """A plain convolutional network in the style of VGG (pairs of 3x3 convolutions, ReLU, max pooling, no normalisation) for any image
    size."""

    WIDTHS: ClassVar[tuple[int, ...]] = (16, 32, 64, 128)

    def __init__(self, *, classes: int, words: int) -> None:
        super().__init__()
        ins = (3, *self.WIDTHS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU())
            for i, o in zip(ins, self.WIDTHS, strict=True)
        )
        for module in self.modules():  # without normalisation, He's initialisation keeps the scale through eight layers
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.logits = nn.Linear(self.WIDTHS[-1], classes)
        self.words = nn.Linear(self.WIDTHS[-1], words)

    def activations(self, images: Tensor) -> list[Tensor]:
        """Activations after each stage, for the four widths 16 to 128 [B, 16, H, W] to [B, 128, H/8, W/8], of images [B, 3, H, W] in
        [0, 1]."""
        x, taken = channels_last(images) * 2 - 1, []
        for number, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if number else x)
            taken.append(x)
        return taken

    def forward(self, images: Tensor) -> Seen:
        """Features, class logits and word logits of images [B, 3, H, W] in [0, 1]."""
        features = self.activations(images)[-1].mean((2, 3))
        return Seen(features, self.logits(features), self.words(features))


class ScenesCNN(ShapesCNN):
    """The same for 64 px: the first block halves the grid."""

    side = 64
    strides = (2, 2, 1, 2, 1)


class ScenesSimCLR(Trunk):
    """The trunk of ``ScenesCNN`` alone, trained without labels."""

    side, strides = ScenesCNN.side, ScenesCNN.strides

    @classmethod
    def filled(cls, state: dict[str, Tensor]) -> Self:
        """The network with the weights of a state dict, in evaluation mode, without gradients."""
        network = cls()
        network.load_state_dict(state)
        return network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 128] of images [B, 3, H, W] in [0, 1]."""
        return self.features(images)


class ScenesVGG(ShapesVGG):
    """The same with one more, narrower stage, since images are twice as wide."""

    WIDTHS = (8, 16, 32, 64, 128)


EXTRACTORS: dict[str, type[ShapesCNN]] = {"shapes-cnn": ShapesCNN, "scenes-cnn": ScenesCNN}
SELF_TAUGHT: dict[str, type[ScenesSimCLR]] = {"scenes-simclr": ScenesSimCLR}
PERCEPTUAL: dict[str, type[ShapesVGG]] = {"shapes-lpips": ShapesVGG, "scenes-lpips": ScenesVGG}
"""Networks by the names of the judges that they are."""
