"""The stage graph of a run as a table. No torch: stage functions are given by name and imported when they run.

A stage is a function ``(slice, inputs, out, runtime) -> cost``. It receives only its slice of the configuration and its inputs'
directories, so it cannot read undeclared settings, and its key covers everything it reads. Increase ``version`` when the numbers of a stage
change: its key and the keys of all dependent stages then change.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from svgbench.config.sampling import TUNED
from svgbench.config.schema import RunConfig
from svgbench.config.scoring import SPACES

ENCODER = ("encoder",)
EXTRACTOR = ("scores.extractor", "scores.extractor_weights")
SECOND = ("scores.second_extractor", "scores.second_extractor_weights")
PROTOCOL = "scores.protocol"
STAGE_1_SEED = "autoencoder.seed"
HEAD = ("sampling.head_steps", "sampling.temperature", "sampling.token_limit")
"""How MAR's head draws a token."""
MARKS = ("data.limit", "encoder.precision")
"""Fields that, when they differ from their defaults, are also in the slice of every scoring stage, whose scores name them in their
protocol: the limit of a trial, and the precision in which images are encoded and latents decoded."""
EXPLANATION = "explanation"
"""The diagnosis that ``svgbench explain`` reads; all others are for figures."""
FDR6 = "scores.fdr6"
"""A field that names a folder of weights: the worker gets the path, the key the digest of the files in it."""
REFERENCE = "scores.reference"
"""A field that names a file or a folder of reference images or statistics: the worker gets the path, the key the digest of the content."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row: the fields that the stage reads, the stages it needs, and its function."""

    name: str
    version: int
    slice: tuple[str, ...]
    """Dotted fields of RunConfig; a field includes its subfields."""
    needs: tuple[str, ...] = ()
    """Names of inputs, which other rows provide."""
    worker: str
    """``module:function``."""
    each: tuple[str, ...] = ()
    """List fields: one node per combination of their entries; in its slice each is a scalar."""
    provides: str | None = None
    """The name by which other stages need it, if that is not the stage's name."""
    also: tuple[str, ...] = ()
    """Names of optional inputs, passed if the run has them."""
    start: str | None = None
    """What it continues: its input ``start`` provides this name in the run at the earlier resolution (``config.derived``)."""
    when: str = "always"
    """Condition (a name in ``facts``) under which a run has this stage."""
    taken_over: bool = False
    """Uses only released files; needs neither images nor training."""
    first: tuple[str, ...] = ()
    """Inputs taken from the first row that provides them, not from a later row that replaces it."""
    scores: bool = False
    """Its artifact holds ``scores.json``."""
    ranks: Literal["one", "all"] = "one"
    """Whether all processes of a torchrun work on it."""
    networks: bool = True
    """Whether it runs networks; engines then request a GPU if there are any."""
    own_seed: str | None = None
    """A field that replaces the run's seed in its slice, if it is not empty. Only the seed itself is in the key."""


