"""Planned peak memory of a device in each stage, and whether it fits. No torch.

Networks' states are counted exactly: weights, gradients, Adam's two averages and the averaged weights, float32. Activations kept for the
backward pass are counted in elements (tokens x width of each block, outputs of each convolution) times measured bytes per element.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from svgbench.config.choices import CACHE_BYTES, MEMORY_SHARE, PIECE, equal_pieces
from svgbench.config.networks import Decoder
from svgbench.config.schema import ReconstructionLoss
from svgbench.lab.forecast import flops
from svgbench.lab.forecast.sizes import FLOAT, Sizes

GIB = 1 << 30
DEVICE, MEMORY = "H200", 139 * GIB
"""The GPU that plans assume, and its memory in bytes."""
BLOCK = {"bf16": {True: 42.0, False: 62.0}, "fp32": {True: 72.0, False: 84.0}}
"""Bytes kept per token, channel and block of a transformer, by precision and whether blocks are compiled."""
CONVOLUTION = {"bf16": {True: 1.35, False: 1.98}, "fp32": {True: 2.66, False: 3.93}}
"""Bytes kept per element of the decoder's feature maps (``map_elements``), by precision and whether it is compiled: the tensors that
autograd saves, counted."""
PERCEPTUAL = {"bf16": {True: 2.0, False: 4.7}, "fp32": {True: 4.0, False: 4.8}}
"""Bytes kept per output of the perceptual network's layers, by precision and whether the distance is compiled. Like ``BLOCK`` from the
peaks that PyTorch's allocator counted for the paper's sizes."""
PICTURES = 4
"""float32 images that stage 1 keeps of each image: original, reconstruction, and two gradients at it."""
DRAWN = 256
"""Samples drawn at once on a GPU (``stages.samples``); twice as many rows with guidance."""
CHUNK_PIXELS = 64 * 256 * 256
"""Pixels that a network encodes or decodes at once on a GPU (``nets.chunks``)."""
AT_WORK = 3 * FLOAT
"""Bytes at work per element of the widest feature map while a batch is drawn or decoded: input, output, and one more."""
JUDGED = 128
"""Images whose features are computed at once (``metrics.features``)."""


class Peak(NamedTuple):
    """Planned peak memory of a stage in bytes."""

    states: float
    """Weights, gradients, optimiser, averages, values kept in memory."""
    image: float
    """For each image at once."""
    images: int
    """Images at once."""
    piece: int | None = None
    """Largest micro-batch if the batch does not fit."""
    kept_image: float = 0.0
    """What a micro-batch keeps of an image while the next one is computed, if there is room."""
    trace: float = 0.0
    """What every image of a batch in micro-batches leaves until the update ends."""
    work: float = 0.0
    """What one pass over a micro-batch has at work of an image besides."""
    kept: int = 0
    """Micro-batches that are kept."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.states + self.images * (self.image + max(self.kept - 1, 0) * self.kept_image)


def peak(stage: str, sizes: Sizes, *, local: int | None = None, compiled: bool = True) -> Peak | None:
    """The planned peak of a stage on a GPU; None for one that needs no GPU to speak of. ``local``: images at once in a training; the
    configured batch when None."""
    if stage in ("autoencoder", "continued-autoencoder"):
        return _autoencoder(sizes, local, compiled)
    if stage in ("diffusion", "continued-diffusion"):
        return _diffusion(sizes, local, compiled)
    if stage == "samples":
        return _samples(sizes)
    if stage in ("statistics", "realignment", "reconstructions"):
        return _coded(sizes)
    return None


def fitting(made: Peak, memory: float = MEMORY) -> int:
    """The largest number of images at once that fits; 0 if not even one does."""
    return max(0, int((memory * MEMORY_SHARE - made.states) / made.image)) if made.image else made.images


