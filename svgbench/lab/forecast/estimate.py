"""Estimated cost of a plan's nodes before they run: operations by precision, seconds of a CPU core, bytes on disk. No torch.

Counted: networks (``flops``), linear heads, distances and bootstrap resamples (``scoring``), drawing or decoding images, and the files that
are kept. Not counted: reading files, start-up and compilation. All values are estimates; the measured values of a finished node are in its
manifest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from svgbench.config.choices import ALIGNMENTS, MOMENT_IMAGES
from svgbench.config.derived import further_autoencoder, further_diffusion
from svgbench.config.schema import RunConfig
from svgbench.config.scoring import SPACES
from svgbench.lab.forecast import flops, memory, scoring
from svgbench.lab.forecast.sizes import FLOAT, Counts, Sizes, counts_of, sizes_of
from svgbench.lab.plan import Plan
from svgbench.metrics import judges
from svgbench.stages import graph

REFERENCE_IMAGES = 50_000
"""Largest number of images whose features are kept (``metrics.features.KEPT``)."""
CHECKPOINTS = 3
"""Checkpoints on disk while one is written: the two kept ones and the new one."""
JPEGS_PER_SECOND = 100.0
"""ImageNet JPEGs that one core decodes and crops to 256 px per second (assumed; 50 were measured on half of a busy core)."""
CROPS_PER_SECOND = 1_500.0
"""Random crops of 256 px images that one core cuts and resizes per second (measured: 1,519)."""
DRAWN_PIXELS_PER_SECOND = 4e6
"""Pixels of ``shapes`` that one core draws per second (measured: 6,300,000 at 32 px, 4,400,000 at 256 px)."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimated cost of one node."""

    bf16: float = 0.0
    """Operations in bfloat16."""
    fp32: float = 0.0
    core_seconds: float = 0.0
    """Seconds of one CPU core: drawing and decoding images, launching the small updates of linear heads."""
    kept: int = 0
    """Bytes of the finished artifact."""
    passing: int = 0
    """Temporary bytes while it is computed: checkpoints, features."""
    left_out: tuple[str, ...] = ()
    """What could not be counted, as text."""
    peak: memory.Peak | None = None
    """Planned peak memory of a GPU with the whole batch, for a stage whose peak is planned."""

    @property
    def flops(self) -> float:
        """Operations of both precisions."""
        return self.bf16 + self.fp32


class Estimates(NamedTuple):
    """The estimates of a plan."""

    nodes: dict[str, Estimate]
    """By key; a node shared by several runs is counted once."""
    notes: list[str]
    """What was assumed and what was not counted."""


def estimates(plan: Plan, extra: Path | None = None) -> Estimates:
    """The estimate of every node of a plan."""
    nodes: dict[str, Estimate] = {}
    counted: dict[str, Counts] = {}
    notes: dict[str, None] = {}
    for run in plan.runs:
        own = tuple(key for key in run.nodes if run.reason(key) is None)
        for config, keys in ((run.config, own), *((part.config, part.nodes) for part in run.behind)):
            source = config.data.model_dump_json()
            if source not in counted:
                counted[source] = counts_of(config)
            sizes = sizes_of(config, counted[source], extra)
            added = {key: estimate(plan.nodes[key].stage, plan.nodes[key].cell, sizes) for key in keys if key not in nodes}
            notes |= dict.fromkeys(assumptions(sizes, added.values()))
            nodes |= added
    return Estimates({key: nodes[key] for key in plan.nodes}, list(notes))


def assumptions(sizes: Sizes, made: Iterable[Estimate]) -> list[str]:
    """What was assumed about the images, and what could not be counted."""
    assumed = [f"image counts are those published for {sizes.counts.assumed}, which is not here"] if sizes.counts.assumed else []
    unstated = [f"{name}, whose operations per image are unknown" for name in sizes.unknown]
    left_out = dict.fromkeys([*unstated, *(word for each in made for word in each.left_out)])
    return assumed + [f"not counted: {word}" for word in left_out]