STAGES: tuple[Stage, ...] = (
    Stage(name="images", version=1, worker="svgbench.stages.pictures:images",
          networks=False, slice=("data",)),
    Stage(name="masks", version=1, worker="svgbench.stages.segmentation:check_masks", when="labelled-folder",
          networks=False, slice=("scores.segmentation",)),
    Stage(name="depth-maps", version=1, worker="svgbench.stages.depth:check_depth_maps", when="depth-folder",
          networks=False, slice=("scores.depth",)),
    Stage(name="references", version=1, worker="svgbench.stages.scores:references", when="generates", ranks="all",
          slice=(*EXTRACTOR, REFERENCE), needs=("images",)),
    Stage(name="second-references", version=1, worker="svgbench.stages.scores:second_references", when="second-extractor", ranks="all",
          slice=(*SECOND, REFERENCE), needs=("images",)),
    Stage(name="fdr6-references", version=1, worker="svgbench.stages.scores:fdr6_references", when="fdr6", ranks="all",
          slice=(FDR6, REFERENCE), needs=("images",)),
    Stage(name="originals", version=1, worker="svgbench.stages.scores:originals", ranks="all",
          slice=EXTRACTOR, needs=("images",)),
    Stage(name="autoencoder", version=2, worker="svgbench.stages.autoencoder:train", when="trains-autoencoder", ranks="all",
          slice=(*ENCODER, "autoencoder", "seed"), needs=("images",), own_seed=STAGE_1_SEED),
    Stage(name="adoption", version=1, worker="svgbench.stages.autoencoder:adopt", taken_over=True, when="decodes", provides="autoencoder",
          networks=False, slice=ENCODER),
    Stage(name="imported-autoencoder", version=1, worker="svgbench.stages.imports:autoencoder", taken_over=True, when="imports-autoencoder",
          provides="autoencoder", networks=False, slice=(*ENCODER, "autoencoder.release", "data.resolution")),
    Stage(name="continued-autoencoder", version=1, worker="svgbench.stages.continuation:autoencoder", when="continues-autoencoder",
          provides="autoencoder", start="autoencoder", ranks="all", slice=(*ENCODER, "autoencoder", "continued", "seed"),
          needs=("images",), own_seed=STAGE_1_SEED),
    Stage(name="realignment", version=1, worker="svgbench.stages.realignment:run", when="replaces-alignment", provides="autoencoder",
          ranks="all", slice=("latents.align",), needs=("images", "autoencoder")),
    Stage(name="statistics", version=1, worker="svgbench.stages.statistics:run", when="measures-statistics", ranks="all",
          slice=(), needs=("images", "autoencoder")),
    Stage(name="imported-statistics", version=1, worker="svgbench.stages.imports:statistics", taken_over=True, when="imports-statistics",
          provides="statistics", networks=False, slice=("latents",), needs=("autoencoder",)),
    Stage(name="standardisation", version=1, worker="svgbench.stages.statistics:standardise", when="standardises-otherwise",
          provides="statistics", networks=False, slice=("latents.standardise",), needs=("autoencoder", "statistics")),
    Stage(name="diffusion", version=2, worker="svgbench.stages.diffusion:train", when="trains-diffusion", ranks="all",
          slice=("diffusion", "seed"), needs=("images", "autoencoder", "statistics")),
    Stage(name="imported-diffusion", version=1, worker="svgbench.stages.imports:diffusion", taken_over=True, when="imports-diffusion",
          provides="diffusion", networks=False, slice=("diffusion.release",), needs=("autoencoder",)),
    Stage(name="continued-diffusion", version=1, worker="svgbench.stages.continuation:diffusion", when="continues-diffusion",
          provides="diffusion", start="diffusion", ranks="all", slice=("diffusion", "continued", "seed"),
          needs=("images", "autoencoder", "statistics")),
    Stage(name="shift-choice", version=1, worker="svgbench.stages.tuning:choose", when="tunes-shift",
          networks=False, slice=("sampling.tuning",)),
    Stage(name="samples", version=1, worker="svgbench.stages.samples:draw", when="generates", ranks="all",
          slice=("sampling.count", "sampling.sampler", "sampling.shift", "sampling.schedule", "sampling.labels", "sampling.against",
                 "sampling.guided_channels", "sampling.zero_init", "sampling.optimised_scale", "sampling.precision",
                 *HEAD, "seed"),
          each=("sampling.steps", "sampling.guidance", "sampling.trained"), needs=("autoencoder", "statistics", "diffusion"),
          also=("shift-choice",)),
    Stage(name="reconstructions", version=1, worker="svgbench.stages.pictures:reconstructions", ranks="all",
          slice=(), needs=("images", "autoencoder"), first=("autoencoder",)),
    Stage(name="reconstruction-scores", version=3, worker="svgbench.stages.scores:reconstruction", scores=True, ranks="all",
          slice=(*EXTRACTOR, "scores.perceptual", "scores.lpips_weights", "scores.resamples", "seed"),
          needs=("images", "originals", "reconstructions"), own_seed=STAGE_1_SEED),
    Stage(name="generation-scores", version=3, worker="svgbench.stages.scores:generation", scores=True, when="generates", ranks="all",
          slice=(*EXTRACTOR, "scores.neighbours", "scores.resamples", "seed"), needs=("images", "references", "samples")),
    Stage(name="second-generation-scores", version=2, worker="svgbench.stages.scores:second_generation", scores=True,
          when="second-extractor", ranks="all",
          slice=(*SECOND, "scores.resamples", "seed"), needs=("images", "second-references", "samples")),
    Stage(name="fdr6-generation-scores", version=1, worker="svgbench.stages.scores:fdr6_generation", scores=True, when="fdr6", ranks="all",
          slice=(FDR6, *EXTRACTOR, "scores.resamples", "seed"), needs=("images", "references", "fdr6-references", "samples")),
    Stage(name="pooled-latents", version=1, worker="svgbench.stages.perception:pooled", when="dinov3-heads", ranks="all",
          slice=("scores.probe.train_images", "scores.probe.precision"), needs=("images", "autoencoder", "statistics"),
          first=("statistics",)),
    Stage(name="probe-scores", version=2, worker="svgbench.stages.perception:probe", when="dinov3-heads", scores=True, ranks="all",
          slice=("scores.probe", "scores.resamples", "seed"), needs=("images", "pooled-latents"), own_seed=STAGE_1_SEED),
    Stage(name="paper-probe-scores", version=1, worker="svgbench.stages.paper_probe:run", when="paper-heads", scores=True, ranks="all",
          slice=(PROTOCOL, "scores.paper.linear", "scores.resamples", "seed"), needs=("images", "autoencoder"), own_seed=STAGE_1_SEED),
    Stage(name="segmentation-scores", version=2, worker="svgbench.stages.segmentation:own_masks", scores=True, when="own-masks",
          slice=("scores.segmentation", "scores.resamples", "seed"), needs=("images", "autoencoder", "statistics"),
          first=("statistics",), own_seed=STAGE_1_SEED),
    Stage(name="dense-segmentation-scores", version=1, worker="svgbench.stages.segmentation:folder", scores=True, ranks="all",
          when="dinov3-labelled-folder", slice=("scores.segmentation", "scores.resamples", "seed"), needs=("autoencoder", "masks"),
          own_seed=STAGE_1_SEED),
    Stage(name="paper-segmentation-scores", version=1, worker="svgbench.stages.paper_segmentation:folder", scores=True, ranks="all",
          when="paper-labelled-folder", needs=("autoencoder", "masks"),
          slice=(PROTOCOL, "scores.segmentation", "scores.paper.fpn", "scores.resamples", "seed"), own_seed=STAGE_1_SEED),
    Stage(name="depth-scores", version=1, worker="svgbench.stages.depth:folder", scores=True, ranks="all", when="dinov3-depth-folder",
          slice=("scores.depth", "scores.resamples", "seed"), needs=("autoencoder", "depth-maps"), own_seed=STAGE_1_SEED),
    Stage(name="paper-depth-scores", version=1, worker="svgbench.stages.paper_depth:folder", scores=True, ranks="all",
          when="paper-depth-folder", needs=("autoencoder", "depth-maps"),
          slice=(PROTOCOL, "scores.depth", "scores.paper.deconv", "scores.resamples", "seed"), own_seed=STAGE_1_SEED),
    Stage(name="overview", version=2, worker="svgbench.stages.pictures:overview", when="generates",
          slice=(), needs=("images", "reconstructions", "samples")),
)  # fmt: skip
"""In an order in which they can run."""

