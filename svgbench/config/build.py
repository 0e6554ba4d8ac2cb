"""From settings on top of a preset to a RunConfig whose parts fit one another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svgbench.config import cards
from svgbench.config.choices import (
    OBJECTIVES,
    SAMPLERS,
    check_rounds,
    check_zero_init,
    listed,
    objectives_with,
    replacing_alignments,
    samplers_of,
)
from svgbench.config.derived import start_of
from svgbench.config.experiments import preset_settings
from svgbench.config.networks import Decoder, Residual, Transformer
from svgbench.config.paper_heads import PaperHeads
from svgbench.config.parse import merge, of_each, validate
from svgbench.config.sampling import TUNED, Sampling, Tuning
from svgbench.config.schema import Autoencoder, Diffusion, Latents, Mar, MeanFlow, Representation, RunConfig
from svgbench.config.scoring import DepthHead, Scores, SegmentationHead
from svgbench.errors import BadConfig, UnknownName

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 128, "depth": 4, "heads": 4},
    "mini": {"width": 192, "depth": 4, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}
"""SiT's sizes (arXiv 2401.08740, table 1), and two for drawn images."""
WIDE: dict[str, int] = {"width": 2048, "depth": 2, "heads": 16}
WIDE_TINY: dict[str, int] = {"width": 192, "depth": 2, "heads": 4}
"""RAE's wide head, the same for every size (arXiv 2510.11690, section 5), and a smaller one for the sizes ``tiny`` and ``mini``."""

DIMENSION = 4096
"""Latent dimension for which RAE's shift is 1: that of the SD-VAE at 256 px, also used at other resolutions."""
REFERENCE = "sd-vae"
"""The family whose latent is the reference of RAE's shift: its dimension is ``DIMENSION`` at 256 px, 256 at ``tiny`` and ``mini``."""


def dimension_shift(numbers: float, base: float = DIMENSION) -> float:
    """RAE's shift for a latent of this dimension (arXiv 2510.11690, equation 6): sqrt(base / dimension), at most 1.

    RAE writes a = sqrt(dimension / base) for times that run to noise and refuses a < 1 (bytetriper/RAE, ``stage2/transport/transport.py``);
    times that run to data, as here, are shifted by 1 / a. Latents smaller than the reference keep uniform times.
    """
    return round(min(1.0, math.sqrt(base / numbers)), 6)


