"""Sizes that determine a run's costs: sizes of images and latents, and operations of the networks on one of them. No torch."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from svgbench.config import cards
from svgbench.config.choices import CACHE_BYTES, KEPT_BYTES, OBJECTIVES, evaluations, hidden_share, left_after
from svgbench.config.derived import first_resolution
from svgbench.config.schema import RunConfig
from svgbench.lab.forecast import flops
from svgbench.metrics import judges
from svgbench.shelf import folder, read_yaml
from svgbench.stages import graph

FLOAT = 4
"""Bytes of a float32 number."""


@dataclass(frozen=True)
class Counts:
    """Numbers of images and classes of a source."""

    train: int
    val: int
    classes: int
    assumed: str = ""
    """The data set with these published counts, if the images are not on this machine."""


@dataclass(frozen=True)
class Sizes:
    """Sizes that determine a run's costs."""

    config: RunConfig
    card: cards.EncoderCard
    counts: Counts
    teacher: cards.EncoderCard | None = None

    @property
    def side(self) -> int:
        """Side of an image in pixels."""
        return self.config.data.resolution

    @property
    def first(self) -> int:
        """Side in pixels of the images on which the networks were first trained."""
        return first_resolution(self.config)

    @property
    def grid(self) -> int:
        """Side of a latent in positions."""
        return self.side // self.card.stride

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.card.channels + self.residual_channels

    @property
    def residual_channels(self) -> int:
        """The latent channels that the residual encoder adds."""
        return self.config.autoencoder.residual.channels if self.card.kind == "features" else 0

    @cached_property
    def residual(self) -> flops.Work:
        """Operations of the residual encoder on one image."""
        if not self.residual_channels:
            return flops.Work()
        return flops.residual_encoder(self.config.autoencoder.residual, patch=self.card.stride, resolution=self.side, first=self.first)

    @cached_property
    def decoder(self) -> flops.Work:
        """Operations of the trained decoder on one latent."""
        part, trained = self.config.autoencoder.decoder, bool(self.residual_channels)
        sizes = {"stride": self.card.stride, "resolution": self.side, "first": self.first}
        return flops.decoder(part, channels=self.channels, trained_latents=trained, **sizes)

    @cached_property
    def transformer(self) -> flops.Work:
        """Operations of the diffusion transformer on one latent."""
        part, classes = self.config.diffusion, self.counts.classes
        if part.objective == "mar":
            hidden = self.tokens * statistics.fmean(hidden_share((n + 0.5) / 100, part.mar.least_hidden) for n in range(100))
            return self.mar(self.tokens - hidden, hidden * part.mar.repeats)
        interval = OBJECTIVES[part.objective].intervals
        return flops.transformer(part.transformer, channels=self.channels, grid=self.grid, classes=classes, interval=interval)

    def drawing(self, steps: int, guidance: float) -> float | None:
        """Operations of the transformer for one sample of the run's sampler; None if its steps are adaptive."""
        part = self.config.sampling
        if self.config.diffusion.objective == "mar":  # the transformer once a round, the head for every token once
            kept = [0, *(self.tokens - left for left in left_after(steps, self.tokens))]
            head = part.head_steps * (self.mar(0, self.tokens).forward - self.mar(0, 0).forward)
            return (1 if guidance == 1 else 2) * (sum(self.mar(count, 0).forward for count in kept) + head)
        shift = 1.0 if isinstance(part.shift, str) else part.shift  # a tuned shift is not known yet; it matters for an interval of guidance
        calls = evaluations(part.sampler, steps, guidance, part.schedule, shift, part.zero_init)
        return None if calls is None else calls * self.transformer.forward

    @property
    def feature_bytes(self) -> int:
        """Bytes of the frozen features of one image in stage 1: of each of several blocks, if their combination changes."""
        layers = (self.config.encoder.features or self.card.features).layers
        several = len(layers) if self.config.autoencoder.layer_subsets and layers != "last" else 1
        return FLOAT * self.card.channels * several * self.grid**2

    @property
    def tokens(self) -> int:
        """Tokens of a latent in the diffusion transformer."""
        return (self.grid // (self.config.diffusion.transformer.patch or 1)) ** 2

    def mar(self, kept: float, drawn: float) -> flops.Work:
        """Operations of MAR on one latent of which ``kept`` tokens exist, with the head on ``drawn`` tokens."""
        part = self.config.diffusion
        sizes = {"channels": self.channels, "grid": self.grid, "classes": self.counts.classes}
        return flops.mar(part.transformer, part.mar, **sizes, kept=kept, drawn=drawn)

    @cached_property
    def features(self) -> float:
        """Operations of the frozen encoder on one image."""
        return flops.encoding(self.card, self.side) or 0.0

    @property
    def encoding(self) -> float:
        """Operations from one image to its raw latent."""
        return self.features + self.residual.forward

    @cached_property
    def decoding(self) -> float:
        """Operations from one raw latent to its image."""
        if self.card.kind == "codec":
            return flops.encoding(self.card, self.side, decode=True) or 0.0
        return self.decoder.forward

    @cached_property
    def extractor(self) -> float:
        """Operations of the judging network on one image."""
        return 1e9 * judges.row("features", self.config.scores.extractor).get("gflops", 0.0)

    @property
    def second_extractor(self) -> str:
        """Name of the second judging network; without one, that of the first (then no stage uses it)."""
        return self.config.scores.second_extractor or self.config.scores.extractor

    @cached_property
    def teaching(self) -> float:
        """Operations of REPA's teacher on one image."""
        return (flops.encoding(self.teacher, self.side) or 0.0) if self.teacher else 0.0

    @property
    def unknown(self) -> list[str]:
        """Networks with an unknown number of operations per image, which counts as zero."""
        named = [self.card, *([self.teacher] if self.teacher else [])]
        encoders = [f"the encoder {card.name}" for card in named if flops.encoding(card, self.side) is None]
        judging = dict.fromkeys((self.config.scores.extractor, self.second_extractor))
        return encoders + [f"the extractor {name}" for name in judging if not judges.row("features", name).get("gflops")]

    @property
    def latent_bytes(self) -> int:
        """Size of one raw latent in float32, in bytes."""
        return FLOAT * self.channels * self.grid**2

    @property
    def keeps_latents(self) -> bool:
        """Whether the statistics stage stores all latents, because they are small enough."""
        measured = graph.facts(self.config, self.card.kind)["measures-statistics"]
        return measured and self.latent_bytes * (self.counts.train + self.counts.val) <= KEPT_BYTES

    def passes(self, number_bytes: int, seen: int, *, copies: int = 1) -> int:
        """Number of images to encode for a training on ``seen`` images: each only once if all values fit in memory."""
        return self.counts.train * copies if number_bytes * self.counts.train * copies <= CACHE_BYTES else seen


def counts_of(config: RunConfig) -> Counts:
    """Images and classes of the configured source: counted if the source is on this machine, else the published numbers of the data set."""
    data = config.data
    facts = published(data.source)
    if facts is not None:
        train, val = (data.at_most(split, facts[split]) for split in ("train", "val"))
        return Counts(train, val, facts["classes"], assumed=facts["title"])
    from svgbench.images.sources import counted

    train, val, classes = counted(data)
    return Counts(train, val, classes)


def published(source: str) -> dict[str, Any] | None:
    """The entry of the known image data set ``data.source``, if it is not on this machine; None for data sets of single scores."""
    facts = read_yaml(folder("reports") / "datasets.yaml").get(source)
    return facts if facts and facts["setting"].startswith("--data") and not Path(source).exists() else None


def sizes_of(config: RunConfig, counts: Counts, extra: Path | None = None) -> Sizes:
    """The sizes of a run, from its cards."""
    part = config.diffusion.representation
    teacher = cards.card_of(part.encoder, config.preset, extra) if part.weight else None
    return Sizes(config, cards.card_of(config.encoder, config.preset, extra), counts, teacher)
