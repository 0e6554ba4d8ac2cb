"""RunConfig and its parts: everything that changes a result, frozen, documented and bounded.

What changes only speed (device, ranks, threads, workers, micro-batch, compile) is ``machine.runtime.Runtime`` and is never hashed.
Progress is counted in images.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from svgbench.config.part import Count, NotNegative, Part, Positive, Seed, Share, Sparse, heads_divide
from svgbench.config.scoring import Scores
from svgbench.errors import closest

Align = Literal["none", "batch", "frozen", "channel", "whiten"]
Sampler = Literal["euler", "heun", "midpoint", "dopri5", "sde-euler", "ddim", "ddpm"]
NOISE_PREDICTORS = ("ddim", "ddpm")
"""Samplers of the objective ``ddpm``; the others integrate a velocity."""
SCHEDULES = ("constant", "linear", "late", "early-0.5", "interval-0.2-0.8")


class Data(Part):
    """Which images, at which size, and how many."""

    source: str = "shapes"
    """``shapes`` (drawn from a seed, with labels and pixel masks) or a folder: class folders (``DIR`` or ``DIR/train`` +
    ``DIR/val``), webdataset shards, a Hugging Face dataset, or what ``svgbench data pack`` made."""
    resolution: Annotated[int, Field(ge=16, le=1024)] = 256
    """Side of the square images in pixels after the ADM centre crop."""
    train_images: Count | None = None
    """Use only this many training images, drawn evenly over the classes; all when empty. ``shapes`` needs a number."""
    val_images: Count | None = None
    """Use only this many validation images; all when empty."""
    val_share: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.1
    """Share of each class held out for validation when the folder has no ``val`` of its own."""
    seed: Seed = 0
    """Seed of drawn images and of the held-out share; not the run's seed, so that runs of all seeds see the same images."""
    limit: Count | None = None
    """A trial on this many images of each split at most, of all data sets, and on this many samples; what is scored so says it in its
    protocol."""
    identity: str = ""
    """Digest of the source's files; filled in when a run is planned."""

    @model_serializer(mode="wrap")
    def _without_an_empty_limit(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run that is no trial says nothing of it, in no file and in no key."""
        fields = plain(self)
        if self.limit is None:
            fields.pop("limit", None)
        return fields

    def at_most(self, split: str, count: int) -> int:
        """How many of a split's ``count`` images are meant, at most."""
        asked = self.train_images if split == "train" else self.val_images
        return min(n for n in (asked, self.limit, count) if n is not None)


class Features(Part):
    """Which tokens of a transformer are its features: of which blocks, brought together how, behind which norm. A class or register token
    is never a feature."""

    layers: Literal["last"] | Annotated[tuple[int, ...], Field(min_length=1)] = "last"
    """The last block, or a list: 1 is the first block, -1 the last."""
    combine: Literal["last", "sum", "concat"] = "last"
    """Of several blocks: the last one named; their sum; all of them side by side, in the order in which they are named."""
    norm: Literal["affine", "plain", "none"] = "affine"
    """Each block's tokens behind the network's final norm; behind it without its learned scale and shift, as RAE has it; as they are."""

    @model_validator(mode="after")
    def _distinct_blocks(self) -> Features:
        named = [] if self.layers == "last" else list(self.layers)
        if 0 in named:
            raise ValueError("there is no block 0: 1 is the first, -1 the last")
        if len(set(named)) != len(named):
            raise ValueError(f"{named} names a block twice")
        return self

    @property
    def width(self) -> int:
        """Channels of the features over channels of a token."""
        return 1 if self.layers == "last" or self.combine != "concat" else len(self.layers)


class Encoder(Sparse):
    """The frozen encoder."""

    later = ("features", "weights_key")

    card: str = "dinov3-s16plus"
    """A card's name, or BACKEND:NAME."""
    weights: str | None = None
    """A local file (or directory) of an official release; the card's own weights when empty."""
    weights_key: str | None = None
    """Which weights of a checkpoint with several (raw, averaged), by the dotted path to them; by the rules when empty."""
    features: Features | None = None
    """Replaces the card's choice of features, whole; the card's own when empty."""
    identity: str = ""
    """Digest of how the card opens and of its weights; filled in when a run is planned."""
    opened: dict[str, Any] | None = None
    """The whole card, so that a stage needs no shelf; filled in when a run is planned, in no key (``identity`` is)."""


class Optimiser(Part):
    """Adam, decoupled weight decay, linear warm-up."""

    lr: Positive = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0
    lr_warmup_images: Annotated[int, Field(ge=0)] = 0
    """Images over which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine to zero at ``total_images``."""
    max_gradient_norm: NotNegative = 0.0
    """Gradients are scaled down to this norm; 0 never scales."""


class Training(Part):
    """How long a network is trained, on what batches, at which precision."""

    total_images: Count
    """Images seen in training, repetitions counted."""
    batch: Count
    """Global batch: images per update over all processes and micro-batches."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of the moving average of the weights that is used after training; 0 keeps none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic inside the networks (bf16: autocast; weights, losses and statistics stay fp32)."""
    checkpoint_images: Count = 1_000_000
    """A checkpoint is written each time this many images have been seen; at most this much work is lost."""
    skipped_updates: Annotated[int, Field(ge=0)] = 3
    """Updates with a loss or gradient that is not finite are skipped; one more than this stops the run."""
    optimiser: Optimiser = Optimiser()


class Residual(Part):
    """The residual encoder (SVG section 3.2): a ViT on the pixels that adds the detail the features lack."""

    channels: Annotated[int, Field(ge=0, le=1024)] = 8
    """Width of the residual; 0 builds none (``--no-residual``)."""
    layers: Count = 6
    width: Count = 384
    heads: Count = 8
    mlp: Count = 1536
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    drop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Probability, per training image, that a learned mask token replaces the whole residual."""

    _heads_divide = model_validator(mode="after")(heads_divide)


class Release(Sparse):
    """A network of an official release in place of training one."""

    later = ("weights_key",)

    kind: str
    """What ``svgbench.load_official`` calls it: svg-autoencoder, svg-dit, sit, dit, repa, lightningdit, ddt, rae-decoder."""
    file: str
    config: dict[str, Any] | None = None
    """The release's constructor arguments, where the file does not tell."""
    weights_key: str | None = None
    """Which weights of a checkpoint with several (raw, averaged), by the dotted path to them; by the rules when empty."""


class VitDecoder(Part):
    """RAE's decoder (arXiv 2510.11690): a ViT as in MAE's decoder, one token a latent position."""

    width: Count = 1152
    layers: Count = 28
    heads: Count = 16
    mlp: Count = 4096

    @model_validator(mode="after")
    def _heads_divide(self) -> VitDecoder:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4 and of heads {self.heads}")
        return self


class Decoder(Sparse):
    """From raw latents to pixels. The LDM convolutional decoder's levels fix its upsampling, 2 ** (levels - 1), which must be the
    encoder's stride; the ViT decoder fits any."""

    later = ("groups",)
    kind: Literal["ldm", "vit"] = "ldm"
    vit: VitDecoder = VitDecoder()
    """The sizes of ``kind: vit``; those below are of ``kind: ldm``."""
    base: Count = 128
    multipliers: tuple[Count, ...] = (1, 1, 2, 2, 4)
    """Channel multipliers from the finest level to the coarsest."""
    blocks: Count = 2
    """Residual blocks a level (the decoder has one more, as in LDM)."""
    attention: tuple[Count, ...] = (16,)
    """Grid sizes that get self-attention beside the one in the middle."""
    groups: Count | None = None
    """Groups of each group norm; empty: 32, or fewer on levels narrower than 128 channels. Released decoders have 32 at any width."""

    @model_validator(mode="after")
    def _groups_divide(self) -> Decoder:
        wrong = [self.base * m for m in self.multipliers if self.groups and self.base * m % self.groups]
        if wrong and self.kind == "ldm":
            raise ValueError(f"{self.groups} groups do not divide a level of {wrong[0]} channels")
        return self


class ReconstructionLoss(Part):
    """L1 + perceptual + adaptive hinge-GAN."""

    l1: NotNegative = 1.0
    perceptual: NotNegative = 1.0
    network: Literal["lpips", "shapes-lpips"] = "lpips"
    """Perceptual distance: LPIPS on VGG16 (needs its weights file) or that on the small network shipped for ``shapes``."""
    weights: str | None = None
    """VGG16 weights file of LPIPS."""
    adversarial: NotNegative = 0.5
    """Weight of the hinge-GAN term, on top of the adaptive weight; 0 builds no discriminator."""
    adversarial_start_images: Annotated[int, Field(ge=0)] = 2_560_000
    """The GAN term is off until this many images have been seen (the release: 5000 updates of 512)."""
    discriminator_base: Count = 64
    discriminator_layers: Count = 3


class Autoencoder(Part):
    """Stage 1: features, residual, alignment, decoder. A card that already decodes is adopted and trains nothing."""

    residual: Residual = Residual()
    align: Align = "frozen"
    """Residual statistics brought to the features': none; batch (as released, batch mates matter); frozen (batch statistics while
    training, the training set's moments afterwards); channel (per-channel frozen moments); whiten (full covariance, frozen)."""
    decoder: Decoder = Decoder()
    noise: NotNegative = 0.0
    """The decoder is trained on latents + s n with s ~ |N(0, noise^2)| per image, n normal (RAE, arXiv 2510.11690: 0.8); 0 adds none."""
    loss: ReconstructionLoss = ReconstructionLoss()
    training: Training = Training(total_images=25_600_000, batch=512, optimiser=Optimiser(lr=1e-4, betas=(0.5, 0.9)))
    release: Release | None = None
    """A released autoencoder that is taken over instead of trained."""


class Latents(Part):
    """How raw latents are standardised."""

    statistics: str | None = None
    """A release's own file of means and deviations; measured on the training images when this and ``scale`` are empty."""
    scale: Positive | None = None
    """One factor for raw latents in place of statistics, as releases on SD-VAE have it (0.18215)."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Latents:
        if self.statistics is not None and self.scale is not None:
            raise ValueError("statistics and scale exclude each other; give one")
        return self


class Wide(Part):
    """RAE's wide head (DDT): a shallow transformer on the noised latents, each token conditioned on the body's."""

    width: Count = 2048
    depth: Count = 2
    heads: Count = 16

    _heads_divide = model_validator(mode="after")(heads_divide)


class Transformer(Part):
    """The diffusion transformer: its size, and the choices in which DiT, SiT, REPA, LightningDiT, RAE and SVG differ."""

    width: Count = 1152
    depth: Count = 28
    heads: Count = 16
    mlp_ratio: Positive = 4.0
    patch: Count | None = None
    """Latent positions per token side; the card's own when empty (1 for ViT latents, 2 for SD-VAE)."""
    qk_norm: bool = True
    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    position: Literal["sincos", "rope", "both"] = "sincos"
    time: Literal["cosine", "fourier"] = "cosine"
    """Embedding of t: DiT's cosines and sines of fixed frequencies, or RAE's of drawn ones."""
    learned_sigma: bool = False
    """Whether the network also says a variance for each number (DiT)."""
    wide: Wide | None = None
    """RAE's wide head; none when empty."""

    _heads_divide = model_validator(mode="after")(heads_divide)


class Representation(Part):
    """REPA's loss (arXiv 2410.06940): tokens of an early block, through a small MLP, point where a frozen encoder's features point."""

    weight: NotNegative = 0.0
    """0 builds no projector."""
    block: Annotated[int, Field(ge=0)] = 0
    """Count of blocks before the tokens are taken; 0: 8, or half of a transformer that is shallower than 16."""
    width: Count = 2048
    """Hidden width of the projector."""
    encoder: Encoder = Encoder(card="dinov2")


class Diffusion(Part):
    """Stage 2: the diffusion transformer on standardised latents, by flow matching or by DDPM's noise prediction."""

    objective: Literal["flow", "ddpm"] = "flow"
    """flow: straight paths and velocities (SiT); ddpm: noise prediction over 1000 steps of a linear schedule (DiT)."""
    prediction: Literal["velocity", "data"] = "velocity"
    """What the network of ``flow`` says: the velocity, or the data, from which the velocity follows (arXiv 2511.13720)."""
    time: Literal["uniform", "logit-normal"] = "uniform"
    """How training times of ``flow`` are drawn before the shift."""

    size: Literal["tiny", "S", "B", "L", "XL"] = "XL"
    """Names the transformer; ``transformer`` overrides single fields of it."""
    transformer: Transformer = Transformer()
    """That of ``size``, with single fields overridden."""
    shift: Positive = 0.4
    """Training times of ``flow`` are t <- s t / (1 + (s - 1) t)."""
    dimension_shift: bool = False
    """RAE's shift, sqrt(4096 / numbers in a latent), takes the place of ``shift`` (arXiv 2510.11690, equation 6)."""
    representation: Representation = Representation()
    class_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of labels replaced by the null class, for guidance."""
    flip: bool = True
    """Half of the training images are seen mirrored."""
    training: Training = Training(total_images=102_400_000, batch=256, ema=0.9999, precision="bf16", optimiser=Optimiser(lr=1e-4))
    weak_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Also keep the averaged weights as they were after this share of the training: the weak model of autoguidance; 0 keeps none."""
    snapshots: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    """Also keep the averaged weights after these shares of the training, to sample from (``sampling.trained``)."""
    release: Release | None = None
    """A released transformer that is taken over instead of trained."""

    @model_serializer(mode="wrap")
    def _without_empty_snapshots(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What nobody asked for is in no key."""
        fields = plain(self)
        if not self.snapshots:
            fields.pop("snapshots", None)
        return fields


class Sampling(Part):
    """Which samples are drawn from the trained SiT."""

    count: Count = 50_000
    steps: Annotated[tuple[Annotated[int, Field(ge=1, le=4000)], ...], Field(min_length=1)] = (25,)
    """Intervals of the time grid; each entry is a cell."""
    guidance: Annotated[tuple[Annotated[float, Field(ge=0.0, le=100.0)], ...], Field(min_length=1)] = (1.0, 4.0)
    """Guidance scales; 1 calls no unconditional branch. Each entry is a cell."""
    trained: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)] = (1.0,)
    """After which shares of the training samples are drawn: 1, or a share named in ``diffusion.snapshots``. Each entry is a cell."""
    sampler: Sampler = "euler"
    """For ``flow``: euler, heun, midpoint, dopri5 (adaptive: a sample then depends on its batch), sde-euler; for ``ddpm``: ddim, ddpm."""
    shift: Positive = 0.15
    """Shift of the uniform time grid (0.15: the release's)."""
    dimension_shift: bool = False
    """RAE's shift, as in training, takes the place of ``shift``."""
    against: Literal["null", "weak"] = "null"
    """What guidance leads away from: the null class, or the weak model (autoguidance, arXiv 2406.02507)."""
    schedule: str = "constant"
    """constant; linear; late; early-R; interval-A-B with A below B (see nets.guidance)."""
    guided_channels: Count | None = None
    """Guide only so many of the first channels, as DiT, SiT and LightningDiT do (3); all when empty."""
    labels: Literal["balanced", "random"] = "balanced"

    @field_validator("steps", "guidance", "trained")
    @classmethod
    def _no_entry_twice(cls, entries: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(entries)) != len(entries):
            raise ValueError(f"{list(entries)} names a cell twice")
        return entries

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, word: str) -> str:
        time = r"(0?\.\d+|0|1|0\.0*|1\.0*)"
        if not re.fullmatch(rf"constant|linear|late|early-{time}|interval-{time}-{time}", word):
            raise ValueError(f"'{word}' is not a guidance schedule (times run from 0 to 1).{closest(word, SCHEDULES)}")
        kind, *times = word.split("-")
        if kind == "interval" and float(times[0]) >= float(times[1]):
            raise ValueError(f"'{word}' must begin before it ends, but {times[0]} is not below {times[1]}; give the earlier time first")
        return word


class RunConfig(Part):
    """One run: everything its numbers depend on."""

    preset: str = "paper"
    """Where the defaults came from; a label, in no key."""
    seed: Seed = 0
    """Seed of initial weights, data order, noise and probes."""
    data: Data = Data()
    encoder: Encoder = Encoder()
    autoencoder: Autoencoder = Autoencoder()
    latents: Latents = Latents()
    diffusion: Diffusion = Diffusion()
    sampling: Sampling = Sampling()
    scores: Scores = Scores()