def outline(config: RunConfig, kind: str) -> list[tuple[graph.Stage, dict[str, Any]]]:
    """Stage and cell of every node of a run with a card of this ``kind``, without keys and without nodes of other configurations. Weights
    and images need not exist."""
    facts, plain = graph.facts(config, kind), config.model_dump(mode="json")
    provided: dict[str, list[dict[str, Any]]] = {}
    rows = []  # a replaced input has the cells of the original
    for stage in graph.STAGES:
        if not facts[stage.when]:
            continue
        choices = [provided[need][-1:] if stage.name == "overview" else provided[need] for need in stage.needs]
        entries = [[{path: entry} for entry in graph.field(plain, path)] for path in stage.each]
        cells = [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*choices, *entries)]
        provided[stage.provides or stage.name] = cells
        rows += [(stage, cell) for cell in cells]
    return rows


def estimate(stage: str, cell: Mapping[str, Any], sizes: Sizes) -> Estimate:
    """The estimated cost of a stage, for one cell of a run of these sizes."""
    if stage not in _STAGES:
        return Estimate(left_out=(f"the stage {stage}",))
    return replace(_STAGES[stage](sizes, cell), peak=memory.peak(stage, sizes))


def update_flops(sizes: Sizes, *, gan: bool) -> tuple[float, float]:
    """Operations of one image in one update of the autoencoder, without the frozen encoder: (at the training's precision, in fp32)."""
    part = sizes.config.autoencoder
    inside, outside = sizes.residual.training + sizes.decoder.training, 0.0
    if part.align_gradient:  # the pass through the alignment's statistics
        inside += sizes.residual.training
    if part.loss.perceptual:  # original, reconstruction, and the gradient at the reconstruction
        outside += 3 * flops.perceptual(part.loss.network, resolution=sizes.side)
    if gan and part.loss.adversarial:
        judge, first = flops.discriminator(part.loss, resolution=sizes.side)
        outside += 2 * judge.forward  # the generator's loss and its gradient at the reconstruction
        outside += 2 * (judge.training - first)  # the discriminator's own loss on the original and the reconstruction
        last = flops.last_layer(part.decoder, stride=sizes.card.stride, resolution=sizes.side).forward
        outside += (2 if part.decoder.kind == "ldm" else 3) * last  # two weight gradients, and a linear layer's output again
    return inside, outside


