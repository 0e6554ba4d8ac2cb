"""RunConfig and its parts: everything that changes a result, frozen, documented and bounded.

What changes only speed (device, ranks, threads, workers, micro-batch, compile, ...) is ``machine.runtime.Runtime`` and is never hashed.
Progress is counted in images.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from svgbench.config.choices import MOST_GUIDANCE, AlignmentName, ObjectiveName, StandardisationName
from svgbench.config.networks import Decoder, Optimiser, Residual, Training, Transformer
from svgbench.config.part import Count, NotNegative, Part, Positive, Seed, Share, Sparse
from svgbench.config.sampling import Sampling
from svgbench.config.scoring import PerceptualName, Scores

DRAWN = ("shapes", "scenes")
"""Sources of images that svgbench draws from a seed; both have labels, masks and captions."""


class Data(Part):
    """Which images, at which size, and how many."""

    source: str = "shapes"
    """``shapes`` or ``scenes`` (drawn from a seed, with labels and pixel masks) or a path: class folders (``DIR``, or ``DIR/train`` and
    ``DIR/val``), webdataset shards, a Hugging Face dataset, or the output of ``svgbench data pack``."""
    resolution: Annotated[int, Field(ge=16, le=1024)] = 256
    """Side of the square images in pixels after the ADM centre crop."""
    train_images: Count | None = None
    """Use only this many training images, drawn evenly over the classes; all when empty. Drawn images need a number."""
    val_images: Count | None = None
    """Use only this many validation images; all when empty."""
    val_share: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.1
    """Share of each class held out for validation when the folder has no ``val``."""
    seed: Seed = 0
    """Seed of drawn images and of the held-out share; not the run's seed, so that runs of all seeds see the same images."""
    limit: Count | None = None
    """Trial run: the most images of each split of every data set, and the most samples. The protocol of every score states the limit."""
    identity: str = ""
    """Digest of the source's files; filled in by the program when it plans a run."""

    @model_serializer(mode="wrap")
    def _without_an_empty_limit(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run that is no trial has no field ``limit``, in files and in keys."""
        fields = plain(self)
        if self.limit is None:
            fields.pop("limit", None)
        return fields

    @property
    def drawn(self) -> bool:
        """Whether svgbench draws the images."""
        return self.source in DRAWN

    def at_most(self, split: str, count: int) -> int:
        """Number of images used of a split of ``count`` images."""
        chosen = self.train_images if split == "train" else self.val_images
        return min(n for n in (chosen, self.limit, count) if n is not None)


class Features(Sparse):
    """Which tokens of a transformer are its features: from which blocks, how they are combined, and after which norm. Class and register
    tokens are never features."""

    later = ("mean_token",)

    layers: Literal["last"] | Annotated[tuple[int, ...], Field(min_length=1)] = "last"
    """Blocks whose tokens are taken: the last, or a list where 1 is the first block and -1 the last."""
    combine: Literal["last", "sum", "mean", "concat"] = "last"
    """How tokens of several blocks become one feature: the last named block, their sum, their mean, or their concatenation along
    channels."""
    norm: Literal["affine", "plain", "none"] = "affine"
    """Norm of each block's tokens: the network's final norm (affine), the same without its learned scale and shift, as in RAE (plain), or
    none."""
    mean_token: bool = False
    """Whether the mean of the last named block's patch tokens, after the norm, is added to every token, as in RAEv2 (arXiv 2605.18324)."""

    @model_validator(mode="after")
    def _one_width(self) -> Features:
        if self.mean_token and self.combine == "concat":
            raise ValueError("mean_token has a token's width, so it cannot be added to a concatenation; use combine: mean or sum")
        return self

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
        """Channels of the features divided by channels of a token."""
        return 1 if self.layers == "last" or self.combine != "concat" else len(self.layers)


class Encoder(Sparse):
    """The frozen encoder."""

    later = ("features", "weights_key", "precision")

    card: str = "dinov3-s16plus"
    """Name of an encoder card or family, or BACKEND:NAME for a model of an installed library."""
    weights: str | None = None
    """A local file or directory of an official release; the card's own weights when empty."""
    weights_key: str | None = None
    """Dotted path to the weights in a checkpoint that holds several sets (raw, averaged); chosen automatically when empty."""
    features: Features | None = None
    """Replaces all of the card's choices of features; the card's own when empty."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic when images are encoded and latents decoded: of this encoder and, after stage 1, of the residual encoder and the decoder
    (bf16: autocast; weights, alignment, statistics and standardisation keep theirs). While stage 1 trains, its own networks have
    ``autoencoder.training.precision``."""
    identity: str = ""
    """Digest of the card and its weights; filled in by the program when it plans a run."""
    opened: dict[str, Any] | None = None
    """The full card, so that a stage needs no shelf; filled in by the program when it plans a run and not part of a key."""


class Release(Sparse):
    """A network of an official release, used instead of training one."""

    later = ("weights_key",)

    kind: str
    """Kind of release, as in ``svgbench.load_official``: svg-autoencoder, svg-dit, sit, dit, repa, lightningdit, ddt, rae-decoder."""
    file: str
    """Path of the released checkpoint."""
    config: dict[str, Any] | None = None
    """The release's constructor arguments, if the file does not contain them."""
    weights_key: str | None = None
    """Dotted path to the weights in a checkpoint that holds several sets (raw, averaged); chosen automatically when empty."""


class ReconstructionLoss(Sparse):
    """L1 + perceptual + adaptive hinge-GAN."""

    later = ("adaptive_limit",)

    l1: NotNegative = 1.0
    """Weight of the mean absolute pixel error."""
    perceptual: NotNegative = 1.0
    """Weight of the perceptual distance; 0 needs no perceptual network."""
    network: PerceptualName = "lpips"
    """Perceptual distance: LPIPS on VGG16 (needs its weights file) or on the small network that is shipped for ``shapes`` or ``scenes``."""
    weights: str | None = None
    """Path of the VGG16 weights file of LPIPS."""
    adversarial: NotNegative = 0.5
    """Weight of the hinge-GAN loss, multiplied by its adaptive weight; 0 builds no discriminator."""
    adversarial_start_images: Annotated[int, Field(ge=0)] = 1_280_000
    """The GAN loss starts after this many training images (the release: step 5001, which counts the updates of both networks, so after 2500
    batches of 512)."""
    adaptive_limit: Positive | None = None
    """Upper limit of the adaptive weight of the GAN loss, for losses averaged over pixels; empty: 1e4, which is never reached. The
    release's limit of 1e4 is for losses summed over 3 * 256 * 256 values; here this is 0.0509, which is reached."""
    discriminator_base: Count = 64
    """Channels of the patch discriminator's first convolution."""
    discriminator_layers: Count = 3
    """Convolutions with stride 2 of the patch discriminator, including the first."""


class Autoencoder(Sparse):
    """Stage 1: features, residual, alignment, decoder. A codec is adopted as the autoencoder, without training."""

    later = ("align_strength", "align_gradient", "seed", "layer_subsets")

    seed: Seed | None = None
    """Seed of stage 1 and of its own scores instead of the run's seed, so that runs of several seeds share one stage 1."""
    residual: Residual = Residual()
    """The residual encoder."""
    align: AlignmentName = "frozen"
    """Alignment of the residual's statistics to the features': none; batch (as released: depends on the other images of the batch); frozen
    (batch statistics in training, the training set's afterwards); channel (frozen, per channel); whiten (frozen, full covariance); token
    (each token separately, over its channels, as the text to equation 6 of arXiv 2510.15301 describes)."""
    align_strength: Share = 1.0
    """Strength of the alignment: r + strength (aligned - r); 1 is full alignment, 0 none."""
    align_gradient: bool = False
    """Whether gradients flow through the residual's batch statistics, for ``batch``, ``frozen``, ``channel`` and ``whiten``. The release
    detaches them; then the residual's scale can grow without limit, and at a high learning rate it loses directions."""
    decoder: Decoder = Decoder()
    """The decoder."""
    noise: NotNegative = 0.0
    """RAE's noise augmentation: the decoder trains on latents + s n, s = |N(0, noise^2)| per image, n standard normal (arXiv 2510.11690:
    0.8); 0 adds none."""
    layer_subsets: Share = 0.0
    """Share of the training images whose features combine a random part of the encoder's blocks (``encoder.features.layers``; each with
    probability 1/2, at least one), so that the decoder depends on no single block. All later stages use all blocks."""
    loss: ReconstructionLoss = ReconstructionLoss()
    """The reconstruction loss."""
    training: Training = Training(total_images=25_600_000, batch=512, optimiser=Optimiser(lr=1e-4, betas=(0.5, 0.9)))
    """Length, batch, precision and optimiser of stage 1."""
    release: Release | None = None
    """A released autoencoder to use instead of training one."""


class Latents(Sparse):
    """How raw latents are standardised, and an alignment that replaces the trained one."""

    later = ("standardise", "align")

    statistics: str | None = None
    """Path of a release's file of means and standard deviations; measured on the training images when this and ``scale`` are empty."""
    scale: Positive | None = None
    """One factor for raw latents instead of statistics, as in releases on SD-VAE (0.18215)."""
    standardise: StandardisationName = "channel"
    """Standardisation of the diffusion model's latents by statistics of the training images: channel (each channel by its own mean and
    standard deviation, as released); scalar (all channels by one mean and standard deviation over all values); features (all channels by
    the average mean and standard deviation of the feature channels); none (raw latents). Probes always see raw latents."""
    align: AlignmentName | None = None
    """Alignment that replaces the trained one without training again, with the training images' statistics: none, frozen, channel or
    whiten; empty: the trained one. The decoder still gets the latents that it was trained on."""

    @model_validator(mode="after")
    def _fits_the_statistics(self) -> Latents:
        if self.statistics is not None and self.scale is not None:
            raise ValueError("statistics and scale exclude each other; give one")
        given = "statistics" if self.statistics is not None else "scale" if self.scale is not None else None
        if given and self.standardise != "channel":
            raise ValueError(
                f"standardise {self.standardise} cannot be combined with {given}, which keeps the scale of a release; leave one of them out"
            )
        if self.statistics is not None and self.align is not None:
            raise ValueError(
                f"align {self.align} cannot be combined with statistics, which belong to the alignment of a release; leave one of them out"
            )
        return self


class Representation(Part):
    """REPA's loss (arXiv 2410.06940): tokens of an early block, projected by a small MLP, are aligned in direction with a frozen encoder's
    features."""

    weight: NotNegative = 0.0
    """Weight of REPA's loss; 0 builds no projector and opens no teacher."""
    block: Annotated[int, Field(ge=0)] = 0
    """Number of transformer blocks before the tokens are taken; 0: 8, or half of a transformer with fewer than 16 blocks."""
    width: Count = 2048
    """Hidden channels of the projector."""
    encoder: Encoder = Encoder(card="dinov2")
    """The frozen teacher whose features are the target."""


class MeanFlow(Part):
    """The objective ``meanflow`` (arXiv 2505.13447)."""

    intervals: Annotated[float, Field(ge=0.0, le=1.0)] = 0.25
    """Share of the training samples with an interval between two different times; the others learn the velocity at one time."""
    guidance: Annotated[float, Field(ge=0.0, le=MOST_GUIDANCE)] = 1.0
    """Guidance scale w of the velocities that are averaged (the paper's omega): w v + (1 - w) times the null class's velocity; 1: none.
    Sampling then needs no guidance of its own."""


class Mar(Part):
    """The objective ``mar`` (arXiv 2406.11838): a masked transformer gives each hidden token a condition, under which a small MLP, the
    head, draws the token by DDPM. Its encoder and its decoder each have the width, depth, heads, mlp_ratio and patch of ``transformer``."""

    least_hidden: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.7
    """Smallest share of hidden tokens in training; the share is normal around 1 with standard deviation 0.25, one draw for each update."""
    buffer: Count = 64
    """Class tokens before the latent's tokens."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout of activations in the blocks."""
    attention_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout of attention weights, which are then kept in memory."""
    head_width: Count = 1024
    """Width of the head."""
    head_depth: Count = 6
    """Blocks of the head."""
    repeats: Count = 4
    """Noise levels per hidden token and update."""


class Diffusion(Sparse):
    """Stage 2: the diffusion transformer on standardised latents, by flow matching, by DDPM's noise prediction, by MeanFlow or by MAR."""

    later = ("snapshots", "direction", "meanflow", "mar")
    objective: ObjectiveName = "flow"
    """flow: straight paths and velocity prediction (SiT); ddpm: noise prediction over 1000 steps of a linear schedule (DiT); meanflow:
    average velocities over intervals, for one or a few steps (MeanFlow); mar: hidden tokens by a diffusion loss, made in rounds (MAR)."""
    prediction: Literal["velocity", "data"] = "velocity"
    """What the network of ``flow`` predicts: the velocity, or the clean latent, from which the velocity follows (arXiv 2511.13720)."""
    time: Literal["uniform", "logit-normal"] = "uniform"
    """Distribution of the training times of ``flow`` and ``meanflow`` before the shift."""

    size: Literal["tiny", "mini", "S", "B", "L", "XL"] = "XL"
    """Size of the transformer (SiT's names); single fields of ``transformer`` override it."""
    transformer: Transformer = Transformer()
    """The transformer of ``size``, with single fields overridden."""
    shift: Positive = 0.4
    """Shift s of the training times of ``flow`` and ``meanflow``: t <- s t / (1 + (s - 1) t)."""
    dimension_shift: bool = False
    """Whether RAE's shift replaces ``shift`` (arXiv 2510.11690, equation 6): sqrt(base / dimension of the latent), at most 1; base: the
    dimension of the preset's SD-VAE latent, 4096 at ``small`` and ``paper``, 256 at ``tiny`` and ``mini``."""
    direction: NotNegative = 0.0
    """Weight of LightningDiT's loss on the direction of a velocity of ``flow`` (arXiv 2501.01423): 1 - cosine over the channels of each
    position; 0: not used."""
    meanflow: MeanFlow = MeanFlow()
    """Settings of the objective ``meanflow``."""
    mar: Mar = Mar()
    """Settings of the objective ``mar``."""
    representation: Representation = Representation()
    """REPA's alignment loss."""
    class_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Probability that a training label is replaced by the null class, for classifier-free guidance."""
    flip: bool = True
    """Whether each training image is mirrored with probability 1/2."""
    training: Training = Training(total_images=102_400_000, batch=256, ema=0.9999, precision="bf16", optimiser=Optimiser(lr=1e-4))
    """Length, batch, precision and optimiser of stage 2."""
    weak_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the training after which the averaged weights are also kept, as the weak model of autoguidance; 0 keeps none."""
    snapshots: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    """Shares of the training after which the averaged weights are also kept, to sample from (``sampling.trained``)."""
    release: Release | None = None
    """A released transformer to use instead of training one."""


class Further(Part):
    """How the training of one network continues: from its weights, with a new optimiser."""

    images: Count
    """Training images at the new resolution, counted with repetition."""
    batch: Count | None = None
    """Global batch size; empty: that of the earlier training."""
    lr: Positive | None = None
    """Learning rate; empty: that of the earlier training. A cosine schedule starts again."""
    lr_warmup_images: Annotated[int, Field(ge=0)] = 0
    """Images over which the learning rate rises linearly from zero."""


class Continuation(Part):
    """An entry of the list ``continued``: a finished training at one resolution continues at the next one, which is that of the next entry
    or, for the last entry, ``data.resolution`` (arXiv 2510.15301, appendix H). No parameter is added; statistics of latents and a frozen
    alignment are measured again."""

    resolution: Annotated[int, Field(ge=16, le=1024)]
    """Side in pixels of the images of the earlier training. The images and rates beside it are those of the training that follows."""
    autoencoder: Further | None = None
    """Stage 1; required unless the card is a codec."""
    diffusion: Further
    """Stage 2."""
    adversarial_start_images: Annotated[int, Field(ge=0)] = 0
    """The GAN loss starts after this many images of the new resolution, with a new discriminator, because no artifact holds the old one."""
    positions: Literal["interpolated", "recomputed"] = "interpolated"
    """Fixed position embeddings of the larger token grid: interpolated keeps the extent of the first grid and puts new positions between
    the old ones (PixArt, arXiv 2310.00426); recomputed extends the grid, as in a network trained at that size from the start."""


class RunConfig(Sparse):
    """One run: everything its numbers depend on."""

    later = ("continued", "generation")

    preset: str = "paper"
    """Name of the preset that gave the defaults; a label that is not part of a key."""
    seed: Seed = 0
    """Seed of initial weights, data order, noise and probes."""
    data: Data = Data()
    """The images."""
    encoder: Encoder = Encoder()
    """The frozen encoder."""
    autoencoder: Autoencoder = Autoencoder()
    """Stage 1."""
    latents: Latents = Latents()
    """Standardisation of the latents."""
    diffusion: Diffusion = Diffusion()
    """Stage 2."""
    sampling: Sampling = Sampling()
    """The samples."""
    scores: Scores = Scores()
    """The metrics."""
    continued: Annotated[tuple[Continuation, ...], Field(min_length=1)] | None = None
    """Earlier trainings at other resolutions that this run continues, in order; none when empty."""
    generation: bool = True
    """Whether a transformer is trained, sampled and scored; without it a run has reconstruction and perception only, and ``diffusion`` and
    ``sampling`` have no effect."""
