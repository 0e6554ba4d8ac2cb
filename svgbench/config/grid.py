"""Experiments as data: a base, fixed settings, axes -> named RunConfigs. A file without axes is one run."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from svgbench.config import cards
from svgbench.config.fields import word_of
from svgbench.config.lines import is_blank, line_at, line_of
from svgbench.config.parse import merge, nested, validate
from svgbench.config.part import Part
from svgbench.config.schema import NOISE_PREDICTORS, Autoencoder, Decoder, Diffusion, Representation, Residual, RunConfig
from svgbench.errors import BadConfig, UnknownName, unknown
from svgbench.shelf import entries, folder, read_yaml, state_of

PRESETS = ("tiny", "small", "paper")
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 128, "depth": 4, "heads": 4},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}
"""SiT's sizes (arXiv 2401.08740, table 1)."""
WIDE: dict[str, int] = {"width": 2048, "depth": 2, "heads": 16}
WIDE_TINY: dict[str, int] = {"width": 192, "depth": 2, "heads": 4}
"""The wide head RAE puts on every size (arXiv 2510.11690, section 5), and one in proportion to the size ``tiny``."""

DIMENSION = 4096
"""Numbers in the latent for which RAE's shift is 1. RAE writes a = sqrt(numbers / 4096) for times that run to noise; times that run to
data, as here, are shifted by 1 / a."""


class Experiment(Part):
    """One file of the shelf ``ablations``."""

    name: str
    asks: str = ""
    """The question it answers."""
    compares: str = ""
    """The published rows it stands beside."""
    costs: str = ""
    base: str | None = None
    """Another experiment, whose settings come first."""
    run: str = ""
    """Name of the run, and the first word of the names of those that stand on it; made from the settings when empty."""
    set: dict[str, Any] = {}
    """Settings of every cell, as a nested mapping or ``a.b: c``."""
    axes: dict[str, list[Any] | dict[str, dict[str, Any]]] = {}
    """``field.path: [values]`` or ``name: {cell: {settings}}``; a cell's ``base: EXPERIMENT`` brings its settings first."""
    _file: Path = PrivateAttr(default=Path())

    @property
    def file(self) -> Path:
        """Where it was read."""
        return self._file

    @property
    def preset(self) -> str | None:
        """The preset that it is: the shelf's own ``preset-NAME``, and no other file of such a name."""
        name = self.file.stem.removeprefix("preset-")
        return name if name in PRESETS and self.file.resolve() == (folder("ablations") / f"preset-{name}.yaml").resolve() else None

    def at(self, place: str) -> str:
        """``FILE:LINE`` of a dotted path through its file."""
        line = line_at(self.file, place)
        return f"{self.file}:{line}" if line else str(self.file)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """``set`` as a nested mapping."""
        return expand(self.set)


def load_experiment(name: str, extra: Path | None = None) -> Experiment:
    """An experiment by its name on the shelf or by its file."""
    path = experiment_file(name, extra)
    return _loaded(path, *state_of(path))


@cache
def _loaded(path: Path, _changed: int, _size: int) -> Experiment:
    """The same, once for every state of the file."""
    empty = f"{path}: names no cells; give axes, cells' settings under set, or a base."
    if is_blank(path):
        raise BadConfig(empty)
    content = {"name": path.stem, **read_yaml(path)}
    _check_names(path, content)
    try:
        experiment = validate(Experiment, content)
    except BadConfig as error:
        line = line_at(path, error.field)
        raise BadConfig(f"{path}{f':{line}' if line else ''}: {error}") from None
    if not (experiment.axes or experiment.set or experiment.base or experiment.run):
        raise BadConfig(empty)
    experiment._file = path
    return experiment


def _check_names(path: Path, content: Mapping[Any, Any], place: str = "") -> None:
    """Refuses names that YAML reads as no text, such as on, no and 1."""
    for name, inside in content.items():
        if not isinstance(name, str):
            line = line_at(path, place)
            where = f"{path}:{line}: {place}" if line else f"{path}"
            raise BadConfig(f"{where}: a name here must be text, got {name!r}; put it in quotes.")
        if isinstance(inside, Mapping):
            _check_names(path, inside, f"{place}.{name}" if place else name)