DIAGNOSES: tuple[Stage, ...] = (
    Stage(name="embedding", version=1, worker="svgbench.stages.diagnosis:embedding",
          slice=(), needs=("images", "autoencoder", "statistics"), first=("statistics",)),
    Stage(name="velocities", version=1, worker="svgbench.stages.diagnosis:velocities",
          slice=(), needs=("images", "autoencoder", "statistics", "diffusion")),
    Stage(name="residual-left-out", version=1, worker="svgbench.stages.edits:residual_left_out",
          slice=(), needs=("images", "autoencoder"), first=("autoencoder",)),
    Stage(name="interpolation", version=1, worker="svgbench.stages.edits:interpolation",
          slice=(), needs=("images", "autoencoder"), first=("autoencoder",)),
    Stage(name="editing", version=1, worker="svgbench.stages.edits:editing",
          slice=("sampling.steps", "sampling.guidance", "sampling.shift", "sampling.schedule", "sampling.against",
                 "sampling.guided_channels", "sampling.zero_init", "sampling.optimised_scale", "sampling.precision"),
          needs=("images", "autoencoder", "statistics", "diffusion"), also=("shift-choice",)),
    Stage(name="class-embedding", version=1, worker="svgbench.stages.embeddings:by_classes",
          slice=(), needs=("images", "autoencoder")),
    Stage(name="layer-embedding", version=1, worker="svgbench.stages.embeddings:by_layers",
          slice=(), needs=("images", "autoencoder")),
    Stage(name="box-editing", version=1, worker="svgbench.stages.edits:box_editing",
          slice=(), needs=("images", "autoencoder", "statistics", "diffusion")),
    Stage(name="noise-interpolation", version=1, worker="svgbench.stages.edits:noise_interpolation",
          slice=("sampling.steps", "sampling.guidance", "sampling.shift", "sampling.schedule", "sampling.against",
                 "sampling.guided_channels", "sampling.zero_init", "sampling.optimised_scale", "sampling.precision"),
          needs=("autoencoder", "statistics", "diffusion"), also=("shift-choice",)),
    Stage(name="feature-maps", version=1, worker="svgbench.stages.feature_maps:run",
          slice=(), needs=("images", "autoencoder", "statistics", "diffusion")),
    Stage(name="diffusability", version=1, worker="svgbench.stages.diffusability:latents", scores=True, ranks="all",
          slice=(), needs=("images", "autoencoder"), also=("statistics",), first=("statistics",)),
    Stage(name="interpolated-distance", version=1, worker="svgbench.stages.diffusability:interpolated", scores=True, ranks="all",
          slice=EXTRACTOR, needs=("images", "autoencoder"), also=("statistics",), first=("statistics",)),
    Stage(name=EXPLANATION, version=2, worker="svgbench.stages.explanation:run",
          slice=(*EXTRACTOR, "scores.resamples", *MARKS),
          needs=("images", "autoencoder", "statistics", "diffusion", "reconstructions", "references", "samples")),
)  # fmt: skip
"""Stages that compute the data of figures beyond the scores, and the last three those of ``svgbench diagnose`` and ``svgbench explain``.
They are planned on request (``lab.diagnosis``), never by a run. Their random numbers have a fixed seed, so they depend on a run's seed only
through its networks."""

