"""Closed formulas for the cost of the networks: floating-point operations per image and numbers of parameters. No torch.

One multiply-add is two operations. Matrix products, convolutions and attention are counted, as in torch's flop counter (tests compare every
formula with it); norms, activations and optimisers are not. Backward passes are counted without the recomputation in fused attention (0.6 %
of a SiT-XL update).
"""

from __future__ import annotations

from dataclasses import dataclass

from svgbench.config.cards import EncoderCard
from svgbench.config.networks import Decoder, Residual, Transformer, VitDecoder
from svgbench.config.schema import Mar, ReconstructionLoss

DERIVATIVE = 3.0
"""Operations of MeanFlow's forward-mode derivative, in forward passes, as torch executes it."""
FREQUENCIES = 256
"""Dimension of DiT's time embedding; RAE's is twice as large."""
VGG = (64, 64, -1, 128, 128, -1, 256, 256, 256, -1, 512, 512, 512, -1, 512, 512, 512)
"""Widths of VGG16's convolutions; -1 halves the grid (Simonyan and Zisserman, arXiv 1409.1556)."""
PERCEPTUAL = {
    "lpips": VGG,
    "shapes-lpips": (16, 16, -1, 32, 32, -1, 64, 64, -1, 128, 128),
    "scenes-lpips": (8, 8, -1, 16, 16, -1, 32, 32, -1, 64, 64, -1, 128, 128),
}
"""The same for every network of a perceptual distance."""