def experiment_file(name: str, extra: Path | None = None) -> Path:
    """The file of an experiment."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    known = entries("ablations", extra)
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


def place_of(name: str, cell: str, field: str, extra: Path | None = None) -> str:
    """``FILE:LINE, cell 'NAME'`` of what sets a field of a cell: in the experiment's own file, else in one that it stands on."""
    experiment = load_experiment(name, extra)
    bases = [part.file for base in _bases_of(experiment, cell) for part in _chain(load_experiment(base, extra), extra)]
    shared = [part.file for part in _chain(experiment, extra)]
    places = [(experiment.file, "axes"), *((file, "set") for file in (*bases, *shared))]  # what comes first has the last word
    lines = ((file, line_of(file, field, cell, part=part, loose=loose)) for loose in (False, True) for file, part in places if field)
    found = next((f"{file}:{line}" for file, line in lines if line), str(experiment.file))
    return found + (f", cell '{cell}'" if cell else "")


def _bases_of(experiment: Experiment, cell: str) -> list[str]:
    """The experiments that the entries of a cell stand on."""
    entries = [pair for values in experiment.axes.values() if isinstance(values, dict) for pair in values.items()]
    return [str(own["base"]) for name, own in entries if "base" in own and f".{name}." in f".{cell}."]


def settings_of(experiment: Experiment, extra: Path | None = None, *, with_preset: bool = True) -> dict[str, Any]:
    """The settings of every cell: the base's, then the experiment's own; a preset's are left out where ``build`` brings them."""
    settings: dict[str, Any] = {}
    for part in reversed(_chain(experiment, extra)):
        if with_preset or part.preset is None:
            settings = merge(settings, part.settings)
    return settings


def preset_of(experiment: Experiment, extra: Path | None = None) -> str | None:
    """The preset an experiment stands on by itself, if it does."""
    return next((part.preset for part in _chain(experiment, extra) if part.preset), None)


def run_of(experiment: Experiment, extra: Path | None = None) -> str:
    """The run an experiment, or one of its bases, names; empty where none does."""
    return next((part.run for part in _chain(experiment, extra) if part.run), "")


def _chain(experiment: Experiment, extra: Path | None) -> list[Experiment]:
    """The experiment, its base, the base of that, and so on."""
    chain = [experiment]
    while chain[-1].base:
        parent = _base(chain[-1], chain[-1].base, "base", extra)
        if any(parent.file.resolve() == below.file.resolve() for below in chain):
            raise BadConfig(f"{chain[-1].at('base')}: the bases of '{experiment.name}' come back to '{parent.name}'; name another base.")
        chain.append(parent)
    return chain


def _base(experiment: Experiment, name: str, place: str, extra: Path | None) -> Experiment:
    """The experiment that a place of another one's file names."""
    try:
        path = experiment_file(name, extra)
    except UnknownName as error:
        raise UnknownName(f"{experiment.at(place)}: {error}") from None
    if not path.is_file():
        raise BadConfig(f"{experiment.at(place)}: the base {path} does not exist.")
    return load_experiment(name, extra)