def on_gpus(made: Peak, gpus: int, memory: float = MEMORY) -> Peak:
    """The peak on each of several GPUs, which share a batch. A share that does not fit is computed in micro-batches, which a training
    chooses like this from what it counts (``machine.memory``)."""
    if not made.image:
        return made
    share, fits = math.ceil(made.images / gpus), max(1, fitting(made, memory))
    if share <= fits:
        return made._replace(images=share)
    images = equal_pieces(share, min(fits, made.piece or fits))
    kept = max(fits // images - 1, 0) if made.kept_image else 0
    image = (made.image if kept or not made.kept_image else made.kept_image) + made.work  # losses' activations go before a second pass
    return made._replace(states=made.states + made.trace * share, image=image, images=images, kept=kept)


def _diffusion(sizes: Sizes, local: int | None, compiled: bool) -> Peak:
    part, model = sizes.config.diffusion, sizes.transformer
    network, precision = part.transformer, part.training.precision
    tokens, block = sizes.tokens, BLOCK[precision][compiled]
    if part.objective == "mar":  # at the largest: every token hidden in the head, the largest share of them visible in the encoder
        sides = [part.mar.buffer + tokens, part.mar.buffer + (1 - part.mar.least_hidden) * tokens]
        tokens_of_blocks = sum(sides)
        attention = network.depth * network.heads * sum(side**2 for side in sides) * (2 * FLOAT + 1) * (part.mar.attention_dropout > 0)
        image = block * _widths(network.mlp_ratio) * tokens_of_blocks * network.width * network.depth + attention
        image += block * _widths(1.0) * tokens * part.mar.repeats * part.mar.head_width * part.mar.head_depth
    else:
        image = block * _widths(network.mlp_ratio) * tokens * network.width * network.depth
    if network.wide is not None:
        image += block * tokens * network.wide.width * network.wide.depth
    copies = 2 if part.flip else 1
    states = _trained(model.parameters, ema=bool(part.training.ema), bf16=precision == "bf16")
    states += _kept(sizes.latent_bytes, sizes.counts.train * copies) + FLOAT * (sizes.residual.parameters + _frozen(sizes))
    return Peak(states, image, local or part.training.batch)


def _widths(ratio: float) -> float:
    """What a block keeps, relative to one with an MLP four times as wide: nine widths, of which five grow with the MLP."""
    return (4 + 5 * ratio / 4) / 9


def _autoencoder(sizes: Sizes, local: int | None, compiled: bool) -> Peak:
    part = sizes.config.autoencoder
    precision, loss = part.training.precision, part.loss
    kept, number = decoder_bytes(sizes, compiled), 2 if precision == "bf16" else FLOAT
    if sizes.residual_channels and part.residual.kind == "vit":
        kept += BLOCK[precision][compiled] * (sizes.grid**2 + 1) * part.residual.width * part.residual.layers
    image, parameters = kept, sizes.residual.parameters + sizes.decoder.parameters
    if loss.perceptual:
        image += PERCEPTUAL[precision][compiled] * _perceptual_elements(loss.network, sizes.side)
    if loss.adversarial:  # in the generator's loss, and on both images in its own
        image += 3 * number * _discriminator_elements(loss, sizes.side)
        parameters += flops.discriminator(loss, resolution=sizes.side)[0].parameters
    states = _trained(parameters, ema=False, bf16=precision == "bf16") + FLOAT * _frozen(sizes)
    states += _kept(sizes.feature_bytes, sizes.counts.train)
    pixels = 3 * sizes.side**2
    trace = FLOAT * (PICTURES * pixels + (sizes.card.channels + sizes.residual_channels) * sizes.grid**2)
    return Peak(states, image, local or part.training.batch, PIECE, kept, trace, 3 * number * part.decoder.base * sizes.side**2)


def decoder_bytes(sizes: Sizes, compiled: bool) -> float:
    """What the decoder keeps of one image for its backward pass, in bytes."""
    part, precision = sizes.config.autoencoder.decoder, sizes.config.autoencoder.training.precision
    if part.kind == "vit":
        return BLOCK[precision][compiled] * ((sizes.side // sizes.card.stride) ** 2 + 1) * part.vit.width * part.vit.layers
    return CONVOLUTION[precision][compiled] * map_elements(part, sizes.side)


def map_elements(part: Decoder, side: int) -> float:
    """Elements of the inputs of the norms, activations and convolutions of LDM's decoder for one image of ``side`` px."""
    widths = [part.base * multiplier for multiplier in part.multipliers]
    last = len(widths) - 1
    width, total = widths[-1], 0.0
    total += 2 * 6 * width * (side >> last) ** 2  # the two blocks in the middle
    for level in range(last, -1, -1):
        inputs, width, grid = width, widths[level], side >> level
        for number in range(part.blocks + 1):
            total += 3 * ((width if number else inputs) + width) * grid**2
        total += 4 * width * grid**2 if level else 0.0  # the input of the convolution after a doubling
    return total + 3 * width * side**2


def _perceptual_elements(network: str, side: int) -> float:
    """Outputs of the perceptual network's convolutions and of their activations."""
    total = 0.0
    for width in flops.PERCEPTUAL[network]:
        side, total = (side // 2, total) if width < 0 else (side, total + 2 * width * side**2)
    return total


def _discriminator_elements(loss: ReconstructionLoss, side: int) -> float:
    """Outputs of the discriminator's convolutions, norms and activations."""
    total, side = 0.0, side // 2
    for number in range(loss.discriminator_layers + 1):
        total += 3 * loss.discriminator_base * min(2**number, 8) * side**2
        side = side // 2 if number + 1 < loss.discriminator_layers else side - 1
    return total


def _samples(sizes: Sizes) -> Peak:
    """A batch drawn with guidance, and then decoded in chunks."""
    network = sizes.config.diffusion.transformer
    tokens = sizes.tokens
    hidden = 2 * DRAWN * tokens * network.width * max(4.0, network.mlp_ratio) * AT_WORK
    decoding = CHUNK_PIXELS * AT_WORK * sizes.config.autoencoder.decoder.base if sizes.card.kind == "features" else 0.0
    weights = FLOAT * (2 * sizes.transformer.parameters + sizes.decoder.parameters)
    return Peak(weights + max(hidden, decoding), 0.0, DRAWN)


def _coded(sizes: Sizes) -> Peak:
    """A chunk of images encoded or decoded."""
    decoding = CHUNK_PIXELS * AT_WORK * sizes.config.autoencoder.decoder.base if sizes.card.kind == "features" else 0.0
    return Peak(FLOAT * (sizes.decoder.parameters + sizes.residual.parameters + _frozen(sizes)) + decoding, 0.0, JUDGED)


def _trained(parameters: int, *, ema: bool, bf16: bool) -> float:
    """Weights, gradients, Adam's two averages, the averaged weights, and autocast's copies of the weights."""
    return parameters * (FLOAT * (5 if ema else 4) + (2 if bf16 else 0))


def _frozen(sizes: Sizes) -> float:
    return 1e6 * (sizes.card.params_m or 0.0)


def _kept(number_bytes: int, images: int) -> float:
    """Features or latents that a stage keeps in memory."""
    return number_bytes * images if number_bytes * images <= CACHE_BYTES else 0.0


def remarks(peaks: Iterable[tuple[str, Peak]], gpus: int) -> list[str]:
    """Sentences about stages that need micro-batches on this number of GPUs, and a warning for each that does not fit."""
    said: dict[str, None] = {}
    for stage, whole in peaks:
        made, share = on_gpus(whole, gpus), math.ceil(whole.images / gpus)
        if made.total > MEMORY * MEMORY_SHARE:
            said[f"{stage} does not fit: planned peak {made.total / GIB:,.0f} GiB of the {MEMORY / GIB:.0f} GiB of an {DEVICE}."] = None
        elif made.image and made.images < share:
            least = (whole.states + share * whole.image) / GIB
            kept = f" (activations of {made.kept} kept)" if made.kept else ""
            why = f"{share} images at once would take {least:,.0f} GiB, an {DEVICE} has {MEMORY / GIB:.0f} GiB"
            said[f"{stage} in micro-batches of {made.images}{kept}: {why}."] = None
    return list(said)