@dataclass(frozen=True)
class Work:
    """Operations per image, forward and backward, and number of parameters. Supports addition."""

    forward: float = 0.0
    backward: float = 0.0
    """Gradients of weights, and of inputs if they are needed."""
    parameters: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.backward + other.backward, self.parameters + other.parameters)

    def __mul__(self, times: int) -> Work:
        return Work(self.forward * times, self.backward * times, self.parameters * times)

    @property
    def training(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def held(parameters: int) -> Work:
    """Parameters without matrix products: embeddings, norms."""
    return Work(parameters=parameters)


def linear(rows: float, inputs: int, outputs: int, *, first: bool = False) -> Work:
    """A linear layer on ``rows`` tokens; ``first``: no earlier layer is trained, so its inputs need no gradient."""
    forward = 2.0 * rows * inputs * outputs
    return Work(forward, forward * (1 if first else 2), inputs * outputs + outputs)


def convolution(side: int, inputs: int, outputs: int, kernel: int, *, first: bool = False, bias: bool = True) -> Work:
    """A convolution with ``side`` by ``side`` output positions."""
    forward = 2.0 * side * side * inputs * outputs * kernel**2
    return Work(forward, forward * (1 if first else 2), inputs * outputs * kernel**2 + outputs * bias)


def mixing(tokens: float, width: int) -> Work:
    """The two products inside self-attention."""
    return Work(4.0 * tokens**2 * width, 8.0 * tokens**2 * width)


def plain_block(tokens: float, width: int, mlp: int) -> Work:
    """A pre-norm transformer block (residual encoder, ViT decoder)."""
    layers = linear(tokens, width, 3 * width) + linear(tokens, width, width) + linear(tokens, width, mlp) + linear(tokens, mlp, width)
    return layers + mixing(tokens, width) + held(4 * width)


def residual_encoder(part: Residual, *, patch: int, resolution: int, first: int | None = None) -> Work:
    """The residual encoder on images of ``resolution`` px, with position embeddings of ``first`` px; zero without channels."""
    if not part.channels:
        return Work()
    grid, width = resolution // patch, part.width
    if part.kind == "patch":
        return convolution(grid, 3, part.channels, patch, first=True) + held(part.channels)
    tokens, table = grid**2, ((first or resolution) // patch) ** 2 + 2
    ends = convolution(grid, 3, width, patch, first=True) + linear(tokens, width, width) + linear(tokens, width, part.channels)
    return ends + plain_block(tokens + 1, width, part.mlp) * part.layers + held(table * width + 2 * width + part.channels)


def decoder(part: Decoder, *, channels: int, stride: int, resolution: int, trained_latents: bool = True, first: int | None = None) -> Work:
    """The decoder of raw latents; ``trained_latents``: gradients also flow into the residual encoder; ``first``: the resolution that
    determined its levels with attention, if it differs."""
    if part.kind == "vit":
        return vit_decoder(part.vit, channels=channels, stride=stride, resolution=resolution, trained_latents=trained_latents)
    return ldm_decoder(part, channels=channels, resolution=resolution, trained_latents=trained_latents, first=first)


def vit_decoder(part: VitDecoder, *, channels: int, stride: int, resolution: int, trained_latents: bool = True) -> Work:
    """RAE's ViT decoder."""
    tokens = (resolution // stride) ** 2
    ends = linear(tokens, channels, part.width, first=not trained_latents)
    blocks = plain_block(tokens + 1, part.width, part.mlp) * part.layers
    return ends + blocks + linear(tokens, part.width, 3 * stride**2) + held(3 * part.width)


def ldm_decoder(part: Decoder, *, channels: int, resolution: int, trained_latents: bool = True, first: int | None = None) -> Work:
    """LDM's convolutional decoder."""
    widths = [part.base * multiplier for multiplier in part.multipliers]
    last = len(widths) - 1
    side, width = resolution >> last, widths[-1]
    total = convolution(side, channels, width, 3, first=not trained_latents)
    total += residual_block(side, width, width) * 2 + grid_attention(side, width)
    for level in range(last, -1, -1):
        inputs, width, side = width, widths[level], resolution >> level
        for number in range(part.blocks + 1):
            total += residual_block(side, width if number else inputs, width)
            total += grid_attention(side, width) if side * (first or resolution) // resolution in part.attention else Work()
        total += convolution(2 * side, width, width, 3) if level else Work()
    return total + last_layer(part, stride=2**last, resolution=resolution) + held(2 * widths[0])


def last_layer(part: Decoder, *, stride: int, resolution: int) -> Work:
    """The layer to pixels, at which the adaptive weight of the GAN loss is measured."""
    if part.kind == "vit":
        return linear((resolution // stride) ** 2, part.vit.width, 3 * stride**2)
    return convolution(resolution, part.base * part.multipliers[0], 3, 3)


def residual_block(side: int, inputs: int, outputs: int) -> Work:
    """Two convolutions plus a shortcut."""
    shortcut = convolution(side, inputs, outputs, 1) if inputs != outputs else Work()
    return convolution(side, inputs, outputs, 3) + convolution(side, outputs, outputs, 3) + shortcut + held(2 * inputs + 2 * outputs)


def grid_attention(side: int, width: int) -> Work:
    """Single-head attention over a grid."""
    return convolution(side, width, width, 1) * 4 + mixing(side**2, width) + held(2 * width)


def discriminator(part: ReconstructionLoss, *, resolution: int) -> tuple[Work, float]:
    """The patch discriminator on one image, and the operations of its first layer, whose inputs need no gradient in its own updates."""
    side, width = resolution // 2, part.discriminator_base
    total = first = convolution(side, 3, width, 4)
    for number in range(1, part.discriminator_layers + 1):
        wider = part.discriminator_base * min(2**number, 8)
        side = side // 2 if number < part.discriminator_layers else side - 1
        total += convolution(side, width, wider, 4, bias=False) + held(2 * wider)
        width = wider
    return total + convolution(side - 1, width, 1, 4), first.forward


def perceptual(network: str, *, resolution: int) -> float:
    """Operations of the perceptual distance's network on one image."""
    total, side, inputs = 0.0, resolution, 3
    for width in PERCEPTUAL[network]:
        if width < 0:
            side //= 2
            continue
        total += convolution(side, inputs, width, 3).forward
        inputs = width
    return total


def transformer(part: Transformer, *, channels: int, grid: int, classes: int, interval: bool = False) -> Work:
    """SiT and related transformers on latents [channels, grid, grid]; ``interval``: they embed the length of an interval too."""
    patch, width = part.patch or 1, part.width
    tokens, inputs = (grid // patch) ** 2, channels * patch**2
    outputs = inputs * (2 if part.learned_sigma else 1)
    frequencies = FREQUENCIES if part.time == "cosine" else 2 * FREQUENCIES
    total = linear(tokens, inputs, width, first=True) + linear(1, frequencies, width, first=True) + linear(1, width, width)
    total += linear(1, FREQUENCIES, width, first=True) + linear(1, width, width) if interval else Work()
    total += held((classes + 1) * width) + linear(1, width, 6 * width * part.depth)
    total += adaln_block(part, tokens, width, part.heads) * part.depth
    norm = width if part.norm == "rms" else 0
    if part.wide is None:
        return total + linear(1, width, 2 * width) + linear(tokens, width, outputs) + held(norm)
    head, wide = part.wide, part.wide.width
    total += linear(tokens, width, wide) if wide != width else Work()
    total += linear(tokens, inputs, wide, first=True) + linear(tokens, wide, 6 * wide * head.depth)
    total += adaln_block(part, tokens, wide, head.heads) * head.depth
    return total + linear(tokens, wide, 2 * wide) + linear(tokens, wide, outputs) + held(wide if part.norm == "rms" else 0)


def mar(part: Transformer, own: Mar, *, channels: int, grid: int, classes: int, kept: float, drawn: float) -> Work:
    """MAR on latents [channels, grid, grid] of which ``kept`` tokens exist, with the head on ``drawn`` tokens."""
    patch, width, head = part.patch or 1, part.width, own.head_width
    count, inputs, mlp = (grid // patch) ** 2, channels * patch**2, round(width * part.mlp_ratio)
    total = linear(kept, inputs, width, first=True) + held((classes + 1) * width)
    total += plain_block(own.buffer + kept, width, mlp) * part.depth + plain_block(own.buffer + count, width, mlp) * part.depth
    total += linear(own.buffer + kept, width, width)
    total += held((2 * (own.buffer + count) + count + 1 + 6) * width)  # positions, the mask token, three norms
    total += linear(drawn, FREQUENCIES, head, first=True) + linear(drawn, head, head) + linear(drawn, width, head)
    total += linear(drawn, inputs, head, first=True) + linear(drawn, head, 2 * head) + linear(drawn, head, 2 * inputs)
    return total + (linear(drawn, head, head) * 2 + linear(drawn, head, 3 * head) + held(2 * head)) * own.head_depth


def adaln_block(part: Transformer, tokens: int, width: int, heads: int) -> Work:
    """A block of SiT without its modulation, which one layer computes for all blocks."""
    layers = linear(tokens, width, 3 * width) + linear(tokens, width, width) + mixing(tokens, width)
    if part.mlp == "gelu":
        hidden = round(width * part.mlp_ratio)
        layers += linear(tokens, width, hidden) + linear(tokens, hidden, width)
    else:
        hidden = int(2 / 3 * int(width * part.mlp_ratio))
        layers += linear(tokens, width, 2 * hidden) + linear(tokens, hidden, width)
    head, rms = width // heads, part.norm == "rms"
    return layers + held((2 * head if rms else 4 * head) * part.qk_norm + 2 * width * rms)


def projector(tokens: int, width: int, hidden: int, outputs: int) -> Work:
    """REPA's MLP of three layers on tokens."""
    return linear(tokens, width, hidden) + linear(tokens, hidden, hidden) + linear(tokens, hidden, outputs)


def encoding(card: EncoderCard, resolution: int, *, decode: bool = False) -> float | None:
    """Operations of a frozen encoder (or a codec's decoder) on one image, by its card and the image's area; None if unknown."""
    stated = card.decode_gflops if decode else card.gflops
    return stated * 1e9 * (resolution / card.pixels.size) ** 2 if stated else None