CARD = ("diffusability", "interpolated-distance")
"""The diagnoses of a diffusability card. The second one needs a decoder and an extractor."""

LABELS = frozenset({"preset", "sampling.dimension_shift", "generation"})
"""Fields in no slice: labels of a run, fields that are converted to other fields when a run is built, and the choice of a run's stages."""

TEACHER = "diffusion.representation.encoder"
ENCODERS = ("encoder", TEACHER)
"""Fields that hold an encoder: its card, its weights file and its identity."""
PATHS = frozenset({"encoder.weights", f"{TEACHER}.weights", "autoencoder.release.file", "diffusion.release.file", "latents.statistics"})
"""Fields that name a file: the worker gets the path, the key gets the file's digest."""

FOLDERS = ("data", "scores.segmentation", "scores.depth")
"""Parts whose ``source`` may be a folder: the key then holds the digest of its files (``identity``), not its path."""

UNKEYED = frozenset({"encoder.opened", "encoder.card", f"{TEACHER}.opened", f"{TEACHER}.card"})
"""Fields that a worker needs but a key leaves out, because the encoder's identity covers them."""

UNGUIDED = {"sampling.schedule": "constant", "sampling.against": "null", "sampling.guided_channels": None}
"""Fields that do not affect samples at guidance 1 (only the conditional prediction is used); these values make their keys equal."""
UNGUIDED_LEFT_OUT = frozenset({"sampling.optimised_scale"})
"""The same, for fields that are in a key only when they differ from their defaults."""