def expand(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping whose keys may be dotted paths as a nested one."""
    result: dict[str, Any] = {}
    for name, value in flat.items():
        result = merge(result, nested(name, expand(value) if isinstance(value, Mapping) else value))
    return result


MOST_CELLS = 10_000
"""Of one experiment; a few short lines of axes would give millions, and use up the memory before anything is said."""


def cells(experiment: Experiment, extra: Path | None = None) -> dict[str, dict[str, Any]]:
    """Name of each cell -> the settings it changes; one cell of an empty name where there are no axes."""
    count = math.prod(len(values) for values in experiment.axes.values())
    if count > MOST_CELLS:
        raise BadConfig(f"{experiment.at('axes')}: the axes give {count:,} cells, and an experiment may have {MOST_CELLS:,}; split it.")
    axes: list[dict[str, dict[str, Any]]] = []
    for axis, values in experiment.axes.items():
        if not values:
            raise BadConfig(f"{experiment.at(f'axes.{axis}')}: the axis '{axis}' is empty; give it values, or leave it out.")
        if isinstance(values, dict):
            axes.append({cell: _cell(experiment, f"axes.{axis}.{cell}", settings, extra) for cell, settings in values.items()})
        else:
            plain = axis.rsplit(".", 1)[-1] in ("encoder", "card")
            axes.append({(str(v) if plain else f"{word_of(axis)}-{v}"): nested(axis, v) for v in values})
    result = {}
    for combination in itertools.product(*(axis.items() for axis in axes)):
        settings: dict[str, Any] = {}
        for _, part in combination:
            settings = merge(settings, part)
        result[".".join(name for name, _ in combination)] = settings
    return result


OF_SHAPES = {"scores": {"extractor": "shapes-cnn", "perceptual": "shapes-lpips"}, "autoencoder": {"loss": {"network": "shapes-lpips"}}}
"""Judges of the preset ``small`` on its own images: shipped networks that know drawn images alone. Other images have no such default."""


def repeated(experiment: Experiment) -> list[tuple[str, Any]]:
    """Axis and value of every value that stands twice on its axis."""
    lists = {axis: Counter(map(str, values)) for axis, values in experiment.axes.items() if isinstance(values, list)}
    return [(axis, value) for axis, counts in lists.items() for value, count in counts.items() if count > 1]


def _cell(experiment: Experiment, place: str, settings: Mapping[str, Any], extra: Path | None) -> dict[str, Any]:
    own = dict(settings)
    if "base" not in own:
        return expand(own)
    base = _base(experiment, str(own.pop("base")), f"{place}.base", extra)
    return merge(settings_of(base, extra), expand(own))


def preset_settings(preset: str, extra: Path | None = None) -> dict[str, Any]:
    """The settings of a preset, from ``ablations/preset-NAME.yaml``."""
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    return settings_of(load_experiment(f"preset-{preset}", extra), extra)


def build(settings: Mapping[str, Any], *, preset: str, where: str = "", extra: Path | None = None) -> RunConfig:
    """The RunConfig of a preset with settings on top: names resolved to a card, sizes to a transformer; identities still empty."""
    base = preset_settings(preset, extra)
    merged = {**merge(base, settings), "preset": preset}
    draft = validate(RunConfig, {**merged, "diffusion": {**merged.get("diffusion", {}), "transformer": {}}}, where=where)
    try:
        card = cards.find(draft.encoder.card, preset, extra)
    except UnknownName as error:
        raise error.about("encoder.card") from None
    if draft.data.source != base.get("data", {}).get("source"):  # the preset's counts are of its own images
        counts = {name: None for name in ("train_images", "val_images") if name not in settings.get("data", {})}
        merged = merge(merged, {"data": counts})
    elif preset == "small":
        merged = merge(OF_SHAPES, merged)
    given = {k: v for k, v in (merged.get("diffusion", {}).get("transformer") or {}).items() if v is not None}
    if given.get("wide") is not None:
        given["wide"] = {**(WIDE_TINY if draft.diffusion.size == "tiny" else WIDE), **given["wide"]}
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
    """The same run with what it does not use at its defaults: equal work, equal key."""
    sampling = config.sampling.model_copy(update={"count": min(config.sampling.count, config.data.limit or config.sampling.count)})
    parts = {"sampling": sampling, "autoencoder": _plain_autoencoder(config.autoencoder), "diffusion": _plain_diffusion(config, extra)}
    return _shifted(config.model_copy(update=parts), extra)


def _plain_autoencoder(part: Autoencoder) -> Autoencoder:
    if part.residual.channels == 0:  # nothing to align
        part = part.model_copy(update={"align": "none", "residual": Residual(channels=0)})
    if part.release:
        return Autoencoder(release=part.release, residual=part.residual, align=part.align)
    sizes = {"vit": Decoder().vit} if part.decoder.kind == "ldm" else Decoder(kind="vit", vit=part.decoder.vit).model_dump()
    return part.model_copy(update={"decoder": Decoder(**{**part.decoder.model_dump(), **sizes})})


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
    """RAE's shift as the number it is for these latents; none for DDPM, whose times are the 1000 steps of its schedule."""
    diffusion, sampling = config.diffusion, config.sampling
    if diffusion.objective == "ddpm":
        diffusion = diffusion.model_copy(update={"prediction": "velocity", "time": "uniform", "shift": 1.0, "dimension_shift": False})
        sampling = sampling.model_copy(update={"shift": 1.0, "dimension_shift": False})
    if diffusion.dimension_shift or sampling.dimension_shift:
        card = cards.asked(config.encoder, config.preset, extra)
        if card.channels == 0:
            raise BadConfig(f"dimension_shift: the width of '{card.name}' is known only when it is opened; give a number as shift.")
        channels = card.channels + (config.autoencoder.residual.channels if card.kind == "features" else 0)
        by_size = {"shift": round(math.sqrt(DIMENSION / channels) / (config.data.resolution // card.stride), 6), "dimension_shift": False}
        diffusion = diffusion.model_copy(update=by_size) if diffusion.dimension_shift else diffusion
        sampling = sampling.model_copy(update=by_size) if sampling.dimension_shift else sampling
    return config.model_copy(update={"diffusion": diffusion, "sampling": sampling})


def _levels(draft: RunConfig, card: cards.EncoderCard) -> list[int]:
    """The preset's multipliers, with the coarsest repeated or the finest left out until they upsample by the card's stride."""
    own, wanted = list(draft.autoencoder.decoder.multipliers), card.stride.bit_length()
    return own[-wanted:] if len(own) >= wanted else own + own[-1:] * (wanted - len(own))


def _check_fit(config: RunConfig, card: cards.EncoderCard, where: str) -> None:
    """Whether the parts fit one another: the decoder's upsampling, the patch, the warm-up."""
    start = f"{where}: " if where else ""
    stride, side = card.stride, config.data.resolution
    levels = len(config.autoencoder.decoder.multipliers)
    if side % stride:
        below = side - side % stride
        raise BadConfig(
            f"{start}images of {side} px do not divide into {stride} px patches for '{card.name}'; use {below} or {below + stride}."
        ).about("data.resolution")
    own = config.autoencoder
    if card.kind == "features" and own.decoder.kind == "ldm" and not own.release and 2 ** (levels - 1) != stride:
        raise BadConfig(
            f"{start}autoencoder.decoder.multipliers has {levels} levels, which upsample {2 ** (levels - 1)} times, "
            f"but '{card.name}' has stride {stride}; give {stride.bit_length()} multipliers."
        )
    _check_diffusion(config, start)
    patch = config.diffusion.transformer.patch
    if not config.diffusion.release and (side // stride) % patch:
        raise BadConfig(
            f"{start}diffusion.transformer.patch {patch} does not divide the {side // stride} x {side // stride} latents of '{card.name}'."
        )
    if config.data.source == "shapes" and (config.data.train_images is None or config.data.val_images is None):
        raise BadConfig(f"{start}data.train_images and data.val_images must be numbers for 'shapes', which are drawn on demand.")


def _check_diffusion(config: RunConfig, start: str) -> None:
    """Whether objective, samplers and guidance belong together."""
    diffusion, sampling = config.diffusion, config.sampling
    if (sampling.sampler in NOISE_PREDICTORS) != (diffusion.objective == "ddpm"):
        fitting = "ddim or ddpm" if diffusion.objective == "ddpm" else "euler, heun, midpoint, dopri5 or sde-euler"
        fact = f"sampling.sampler {sampling.sampler} does not fit diffusion.objective {diffusion.objective}"
        raise BadConfig(f"{start}{fact}; use {fitting}.")
    if diffusion.objective == "ddpm" and sampling.against == "weak":
        raise BadConfig(f"{start}sampling.against weak is for diffusion.objective flow; use against null.")
    if sampling.against == "weak" and not diffusion.weak_share:
        raise BadConfig(f"{start}sampling.against weak needs a weak model; set diffusion.weak_share, such as 0.25.")
    if (diffusion.weak_share or diffusion.snapshots) and not diffusion.training.ema:
        field = "weak_share" if diffusion.weak_share else "snapshots"
        raise BadConfig(f"{start}diffusion.{field} keeps averaged weights; set diffusion.training.ema, such as 0.9999.")
    absent = sorted(set(sampling.trained) - {1.0, *diffusion.snapshots})
    if absent:
        raise BadConfig(f"{start}sampling.trained names {absent[0]:g}, which diffusion.snapshots does not keep; name it there too.")
    if diffusion.transformer.learned_sigma and diffusion.objective != "ddpm":
        raise BadConfig(f"{start}diffusion.transformer.learned_sigma is for diffusion.objective ddpm; leave it off.")
