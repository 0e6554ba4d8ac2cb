"""Sizes of the networks and how they are trained: parts of ``schema.RunConfig``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from svgbench.config.part import Count, NotNegative, Part, Positive, Share, Sparse, heads_divide


class Optimiser(Sparse):
    """Adam, decoupled weight decay, linear warm-up."""

    later = ("decay_start_images", "final_lr")
    lr: Positive = 1e-4
    """Learning rate after the warm-up."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Adam's decay rates of the first and second moments."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay (AdamW), multiplied by the learning rate at each update; 0 gives Adam."""
    lr_warmup_images: Annotated[int, Field(ge=0)] = 0
    """Images over which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Schedule after the warm-up: constant, or cosine or linear decay to ``final_lr`` at ``total_images``."""
    decay_start_images: Annotated[int, Field(ge=0)] = 0
    """Number of images after which ``cosine`` and ``linear`` start to decay; 0: the end of the warm-up."""
    final_lr: NotNegative = 0.0
    """Learning rate at which ``cosine`` and ``linear`` end."""
    max_gradient_norm: NotNegative = 0.0
    """Gradients with a larger norm are scaled down to this norm; 0 never scales."""

    @model_validator(mode="after")
    def _decay_decays(self) -> Optimiser:
        used = [name for name in self.later if getattr(self, name)]
        if used and self.schedule == "constant":
            raise ValueError(f"{used[0]} needs schedule cosine or linear; set schedule, or leave {used[0]} out")
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr {self.final_lr:g} is above lr {self.lr:g}; give at most lr")
        if 0 < self.decay_start_images < self.lr_warmup_images:
            raise ValueError(f"decay_start_images {self.decay_start_images} is below lr_warmup_images {self.lr_warmup_images}")
        return self


class Training(Part):
    """Length, batches and precision of a network's training."""

    total_images: Count
    """Training images seen in total, counted with repetition."""
    batch: Count
    """Global batch: images per update over all processes and micro-batches."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay per update of the exponential moving average of the weights, which is used after training; 0 uses the last weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic inside the networks (bf16: autocast; weights, losses and statistics stay fp32)."""
    checkpoint_images: Count = 1_000_000
    """Images between two checkpoints: an interruption loses at most this work."""
    skipped_updates: Annotated[int, Field(ge=0)] = 3
    """Updates with a loss or gradient that is not finite are skipped; one more than this number stops the run."""
    optimiser: Optimiser = Optimiser()
    """Adam and its learning rate schedule."""

    @model_validator(mode="after")
    def _decay_ends(self) -> Training:
        start = self.optimiser.decay_start_images
        if start and start >= self.total_images:
            raise ValueError(
                f"optimiser.decay_start_images {start} must be below total_images {self.total_images}, so that the learning rate can decay"
            )
        return self


class Residual(Sparse):
    """The residual encoder (SVG section 3.2): a ViT on the pixels that adds the detail missing from the features."""

    later = ("attention_dropout", "kind")

    kind: Literal["vit", "patch"] = "vit"
    """vit: SVG's ViT; patch: one linear map of each patch, a second patch embedding, which shows how much of the residual is linear. The
    fields below, except channels and drop, are for ``vit``."""
    channels: Annotated[int, Field(ge=0, le=1024)] = 8
    """Channels of the residual latent; 0 builds no residual encoder (``--no-residual``)."""
    layers: Count = 6
    """Transformer blocks."""
    width: Count = 384
    """Channels of a token; a multiple of ``heads``."""
    heads: Count = 8
    """Attention heads of a block."""
    mlp: Count = 1536
    """Hidden channels of a block's MLP."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout probability inside the blocks while training."""
    attention_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout probability of the attention weights while training (the release: 0.1)."""
    drop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Probability, per training image, that a learned mask token replaces the whole residual."""

    _heads_divide = model_validator(mode="after")(heads_divide)