JUDGES = (
    ("scores.extractor", "features", "scores.extractor_weights"),
    ("scores.second_extractor", "features", "scores.second_extractor_weights"),
    ("scores.perceptual", "pairs", "scores.lpips_weights"),
    ("autoencoder.loss.network", "pairs", "autoencoder.loss.weights"),
)
"""(Field of a judging network, its kind, field of its weights file); the key gets the digest of the opened weights."""


def judging(config: dict[str, Any], *, trains_autoencoder: bool) -> list[tuple[str, str, str, str | None, str]]:
    """Judging networks of a run, given its configuration as JSON data: (field, kind, name, weights file, field of the weights file)."""
    given = {path: _given(config, path) for judge in JUDGES for path in (judge[0], judge[2])}
    trained = trains_autoencoder and bool(_given(config, "autoencoder.loss.perceptual"))
    used = [judge for judge in JUDGES if given[judge[0]] and (trained or judge[0] != "autoencoder.loss.network")]
    return [(name, kind, given[name], given[weights], weights) for name, kind, weights in used]


def _given(config: dict[str, Any], path: str) -> Any:
    """A field's value; None if the configuration is from an earlier version without the field."""
    try:
        return field(config, path)
    except KeyError:
        return None


WEAK = "weak.safetensors"
"""File of the averaged weights after ``weak_share`` of the training."""
_REFERENCE = ("reference.safetensors", "reference.json")
_AUTOENCODER = ("autoencoder.safetensors", "autoencoder.json")
_STATISTICS = ("statistics.safetensors", "statistics.json")
_TRANSFORMER = ("sit.safetensors", "sit.json")
_PICTURES = ("pictures.npy", "pictures.json")
TRAININGS = ("autoencoder", "continued-autoencoder", "diffusion", "continued-diffusion")
"""The stages that train a run's networks."""
DRAWN = "sampling.json"
"""File with the sampling settings (``config.sampling.SamplingProtocol``) in an artifact of samples with a tuned shift."""
LEAVES: dict[str, tuple[str, ...]] = {
    "images": ("images.json",), "masks": ("pairs.json",), "depth-maps": ("pairs.json",),
    "references": _REFERENCE, "second-references": _REFERENCE, "originals": _REFERENCE,
    "fdr6-references": tuple(f"{space}/{name}" for space in SPACES[1:] for name in _REFERENCE),
    "autoencoder": _AUTOENCODER, "adoption": ("autoencoder.json",), "imported-autoencoder": _AUTOENCODER,
    "realignment": _AUTOENCODER, "standardisation": _STATISTICS, "statistics": _STATISTICS, "imported-statistics": _STATISTICS,
    "continued-autoencoder": _AUTOENCODER, "continued-diffusion": _TRANSFORMER, "shift-choice": ("choice.json",),
    "diffusion": _TRANSFORMER, "imported-diffusion": _TRANSFORMER,
    "samples": ("samples.npy", "labels.npy"), "reconstructions": ("reconstructions.npy",),
    "pooled-latents": ("train.npy", "train.labels.npy", "val.npy", "val.labels.npy", "pooled.json"), "overview": ("overview.png",),
    **{stage.name: ("scores.json",) for stage in STAGES if stage.scores},
    "embedding": ("points.npy", "embedding.json"), "velocities": ("points.npy", "velocities.json"),
    "residual-left-out": _PICTURES, "interpolation": _PICTURES, "editing": _PICTURES, "box-editing": _PICTURES,
    "noise-interpolation": _PICTURES, "class-embedding": ("points.npy", "embedding.json"),
    "layer-embedding": ("points.npy", "embedding.json"), "feature-maps": _PICTURES, EXPLANATION: ("explanation.json",),
    "diffusability": ("scores.json", "diffusability.json"), "interpolated-distance": ("scores.json",),
}  # fmt: skip
"""Stage -> files that its artifact must contain, not empty; otherwise it is not committed."""