def reference_numbers(preset: str, extra: Path | None = None) -> int:
    """Dimension of the preset's reference latent: that of ``REFERENCE``'s card at the preset's own resolution."""
    card, side = cards.find(REFERENCE, preset, extra), preset_settings(preset, extra)["data"]["resolution"]
    return card.channels * (side // card.stride) ** 2


OF_SHAPES = {"scores": {"extractor": "shapes-cnn", "perceptual": "shapes-lpips"}, "autoencoder": {"loss": {"network": "shapes-lpips"}}}
"""Judging networks of the preset ``small`` on its own images: shipped networks trained on drawn images. Other images have no default."""


def build(settings: Mapping[str, Any], *, preset: str, where: str = "", extra: Path | None = None) -> RunConfig:
    """The RunConfig of a preset, overridden by settings: names are resolved to a card and sizes to a transformer; identities stay empty."""
    base = preset_settings(preset, extra)
    merged = {**merge(base, settings), "preset": preset}
    if of_each(merged.get("continued")):  # settings for each entry, but no entries
        del merged["continued"]
    draft = validate(RunConfig, {**merged, "diffusion": {**merged.get("diffusion", {}), "transformer": {}}}, where=where)
    try:
        card = cards.find(draft.encoder.card, preset, extra)
    except UnknownName as error:
        raise error.about("encoder.card") from None
    if draft.data.source != base.get("data", {}).get("source"):  # the preset's counts are for its own images
        counts = {name: None for name in ("train_images", "val_images") if name not in settings.get("data", {})}
        merged = merge(merged, {"data": counts})
    elif preset == "small":
        merged = merge(OF_SHAPES, merged)
    given = {k: v for k, v in (merged.get("diffusion", {}).get("transformer") or {}).items() if v is not None}
    if given.get("wide") is not None:
        given["wide"] = {**(WIDE_TINY if draft.diffusion.size in ("tiny", "mini") else WIDE), **given["wide"]}
    levels = settings.get("autoencoder", {}).get("decoder", {}).get("multipliers") or _levels(draft, card)
    fitted = {
        "encoder": {"card": card.name},
        "diffusion": {"transformer": {"patch": card.patch, **SIZES[draft.diffusion.size], **given}},
        "autoencoder": {"decoder": {"multipliers": levels}},
    }
    config = validate(RunConfig, merge(merged, fitted), where=where)
    _check_fit(config, card, where)
    return _normal(config, extra)


def _normal(config: RunConfig, extra: Path | None) -> RunConfig:
    """The same run with unused settings at their defaults, so that equal work has equal keys."""
    most = config.data.limit or config.sampling.count
    sampling = config.sampling.model_copy(update={"count": min(config.sampling.count, most)})
    autoencoder = _plain_autoencoder(config.autoencoder)
    parts = {
        "sampling": sampling, "autoencoder": autoencoder, "latents": _plain_latents(config.latents, autoencoder),
        "diffusion": _plain_diffusion(config, extra), "scores": _plain_scores(config.scores),
    }  # fmt: skip
    return _tuned(_shifted(_continued(config.model_copy(update=parts), extra), extra))


def _continued(config: RunConfig, extra: Path | None) -> RunConfig:
    """Removes the continuation of stage 1 for a codec, which has no such training."""
    if config.continued and cards.find(config.encoder.card, config.preset, extra).kind == "codec":
        steps = tuple(step.model_copy(update={"autoencoder": None, "adversarial_start_images": 0}) for step in config.continued)
        return config.model_copy(update={"continued": steps})
    return config


def _tuned(config: RunConfig) -> RunConfig:
    """Fills in how a tuned shift is chosen; clears it if the shift is not tuned."""
    sampling, limit = config.sampling, config.data.limit
    if sampling.shift != TUNED:
        return config.model_copy(update={"sampling": sampling.model_copy(update={"tuning": None})})
    tuning = sampling.tuning or Tuning()
    tuning = tuning.model_copy(update={"count": min(tuning.count, limit or tuning.count)})
    return config.model_copy(update={"sampling": sampling.model_copy(update={"tuning": tuning})})


def _plain_scores(part: Scores) -> Scores:
    """Keeps the settings of the chosen protocol's heads; of the others, only those that describe the data."""
    if part.protocol == "dinov3":
        return part.model_copy(update={"paper": PaperHeads()})
    known = part.depth.head
    segmentation = part.segmentation.model_copy(update={"head": SegmentationHead(classes=part.segmentation.head.classes)})
    head = DepthHead(nearest=known.nearest, farthest=known.farthest, border=known.border)
    return part.model_copy(update={"segmentation": segmentation, "depth": part.depth.model_copy(update={"head": head})})


def _plain_autoencoder(part: Autoencoder) -> Autoencoder:
    if part.residual.channels == 0:  # nothing to align
        part = part.model_copy(update={"align": "none", "residual": Residual(channels=0)})
    elif part.residual.kind == "patch":
        part = part.model_copy(update={"residual": Residual(kind="patch", channels=part.residual.channels, drop=part.residual.drop)})
    if part.align == "none" or part.align_strength == 0:
        part = part.model_copy(update={"align": "none", "align_strength": 1.0})
    if part.align in ("none", "token"):  # no statistics of a batch
        part = part.model_copy(update={"align_gradient": False})
    if part.release:
        return Autoencoder(release=part.release, residual=part.residual, align=part.align)
    sizes = {"vit": Decoder().vit} if part.decoder.kind == "ldm" else Decoder(kind="vit", vit=part.decoder.vit).model_dump()
    return part.model_copy(update={"decoder": Decoder(**{**part.decoder.model_dump(), **sizes})})


def _plain_latents(part: Latents, autoencoder: Autoencoder) -> Latents:
    """Removes a replacement of the alignment without effect: there is no residual, or it equals the trained alignment."""
    same = part.align == autoencoder.align and autoencoder.align_strength == 1
    return part.model_copy(update={"align": None}) if same or autoencoder.residual.channels == 0 else part


def _plain_diffusion(config: RunConfig, extra: Path | None) -> Diffusion:
    part, teacher = config.diffusion, config.diffusion.representation
    if part.release:
        return Diffusion(release=part.release, objective=part.objective)
    if not teacher.weight:
        return part.model_copy(update={"representation": Representation()})
    encoder = teacher.encoder.model_copy(update={"card": cards.find(teacher.encoder.card, config.preset, extra).name})
    block = teacher.block or min(8, max(1, part.transformer.depth // 2))
    return part.model_copy(update={"representation": teacher.model_copy(update={"encoder": encoder, "block": block})})


def _shifted(config: RunConfig, extra: Path | None) -> RunConfig:
    """Replaces RAE's shift by its value for these latents; removes shifts if times are the steps of a fixed schedule (DDPM)."""
    diffusion, sampling = config.diffusion, config.sampling
    if not OBJECTIVES[diffusion.objective].continuous:
        diffusion = diffusion.model_copy(update={"prediction": "velocity", "time": "uniform", "shift": 1.0, "dimension_shift": False})
        sampling = sampling.model_copy(update={"shift": 1.0, "dimension_shift": False})
    if diffusion.objective != "flow":
        diffusion = diffusion.model_copy(update={"prediction": "velocity"})
    if diffusion.objective != "meanflow":
        diffusion = diffusion.model_copy(update={"meanflow": MeanFlow()})
    if diffusion.objective != "mar":
        diffusion = diffusion.model_copy(update={"mar": Mar()})
        sampling = sampling.model_copy(update={"head_steps": Sampling().head_steps, "temperature": 1.0, "token_limit": None})
    else:
        used = {name: getattr(diffusion.transformer, name) for name in ("width", "depth", "heads", "mlp_ratio", "patch")}
        diffusion = diffusion.model_copy(update={"transformer": Transformer(**used)})
    if diffusion.dimension_shift or sampling.dimension_shift:
        card = cards.card_of(config.encoder, config.preset, extra)
        if card.channels == 0:
            raise BadConfig(f"dimension_shift: the width of '{card.name}' is known only when it is opened; give a number as shift.")
        channels = card.channels + (config.autoencoder.residual.channels if card.kind == "features" else 0)
        numbers = channels * (config.data.resolution // card.stride) ** 2
        by_size = {"shift": dimension_shift(numbers, reference_numbers(config.preset, extra)), "dimension_shift": False}
        diffusion = diffusion.model_copy(update=by_size) if diffusion.dimension_shift else diffusion
        sampling = sampling.model_copy(update=by_size) if sampling.dimension_shift else sampling
    return config.model_copy(update={"diffusion": diffusion, "sampling": sampling})


def _levels(draft: RunConfig, card: cards.EncoderCard) -> list[int]:
    """The preset's multipliers, with the coarsest repeated or the finest dropped so that they upsample by the card's stride."""
    multipliers, wanted = list(draft.autoencoder.decoder.multipliers), card.stride.bit_length()
    return multipliers[-wanted:] if len(multipliers) >= wanted else multipliers + multipliers[-1:] * (wanted - len(multipliers))


def _check_fit(config: RunConfig, card: cards.EncoderCard, where: str) -> None:
    """Refuses parts that do not fit one another: the decoder's upsampling, the patch size, the image counts."""
    start = f"{where}: " if where else ""
    _check_continued(config, card, start)
    stride, side = card.stride, config.data.resolution
    levels = len(config.autoencoder.decoder.multipliers)
    if side % stride:
        below = side - side % stride
        raise BadConfig(
            f"{start}images of {side} px cannot be divided into the {stride} px patches of '{card.name}'; use {below} or {below + stride}."
        ).about("data.resolution")
    autoencoder = config.autoencoder
    if card.kind == "features" and autoencoder.decoder.kind == "ldm" and not autoencoder.release and 2 ** (levels - 1) != stride:
        raise BadConfig(
            f"{start}autoencoder.decoder.multipliers has {levels} levels, which upsample {2 ** (levels - 1)} times, "
            f"but '{card.name}' has stride {stride}; give {stride.bit_length()} multipliers."
        )
    features = config.encoder.features or card.features
    several = features.layers != "last" and len(features.layers) > 1 and features.combine in ("sum", "mean")
    if autoencoder.layer_subsets and card.kind == "features" and not several:
        raise BadConfig(
            f"{start}autoencoder.layer_subsets {autoencoder.layer_subsets:g} needs features from several blocks, but '{card.name}' has "
            "none to leave out; give encoder.features.layers, such as [2, 3, 4], and combine: mean or sum."
        ).about("autoencoder.layer_subsets")
    _check_crops(config, card, start)
    _check_latents(config, card, start)
    _check_diffusion(config, start)
    patch = config.diffusion.transformer.patch
    if not config.diffusion.release and patch is not None and (side // stride) % patch:
        raise BadConfig(
            f"{start}diffusion.transformer.patch {patch} does not divide the {side // stride} x {side // stride} latents of '{card.name}'."
        )
    _check_rounds(config, side // stride // (patch or 1), start)
    if config.data.drawn and (config.data.train_images is None or config.data.val_images is None):
        raise BadConfig(
            f"{start}data.train_images and data.val_images must be numbers for '{config.data.source}', which is drawn on demand."
        )


def _check_rounds(config: RunConfig, side: int, start: str) -> None:
    """Checks what objectives that make their tokens in rounds do not have; ``side``: tokens per side of a latent."""
    diffusion, sampling = config.diffusion, config.sampling
    if not OBJECTIVES[diffusion.objective].rounds or diffusion.release:
        return
    if diffusion.representation.weight:
        raise BadConfig(
            f"{start}diffusion.representation aligns a block of SiT, and diffusion.objective {diffusion.objective} has none; "
            "set diffusion.representation.weight=0."
        ).about("diffusion.representation.weight")
    if max(sampling.steps) > side**2:
        raise BadConfig(
            f"{start}sampling.steps {max(sampling.steps)} is more than the {side**2} tokens of a latent, of which each round of the "
            f"sampler {sampling.sampler} makes at least one; use at most {side**2}."
        ).about("sampling.steps")
    if config.continued:
        raise BadConfig(
            f"{start}continued needs positions that fit a larger grid, and those of diffusion.objective {diffusion.objective} are learned; "
            "leave continued out."
        ).about("continued")
    try:
        check_rounds(sampling.sampler, sampling.schedule, sampling.guided_channels)
    except BadConfig as error:
        raise BadConfig(f"{start}sampling.{error}").about(error.field) from None


def _check_latents(config: RunConfig, card: cards.EncoderCard, start: str) -> None:
    """Checks that alignment, its replacement and the standardisation fit the encoder and the releases."""
    latents, autoencoder = config.latents, config.autoencoder
    if autoencoder.align == "token" and autoencoder.residual.channels == 1 and card.kind == "features":
        raise BadConfig(
            f"{start}autoencoder.align token needs the standard deviation over a token's residual channels, but there is only 1; "
            "set autoencoder.residual.channels to 2 or more."
        ).about("autoencoder.align")
    if autoencoder.release and autoencoder.align_strength != 1:
        raise BadConfig(
            f"{start}autoencoder.align_strength {autoencoder.align_strength:g} does not fit autoencoder.release, whose decoder was trained "
            "on whole alignment; leave autoencoder.align_strength out."
        ).about("autoencoder.align_strength")
    if latents.align is not None and card.kind == "codec":
        raise BadConfig(
            f"{start}latents.align {latents.align} replaces the alignment of a residual, but '{card.name}' is a codec and has no residual; "
            "leave latents.align out."
        ).about("latents.align")
    if latents.align is not None and latents.align not in replacing_alignments():
        raise BadConfig(
            f"{start}latents.align {latents.align} cannot be undone for the decoder, because its map differs for each "
            f"{latents.align}; use {listed(replacing_alignments())}."
        ).about("latents.align")
    for field, value, usual in (("standardise", latents.standardise, "channel"), ("align", latents.align, None)):
        if config.diffusion.release and value != usual:
            raise BadConfig(
                f"{start}latents.{field} {value} does not fit diffusion.release, whose transformer was trained on the latents of its "
                f"release; leave latents.{field} out."
            ).about(f"latents.{field}")


def _check_continued(config: RunConfig, card: cards.EncoderCard, start: str) -> None:
    """Checks that a training can continue at another resolution. Each resolution is checked like that of a run."""
    before = start_of(config)
    if before is None or not config.continued:
        return
    side, now = before.data.resolution, config.data.resolution
    if side == now:
        raise BadConfig(
            f"{start}continued.resolution {side} is the resolution of the run itself; give that of the earlier training."
        ).about("continued")
    if config.autoencoder.release or config.diffusion.release:
        raise BadConfig(f"{start}continued needs networks trained by svgbench, but this run uses a release; leave one of them out.").about(
            "continued"
        )
    if config.diffusion.dimension_shift or config.sampling.dimension_shift:
        raise BadConfig(
            f"{start}dimension_shift would differ between the resolutions of a continued run; set diffusion.shift and sampling.shift."
        ).about("continued")
    if card.kind != "codec" and config.continued[-1].autoencoder is None:
        raise BadConfig(
            f"{start}continued.autoencoder must state for how many images the autoencoder of '{card.name}' is trained further; set images."
        ).about("continued")
    try:
        _check_fit(before, card, "")
    except BadConfig as error:
        raise BadConfig(f"{start}continued.resolution {side}: {error}").about("continued") from None


def _check_crops(config: RunConfig, card: cards.EncoderCard, start: str) -> None:
    """Refuses crops of the paper's heads that the encoder's stride does not divide."""
    scores, heads = config.scores, config.scores.paper
    crops = {"fpn": (scores.segmentation.source, heads.fpn.crop), "deconv": (scores.depth.source, heads.deconv.crop)}
    for name, (source, crop) in crops.items():
        if scores.protocol == "paper" and source is not None and (rest := crop % card.stride):
            fitting = f"{crop - rest} or {crop - rest + card.stride}" if crop > rest else card.stride
            raise BadConfig(
                f"{start}scores.paper.{name}.crop {crop} cannot be divided into the {card.stride} px patches of '{card.name}'; "
                f"use {fitting}."
            ).about(f"scores.paper.{name}.crop")


def _check_diffusion(config: RunConfig, start: str) -> None:
    """Checks that objective, samplers and guidance fit together."""
    diffusion, sampling = config.diffusion, config.sampling
    objective, sampler = OBJECTIVES[diffusion.objective], SAMPLERS[sampling.sampler]
    if sampler.objective != diffusion.objective:
        fact = f"sampling.sampler {sampling.sampler} does not fit diffusion.objective {diffusion.objective}"
        raise BadConfig(f"{start}{fact}; use {listed(samplers_of(diffusion.objective))}.")
    if sampling.shift == TUNED and sampling.dimension_shift:
        raise BadConfig(f"{start}sampling.shift tuned and sampling.dimension_shift exclude each other; give one.").about("sampling.shift")
    try:
        sampler.times(max(sampling.steps), 1.0 if isinstance(sampling.shift, str) else sampling.shift)
    except BadConfig as error:
        raise BadConfig(f"{start}sampling.steps: {error}").about("sampling.steps") from None
    try:
        check_zero_init(sampling.sampler, min(sampling.steps), sampling.zero_init, sampling.optimised_scale, sampling.against)
    except BadConfig as error:
        raise BadConfig(f"{start}sampling.{error}").about(error.field) from None
    tuning = sampling.tuning or Tuning()
    if sampling.shift == TUNED and sampling.zero_init >= tuning.steps:
        raise BadConfig(
            f"{start}sampling.zero_init {sampling.zero_init} must be below the {tuning.steps} steps of sampling.tuning; change one of them."
        ).about("sampling.zero_init")
    if sampling.against == "weak" and not objective.autoguidance:
        raise BadConfig(
            f"{start}sampling.against weak needs diffusion.objective {objectives_with('autoguidance')}; set sampling.against=null."
        )
    if sampling.against == "weak" and not diffusion.weak_share:
        raise BadConfig(f"{start}sampling.against weak needs a weak model; set diffusion.weak_share, such as 0.25.")
    if (diffusion.weak_share or diffusion.snapshots) and not diffusion.training.ema:
        field = "weak_share" if diffusion.weak_share else "snapshots"
        raise BadConfig(f"{start}diffusion.{field} keeps averaged weights; set diffusion.training.ema, such as 0.9999.")
    absent = sorted(set(sampling.trained) - {1.0, *diffusion.snapshots})
    if absent:
        raise BadConfig(f"{start}sampling.trained names {absent[0]:g}, which diffusion.snapshots does not keep; name it there too.")
    if diffusion.direction and not objective.continuous:
        raise BadConfig(
            f"{start}diffusion.direction needs a velocity model, diffusion.objective {objectives_with('continuous')}; set it to 0."
        ).about("diffusion.direction")
    if diffusion.transformer.learned_sigma and not objective.learned_sigma:
        fitting = objectives_with("learned_sigma")
        raise BadConfig(f"{start}diffusion.transformer.learned_sigma is for diffusion.objective {fitting}; leave it off.")