class VitDecoder(Part):
    """RAE's decoder (arXiv 2510.11690): a ViT like MAE's decoder, with one token per latent position."""

    width: Count = 1152
    """Channels of a token; a multiple of 4 and of ``heads``."""
    layers: Count = 28
    """Transformer blocks."""
    heads: Count = 16
    """Attention heads of a block."""
    mlp: Count = 4096
    """Hidden channels of a block's MLP."""

    @model_validator(mode="after")
    def _heads_divide(self) -> VitDecoder:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4 and of heads {self.heads}")
        return self


class Decoder(Sparse):
    """The decoder from raw latents to pixels. The LDM convolutional decoder upsamples by 2 ** (levels - 1), which must be the encoder's
    stride; the ViT decoder fits any stride."""

    later = ("groups",)
    kind: Literal["ldm", "vit"] = "ldm"
    """ldm: LDM's convolutional decoder; vit: RAE's transformer, which fits any encoder stride."""
    vit: VitDecoder = VitDecoder()
    """Sizes for ``kind: vit``; the other fields are for ``kind: ldm``."""
    base: Count = 128
    """Channels of the finest level; each level has ``base`` times its multiplier."""
    multipliers: tuple[Count, ...] = (1, 1, 2, 2, 4)
    """Channel multipliers from the finest level to the coarsest; n levels upsample 2 ** (n - 1) times."""
    blocks: Count = 2
    """Residual blocks per level; the decoder has one more than this, as in LDM."""
    attention: tuple[Count, ...] = (16,)
    """Sides of the feature grids, in positions, whose blocks get self-attention; the middle of the decoder always has it."""
    groups: Count | None = None
    """Groups of each group norm; empty: 32, or fewer on levels narrower than 128 channels. Released decoders have 32 at any width."""

    @model_validator(mode="after")
    def _groups_divide(self) -> Decoder:
        wrong = [self.base * m for m in self.multipliers if self.groups and self.base * m % self.groups]
        if wrong and self.kind == "ldm":
            raise ValueError(f"{self.groups} groups do not divide a level of {wrong[0]} channels")
        return self


class Wide(Part):
    """RAE's wide head (DDT): a shallow transformer on the noised latents; each token is conditioned on the backbone's token."""

    width: Count = 2048
    """Channels of a token; a multiple of ``heads``."""
    depth: Count = 2
    """Transformer blocks."""
    heads: Count = 16
    """Attention heads of a block."""

    _heads_divide = model_validator(mode="after")(heads_divide)


class Transformer(Part):
    """The diffusion transformer: its size, and the choices in which DiT, SiT, REPA, LightningDiT, RAE and SVG differ."""

    width: Count = 1152
    """Channels of a token; a multiple of ``heads``."""
    depth: Count = 28
    """Transformer blocks."""
    heads: Count = 16
    """Attention heads of a block."""
    mlp_ratio: Positive = 4.0
    """Hidden channels of a block's MLP divided by ``width``."""
    patch: Count | None = None
    """Latent positions per token side; empty: the card's value (1 for ViT latents, 2 for SD-VAE)."""
    qk_norm: bool = True
    """Whether queries and keys are normalised before attention."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation before attention and MLP: layer norm or RMS norm."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """MLP of a block: two layers with GELU, or SwiGLU."""
    position: Literal["sincos", "rope", "both"] = "sincos"
    """Positions of tokens: added sines and cosines (DiT), rotary embedding of queries and keys, or both."""
    time: Literal["cosine", "fourier"] = "cosine"
    """Embedding of the time t: DiT's sines and cosines of fixed frequencies, or RAE's of random frequencies."""
    learned_sigma: bool = False
    """Whether the network also predicts a variance for each latent value (DiT); for ``objective: ddpm``."""
    wide: Wide | None = None
    """RAE's wide head; none when empty."""

    _heads_divide = model_validator(mode="after")(heads_divide)