def snapshot(share: float) -> str:
    """File of the transformer's averaged weights after a share of the training."""
    return "sit.safetensors" if share == 1 else f"sit-{share:g}.safetensors"


def left(stage: str, slice_: dict[str, Any]) -> list[str]:
    """The files that a stage must write for this slice."""
    names = list(LEAVES[stage])
    if stage == "samples" and slice_["sampling"]["shift"] == TUNED:
        names.append(DRAWN)
    if stage in ("diffusion", "continued-diffusion"):
        part = slice_["diffusion"]
        names += [snapshot(share) for share in part.get("snapshots", ())] + ([WEAK] if part["weak_share"] else [])
    return names


_BY_NAME = {stage.name: stage for stage in (*STAGES, *DIAGNOSES)}


def by_name(name: str) -> Stage:
    """The row of a stage."""
    return _BY_NAME[name]


def worker(stage: Stage) -> Callable[..., dict[str, Any]]:
    """The stage's function; this call imports torch."""
    module, _, function = stage.worker.partition(":")
    return getattr(importlib.import_module(module), function)


def field(config: dict[str, Any], path: str) -> Any:
    """The value at a dotted path of a configuration as JSON data."""
    value: Any = config
    for part in path.split("."):
        value = None if value is None else value[part]  # an optional part that is None has no fields
    return value


def holds(config: dict[str, Any], path: str) -> bool:
    """Whether a configuration (as JSON data) has the field; fields added in later versions are omitted at their defaults."""
    try:
        field(config, path)
    except KeyError:
        return False
    return True


def facts(config: RunConfig, kind: str) -> dict[str, bool]:
    """Conditions for the rows' ``when``: name -> whether it holds for a run with a card of this ``kind`` (features, codec)."""
    released, codec, continued = config.autoencoder.release is not None, kind == "codec", config.continued is not None
    given = config.latents.statistics is not None or config.latents.scale is not None
    segmentation, paper = config.scores.segmentation, config.scores.protocol == "paper"
    labelled, depth = segmentation.enabled and segmentation.source is not None, config.scores.depth.source is not None
    return {
        "always": True,
        "trains-autoencoder": not codec and not released and not continued,
        "continues-autoencoder": not codec and not released and continued,
        "imports-autoencoder": not codec and released,
        "decodes": codec,
        "replaces-alignment": not codec and config.latents.align is not None,
        "standardises-otherwise": config.latents.standardise != "channel",
        "measures-statistics": not given,
        "imports-statistics": given,
        "generates": config.generation,
        "trains-diffusion": config.generation and config.diffusion.release is None and not continued,
        "continues-diffusion": config.generation and config.diffusion.release is None and continued,
        "tunes-shift": config.generation and config.sampling.shift == TUNED,
        "imports-diffusion": config.generation and config.diffusion.release is not None,
        "second-extractor": config.generation and config.scores.second_extractor is not None,
        "fdr6": config.generation and config.scores.fdr6 is not None,
        "own-masks": config.data.drawn and segmentation.enabled and segmentation.source is None,
        "labelled-folder": labelled,
        "depth-folder": depth,
        "dinov3-heads": not paper,
        "paper-heads": paper,
        "dinov3-labelled-folder": labelled and not paper,
        "paper-labelled-folder": labelled and paper,
        "dinov3-depth-folder": depth and not paper,
        "paper-depth-folder": depth and paper,
    }