def _images(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    count, pixels = sizes.counts.train + sizes.counts.val, sizes.side**2
    drawn = sizes.config.data.drawn
    seconds = count * pixels / DRAWN_PIXELS_PER_SECOND if drawn else count / JPEGS_PER_SECOND
    return Estimate(core_seconds=seconds, kept=count * ((4 if drawn else 3) * pixels + 8))


def _autoencoder(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    part = sizes.config.autoencoder
    training, loss = part.training, part.loss
    late = max(0.0, 1 - loss.adversarial_start_images / training.total_images) if loss.adversarial else 0.0
    (inside, before), (_, after) = update_flops(sizes, gan=False), update_flops(sizes, gan=True)
    images = sizes.passes(sizes.feature_bytes, training.total_images)
    frozen, judged = images * sizes.features, training.total_images * ((1 - late) * before + late * after)
    if sizes.residual_channels and ALIGNMENTS[part.align].freezes:
        again = 0.0 if images < training.total_images else sizes.features
        frozen += min(sizes.counts.train, MOMENT_IMAGES) * (sizes.residual.forward + again)
    parameters = sizes.residual.parameters + sizes.decoder.parameters
    critic = flops.discriminator(loss, resolution=sizes.side)[0].parameters if loss.adversarial else 0
    passing = CHECKPOINTS * 3 * FLOAT * (parameters + critic)  # weights and Adam's two averages
    trained = training.total_images * inside
    return _at(
        (training.precision, trained), (sizes.config.encoder.precision, frozen), fp32=judged, kept=FLOAT * parameters, passing=passing
    )


def _realignment(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    parameters = sizes.residual.parameters + sizes.decoder.parameters
    return _at((sizes.config.encoder.precision, min(sizes.counts.train, MOMENT_IMAGES) * sizes.encoding), kept=FLOAT * parameters)


def _statistics(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    counts = sizes.counts
    images = counts.train + (counts.val if sizes.keeps_latents else 0)
    kept = images * sizes.latent_bytes if sizes.keeps_latents else 0
    return _at((sizes.config.encoder.precision, images * sizes.encoding), kept=kept)


def _diffusion(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    part = sizes.config.diffusion
    model, seen, copies = sizes.transformer, part.training.total_images, 2 if part.flip else 1
    inside, parameters, targets = model.training, model.parameters, 0.0
    if part.objective == "meanflow":  # the derivative and, with guidance, the null class's velocity
        targets = seen * model.forward * (flops.DERIVATIVE + (part.meanflow.guidance != 1))
    in_memory = sizes.keeps_latents and not part.flip
    encoded = 0.0 if in_memory else sizes.passes(sizes.latent_bytes, seen, copies=copies) * sizes.encoding
    taught = 0.0
    if sizes.teacher is not None:
        card = sizes.teacher
        projector = flops.projector(sizes.tokens, part.transformer.width, part.representation.width, card.channels)
        inside, parameters = inside + projector.training, parameters + projector.parameters
        taught = sizes.passes(FLOAT * card.channels * (sizes.side // card.stride) ** 2, seen, copies=copies) * sizes.teaching
    states = 3 * parameters + (model.parameters if part.training.ema else 0)  # weights, Adam's two averages, the averaged weights
    kept = FLOAT * model.parameters * (1 + len(part.snapshots) + (part.weak_share > 0))
    return _at(
        (part.training.precision, seen * inside), (sizes.config.encoder.precision, encoded),
        (part.representation.encoder.precision, taught), fp32=targets, kept=kept, passing=CHECKPOINTS * FLOAT * states,
    )  # fmt: skip


def _continued_autoencoder(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    config = sizes.config
    part = further_autoencoder(config.autoencoder, config.continued[-1]) if config.continued else config.autoencoder
    return _autoencoder(replace(sizes, config=config.model_copy(update={"autoencoder": part})), cell)


def _continued_diffusion(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    config = sizes.config
    part = further_diffusion(config.diffusion, config.continued[-1]) if config.continued else config.diffusion
    return _diffusion(replace(sizes, config=config.model_copy(update={"diffusion": part})), cell)


def _samples(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    part = sizes.config.sampling
    one = sizes.drawing(cell["sampling.steps"], cell["sampling.guidance"])
    left_out = () if one else (f"the transformer in samples by {part.sampler}, whose number of steps is adaptive",)
    drawn, decoded = part.count * (one or 0.0), part.count * sizes.decoding
    made = _at((part.precision, drawn), (sizes.config.encoder.precision, decoded), kept=part.count * (3 * sizes.side**2 + 8))
    return replace(made, left_out=left_out)


def _judged(judge: str, count: int) -> Estimate:
    """Features of ``count`` images and their moments."""
    row = judges.row("features", judge)
    width, kept = row["dim"], min(count, REFERENCE_IMAGES)
    seen = width + row.get("spatial", {}).get("dim", 0)
    operations = count * 1e9 * row.get("gflops", 0.0) + scoring.moments(count, width)
    return Estimate(
        fp32=operations, kept=FLOAT * width * kept + 8 * width * (width + 1), passing=FLOAT * seen * count
    )  # fmt: skip


def _reconstructions(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    count = sizes.counts.val
    return _at((sizes.config.encoder.precision, count * (sizes.encoding + sizes.decoding)), kept=3 * count * sizes.side**2)


def _reconstruction_scores(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    scores = sizes.config.scores
    left_out = scores.perceptual == "lpips" and not scores.lpips_weights
    pair = 0.0 if left_out else 2 * flops.perceptual(scores.perceptual, resolution=sizes.side)
    count, width = sizes.counts.val, judges.row("features", scores.extractor)["dim"]
    distance = scoring.frechet(min(count, REFERENCE_IMAGES), width, scores.resamples, paired=True)
    return Estimate(fp32=count * (sizes.extractor + pair + scoring.SSIM * sizes.side**2) + distance)


def _generation_scores(judge: str, sizes: Sizes, *, distance_only: bool = False) -> Estimate:
    """Features of the samples, their distances to the reference and the bootstrap; ``distance_only``: a second extractor's."""
    scores, row = sizes.config.scores, judges.row("features", judge)
    features, width = _judged(judge, sizes.config.sampling.count), row["dim"]
    samples, reference = min(sizes.config.sampling.count, REFERENCE_IMAGES), min(sizes.counts.train, REFERENCE_IMAGES)
    operations = scoring.frechet(samples, width, scores.resamples) + scoring.extrapolated(samples, width, scores.resamples)
    if "spatial" in row:
        operations += scoring.jackknife(row["spatial"]["dim"])
    if not distance_only:
        operations += scoring.kernel(samples, reference, width, scores.resamples) + scoring.precision_recall(samples, reference, width)
    return replace(features, fp32=features.fp32 + operations, kept=0)


def _in_turn(parts: Iterable[Estimate]) -> Estimate:
    """The sum of steps in fp32 of one stage, which keeps all their files to its end."""
    total = Estimate()
    for each in parts:
        total = replace(total, fp32=total.fp32 + each.fp32, kept=total.kept + each.kept, passing=total.passing + each.passing)
    return total


def _encoded(sizes: Sizes, limit: int | None, width: int = 0) -> Estimate:
    """Encoding the latents of both splits, unless they are already stored; ``width``: numbers stored per image."""
    images = min(limit or sizes.counts.train, sizes.counts.train) + sizes.counts.val
    operations = 0.0 if sizes.keeps_latents else images * sizes.encoding
    return _at((sizes.config.encoder.precision, operations), kept=images * (FLOAT * width + 8) if width else 0)


def _pooled(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    return _encoded(sizes, sizes.config.scores.probe.train_images, sizes.card.channels + sizes.residual_channels)


def _widths(sizes: Sizes) -> list[int]:
    """Channels of each separately scored part of the latents: features, and residual and both if there is a residual."""
    return [sizes.card.channels, *([sizes.residual_channels, sizes.channels] if sizes.residual_channels else [])]


def _probes(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    settings, counts = sizes.config.scores.probe, sizes.counts
    train = min(settings.train_images or counts.train, counts.train)
    return _fitted(scoring.probes(width, train, counts.val, counts.classes, settings) for width in _widths(sizes))


def _own_segmentation(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    settings, counts = sizes.config.scores.segmentation, sizes.counts
    train, classes = min(settings.train_images or counts.train, counts.train), counts.classes + 1
    heads = _fitted(scoring.segmentation(width, sizes.grid, sizes.side, train, classes, settings) for width in _widths(sizes))
    encoded = _encoded(sizes, settings.train_images)
    return replace(heads, fp32=heads.fp32 + encoded.fp32, bf16=encoded.bf16)


def _fitted(fits: Iterable[scoring.Fit]) -> Estimate:
    """The estimate of several fits, one after the other."""
    every = list(fits)
    seconds = scoring.UPDATE_SECONDS * sum(fit.updates for fit in every)
    return Estimate(fp32=sum(fit.operations for fit in every), core_seconds=seconds)


def _on_crops(sizes: Sizes, images: int, pixels: int) -> Estimate:
    """A linear head trained on crops of another data set; the cost of encoding is assumed proportional to the pixels of a crop."""
    made = _at((sizes.config.encoder.precision, images * sizes.encoding * pixels / sizes.side**2))
    return replace(made, left_out=("the windows of dense evaluation",))


def _dense_segmentation(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    head = sizes.config.scores.segmentation.head
    return _on_crops(sizes, head.total_images, head.crop**2)


def _depth(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    head = sizes.config.scores.depth.head
    return _on_crops(sizes, head.total_images, head.crop[0] * head.crop[1])


def _paper_probe(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    crops = sizes.config.scores.paper.linear.epochs * sizes.counts.train
    made = _at((sizes.config.encoder.precision, (crops + sizes.counts.val) * sizes.encoding))
    return replace(made, core_seconds=crops / CROPS_PER_SECOND)


def _paper_segmentation(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    head, classes = sizes.config.scores.paper.fpn, sizes.config.scores.segmentation.head.classes
    positions = (head.crop // sizes.card.stride) ** 2
    one = sum(6.0 * positions * head.width * (9 * width + classes) for width in _widths(sizes))  # forward and backward
    encoded = _on_crops(sizes, head.total_images, head.crop**2)
    return replace(encoded, fp32=encoded.fp32 + head.total_images * one)


def _paper_depth(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    from svgbench.images.dense_sets import training_count  # numpy

    head, source = sizes.config.scores.paper.deconv, sizes.config.scores.depth.source
    if source is None or not Path(source).expanduser().is_dir():
        return Estimate(left_out=(f"depth crops of {source}, which is not here",))
    available = training_count("depth", source)
    images = head.epochs * min(available, sizes.config.data.limit or available)
    one = 6.0 * head.crop**2 * 9 * head.width * (head.width + 1) * len(_widths(sizes))  # the convolutions at the size of the crop
    encoded = _on_crops(sizes, images, head.crop**2)
    return replace(encoded, fp32=encoded.fp32 + images * one)


def _adopted(sizes: Sizes, cell: Mapping[str, Any]) -> Estimate:
    """Imported files, checks of files, the overview picture: their cost is negligible."""
    return Estimate()


def _at(*parts: tuple[str, float], fp32: float = 0.0, kept: int = 0, passing: int = 0) -> Estimate:
    """An estimate of parts (precision, operations), and further operations in fp32."""
    bf16 = sum((operations for precision, operations in parts if precision == "bf16"), 0.0)
    fp32 += sum(operations for precision, operations in parts if precision == "fp32")
    return Estimate(bf16=bf16, fp32=fp32, kept=kept, passing=passing)


_STAGES: Mapping[str, Callable[[Sizes, Mapping[str, Any]], Estimate]] = {
    "images": _images,
    "masks": _adopted,
    "depth-maps": _adopted,
    "autoencoder": _autoencoder,
    "adoption": _adopted,
    "imported-autoencoder": _adopted,
    "continued-autoencoder": _continued_autoencoder,
    "continued-diffusion": _continued_diffusion,
    "shift-choice": _adopted,
    "realignment": _realignment,
    "statistics": _statistics,
    "standardisation": _adopted,
    "imported-statistics": _adopted,
    "diffusion": _diffusion,
    "imported-diffusion": _adopted,
    "samples": _samples,
    "references": lambda sizes, cell: _judged(sizes.config.scores.extractor, sizes.counts.train),
    "second-references": lambda sizes, cell: _judged(sizes.second_extractor, sizes.counts.train),
    "fdr6-references": lambda sizes, cell: _in_turn(_judged(name, sizes.counts.train) for name in SPACES[1:]),
    "fdr6-generation-scores": lambda sizes, cell: _in_turn(_generation_scores(name, sizes, distance_only=True) for name in SPACES),
    "originals": lambda sizes, cell: _judged(sizes.config.scores.extractor, sizes.counts.val),
    "reconstructions": _reconstructions,
    "reconstruction-scores": _reconstruction_scores,
    "generation-scores": lambda sizes, cell: _generation_scores(sizes.config.scores.extractor, sizes),
    "second-generation-scores": lambda sizes, cell: _generation_scores(sizes.second_extractor, sizes, distance_only=True),
    "pooled-latents": _pooled,
    "probe-scores": _probes,
    "paper-probe-scores": _paper_probe,
    "paper-segmentation-scores": _paper_segmentation,
    "paper-depth-scores": _paper_depth,
    "segmentation-scores": _own_segmentation,
    "dense-segmentation-scores": _dense_segmentation,
    "depth-scores": _depth,
    "overview": _adopted,
}
"""Stage -> function that estimates its cost."""
