"""Experiments as files: a base, fixed settings and axes -> the settings of every cell. A file without axes is one run."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr

from svgbench.config.contrasts import Contrast, group_name
from svgbench.config.fields import short_name
from svgbench.config.lines import is_blank, line_at, line_of
from svgbench.config.parse import merge, nested, validate
from svgbench.config.part import Part
from svgbench.errors import BadConfig, UnknownName, closest, unknown
from svgbench.shelf import entries, folder, read_yaml, state_of

PRESETS = ("tiny", "mini", "small", "paper")
DEFAULT_PRESET = os.environ.get("SVGBENCH_PRESET", "mini")
"""The preset if none is given."""


AXES = "axes"
"""The word under ``at: PRESET`` that is no setting."""


class Experiment(Part):
    """One file of the shelf ``ablations``."""

    name: str
    """Name of the experiment: its file's name without ``.yaml``."""
    asks: str = ""
    """The question it answers."""
    paper: str = ""
    """The table or figure of arXiv 2510.15301 that it reproduces, such as ``table 6``; ``none`` if there is no such table."""
    compares: str = ""
    """The published rows that its table shows beside it."""
    costs: str = ""
    """What it costs, in words."""
    base: str | None = None
    """Another experiment, whose settings come first."""
    run: str = ""
    """First part of the name of its runs and of those of experiments based on it; made from the settings when empty."""
    set: dict[str, Any] = {}
    """Settings of every cell, as a nested mapping or ``a.b: c``."""
    presets: dict[str, dict[str, Any]] = Field({}, alias="at")
    """``preset: {settings}``: settings of every cell that hold only at one preset and override ``set``. Its ``axes`` replace axes there: a
    list of values, or of the cells that are kept."""
    axes: dict[str, list[Any] | dict[str, dict[str, Any]]] = {}
    """``field.path: [values]`` or ``name: {cell: {settings}}``. A cell's ``base: EXPERIMENT`` takes over that experiment's settings, which
    this file's own settings override; its ``at: {preset: {settings}}`` holds only at one preset."""
    contrasts: tuple[Contrast, ...] = ()
    """The comparisons that it declares before it runs; those of its base are not inherited."""
    _file: Path = PrivateAttr(default=Path())

    @property
    def file(self) -> Path:
        """The file from which it was read."""
        return self._file

    @property
    def preset(self) -> str | None:
        """The name of the preset that this file defines: only the shelf's own ``preset-NAME`` does; None for any other file."""
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

    def settings_at(self, preset: str | None) -> dict[str, Any]:
        """``set``, overridden by ``at`` of a preset; None: only what holds at every preset."""
        return merge(self.settings, expand({name: value for name, value in self.presets.get(preset or "", {}).items() if name != AXES}))

    def at_preset(self, preset: str) -> Experiment:
        """The experiment as it runs at a preset: with the axes given there, and without the contrasts of cells that these leave out."""
        given = self.presets.get(preset, {}).get(AXES, {})
        if not given:
            return self
        axes = {axis: values if axis not in given else _kept(values, given[axis]) for axis, values in self.axes.items()}
        left = self.model_copy(update={"axes": axes, "presets": {**self.presets, preset: {**self.presets[preset], AXES: {}}}})
        names = {group_name(".".join(cell)) for cell in itertools.product(*(_names(axis, values) for axis, values in axes.items()))}
        return left.model_copy(update={"contrasts": tuple(one for one in self.contrasts if set(one.between) <= names)})


def _kept(values: list[Any] | dict[str, dict[str, Any]], chosen: list[Any]) -> list[Any] | dict[str, dict[str, Any]]:
    """An axis with other values, or with some of its cells."""
    return {name: values[name] for name in chosen} if isinstance(values, dict) else list(chosen)


def _names(axis: str, values: list[Any] | dict[str, dict[str, Any]]) -> list[str]:
    """The names of an axis's cells."""
    if isinstance(values, dict):
        return list(values)
    plain = axis.rsplit(".", 1)[-1] in ("encoder", "card")
    return [str(value) if plain else f"{short_name(axis)}-{value}" for value in values]


def parts_of_cells(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """Name of each cell -> the names of its values, one for each axis."""
    return {".".join(parts): parts for parts in itertools.product(*(_names(axis, values) for axis, values in experiment.axes.items()))}


def experiment_at(name: str, preset: str, extra: Path | None = None) -> Experiment:
    """An experiment as it runs at a preset, or at the one that it is based on."""
    experiment = load_experiment(name, extra)
    return experiment.at_preset(preset_of(experiment, extra) or preset)


def load_experiment(name: str, extra: Path | None = None) -> Experiment:
    """An experiment by its name on the shelf or by its file."""
    path = experiment_file(name, extra)
    return _loaded(path, *state_of(path))


@cache
def _loaded(path: Path, _changed: int, _size: int) -> Experiment:
    """``load_experiment`` of a file, cached until the file changes."""
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
    if not (experiment.axes or experiment.set or experiment.presets or experiment.base or experiment.run):
        raise BadConfig(empty)
    experiment._file = path
    _check_presets(experiment)
    return experiment


def _check_names(path: Path, content: Mapping[Any, Any], place: str = "") -> None:
    """Refuses names that YAML does not read as text, such as on, no and 1."""
    for name, inside in content.items():
        if not isinstance(name, str):
            line = line_at(path, place)
            where = f"{path}:{line}: {place}" if line else f"{path}"
            raise BadConfig(f"{where}: a name here must be text, got {name!r}; put it in quotes.")
        if isinstance(inside, Mapping):
            _check_names(path, inside, f"{place}.{name}" if place else name)


def _check_presets(experiment: Experiment) -> None:
    """Raises BadConfig for an ``at`` with an unknown preset."""
    named = [(f"at.{preset}", preset) for preset in experiment.presets]
    for preset, settings in experiment.presets.items():
        _check_axes(experiment, f"at.{preset}.{AXES}", settings.get(AXES, {}))
    for axis, values in experiment.axes.items():
        for cell, settings in values.items() if isinstance(values, dict) else ():
            at, place = settings.get("at", {}), f"axes.{axis}.{cell}.at"
            if not isinstance(at, dict) or not all(isinstance(inside, dict) for inside in at.values()):
                raise BadConfig(f"{experiment.at(place)}: {place} must map presets to settings, such as at: {{paper: {{seed: 1}}}}.")
            named += [(f"{place}.{preset}", preset) for preset in at]
    for place, preset in named:
        if preset not in PRESETS:
            error = unknown("preset", preset, PRESETS)
            raise type(error)(f"{experiment.at(place)}: {place.removesuffix(f'.{preset}')}: {error}")


def _check_axes(experiment: Experiment, place: str, given: Any) -> None:
    """Raises BadConfig for axes of a preset that are not lists, or that name an unknown axis or cell."""
    if not isinstance(given, dict) or not all(isinstance(values, list) and values for values in given.values()):
        raise BadConfig(f"{experiment.at(place)}: {place} must map axes to lists that are not empty, such as axes: {{seed: [0, 1]}}.")
    for axis, values in given.items():
        if axis not in experiment.axes:
            error = unknown("axis", axis, experiment.axes)
            raise type(error)(f"{experiment.at(f'{place}.{axis}')}: {error}")
        for name in values if isinstance(experiment.axes[axis], dict) else ():
            if name not in experiment.axes[axis]:
                error = unknown("cell", str(name), [str(cell) for cell in experiment.axes[axis]])
                raise type(error)(f"{experiment.at(f'{place}.{axis}')}: {error}")


def experiment_file(name: str, extra: Path | None = None) -> Path:
    """The file of an experiment."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    known = entries("ablations", extra)
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


def place_of(name: str, cell: str, field: str, extra: Path | None = None, *, preset: str = "") -> str:
    """Where a cell's field is set at a preset, as ``FILE:LINE, cell 'NAME'``: in the experiment's own file, else in one of its bases."""
    experiment = load_experiment(name, extra)
    bases = [part.file for base in _bases_of(experiment, cell) for part in _chain(load_experiment(base, extra), extra)]
    own, *shared = [part.file for part in _chain(experiment, extra)]
    places = [(own, "axes"), *((file, "set") for file in (own, *bases, *shared))]  # the first one overrides the others
    lines = (
        (file, line_of(file, field, cell, part=part, preset=preset, loose=loose))
        for loose in (False, True) for file, part in places if field
    )  # fmt: skip
    place = next((f"{file}:{line}" for file, line in lines if line), str(experiment.file))
    return place + (f", cell '{cell}'" if cell else "")


def _bases_of(experiment: Experiment, cell: str) -> list[str]:
    """The bases of a cell's entries."""
    entries = [pair for values in experiment.axes.values() if isinstance(values, dict) for pair in values.items()]
    return [str(settings["base"]) for name, settings in entries if "base" in settings and f".{name}." in f".{cell}."]


def settings_of(
    experiment: Experiment, extra: Path | None = None, *, preset: str | None = None, with_preset: bool = True
) -> dict[str, Any]:
    """The settings of every cell at a preset (None: those of every preset): those of its bases, overridden by the experiment's own.
    ``with_preset``: whether to include the settings of ``preset-NAME``, which ``build`` also adds."""
    return _merged(_chain(experiment, extra), preset, with_preset=with_preset)


def _merged(chain: list[Experiment], preset: str | None, *, with_preset: bool) -> dict[str, Any]:
    """The merged settings of a chain of bases; nearer bases override."""
    settings: dict[str, Any] = {}
    for part in reversed(chain):
        if with_preset or part.preset is None:
            settings = merge(settings, part.settings_at(preset))
    return settings


def preset_of(experiment: Experiment, extra: Path | None = None) -> str | None:
    """The preset among an experiment's bases; None if there is none."""
    return next((part.preset for part in _chain(experiment, extra) if part.preset), None)


def run_of(experiment: Experiment, extra: Path | None = None) -> str:
    """The field ``run`` of an experiment or the nearest base that has one; empty if none does."""
    return next((part.run for part in _chain(experiment, extra) if part.run), "")


def _chain(experiment: Experiment, extra: Path | None) -> list[Experiment]:
    """The experiment, its base, the base of that, and so on."""
    chain = [experiment]
    while chain[-1].base:
        parent = _base(chain[-1], chain[-1].base, "base", extra)
        if any(parent.file.resolve() == below.file.resolve() for below in chain):
            raise BadConfig(
                f"{chain[-1].at('base')}: the bases of '{experiment.name}' form a circle with '{parent.name}'; name another base."
            )
        chain.append(parent)
    return chain


def _base(experiment: Experiment, name: str, place: str, extra: Path | None) -> Experiment:
    """The experiment that a field of another one's file names as its base."""
    try:
        path = experiment_file(name, extra)
    except UnknownName as error:
        raise UnknownName(f"{experiment.at(place)}: {error}") from None
    if not path.is_file():
        raise BadConfig(f"{experiment.at(place)}: the base {path} does not exist.")
    return load_experiment(name, extra)


def expand(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a mapping whose keys may be dotted paths to a nested mapping."""
    result: dict[str, Any] = {}
    for name, value in flat.items():
        result = merge(result, nested(name, expand(value) if isinstance(value, Mapping) else value))
    return result


MOST_CELLS = 10_000
"""Most cells of one experiment; a few short lines of axes could give millions and use up the memory."""


def cells(experiment: Experiment, extra: Path | None = None, *, preset: str | None = None) -> dict[str, dict[str, Any]]:
    """Name of each cell -> its settings at a preset (None: those of every preset), without the preset's own settings. Later ones override:
    the experiment's bases, the cell's bases, the experiment, the cell. One cell with an empty name if there are no axes."""
    count = math.prod(len(values) for values in experiment.axes.values())
    if count > MOST_CELLS:
        raise BadConfig(f"{experiment.at('axes')}: the axes give {count:,} cells, and an experiment may have {MOST_CELLS:,}; split it.")
    axes: list[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = []
    for axis, values in experiment.axes.items():
        if not values:
            raise BadConfig(f"{experiment.at(f'axes.{axis}')}: the axis '{axis}' is empty; give it values, or leave it out.")
        if isinstance(values, dict):
            axes.append({cell: _cell(experiment, f"axes.{axis}.{cell}", settings, extra, preset) for cell, settings in values.items()})
        else:
            axes.append({name: ({}, nested(axis, value)) for name, value in zip(_names(axis, values), values, strict=True)})
    shared = _merged(_chain(experiment, extra)[1:], preset, with_preset=False)
    own = {} if experiment.preset else experiment.settings_at(preset)
    result = {}
    for combination in itertools.product(*(axis.items() for axis in axes)):
        settings = shared
        for part in (*(bases for _, (bases, _) in combination), own, *(changes for _, (_, changes) in combination)):
            settings = merge(settings, part)
        result[".".join(name for name, _ in combination)] = settings
    _check_contrasts(experiment, result)
    return result


def _check_contrasts(experiment: Experiment, names: Iterable[str]) -> None:
    """Raises BadConfig for a contrast of an unknown cell, and for two contrasts of the same name."""
    known = sorted({group_name(name) for name in names} - {""})
    seen: set[str] = set()
    for number, contrast in enumerate(experiment.contrasts):
        at = experiment.at(f"contrasts.{number}.between")
        for cell in contrast.between:
            if cell not in known:
                raise BadConfig(
                    f"{at}: the contrast '{contrast.name}' names '{cell}', which is no cell of '{experiment.name}'.{closest(cell, known)}"
                    if known
                    else f"{at}: '{experiment.name}' has no axis except the seed, so a contrast has nothing to compare; add an axis."
                )
        if contrast.name in seen:
            raise BadConfig(f"{experiment.at(f'contrasts.{number}.name')}: two contrasts are called '{contrast.name}'; rename one.")
        seen.add(contrast.name)


def repeated(experiment: Experiment) -> list[tuple[str, Any]]:
    """(axis, value) for every value that occurs more than once on its axis."""
    lists = {axis: Counter(map(str, values)) for axis, values in experiment.axes.items() if isinstance(values, list)}
    return [(axis, value) for axis, counts in lists.items() for value, count in counts.items() if count > 1]


def _cell(
    experiment: Experiment, place: str, settings: Mapping[str, Any], extra: Path | None, preset: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a cell's base at a preset, and the cell's own."""
    own = expand({name: value for name, value in settings.items() if name not in ("base", "at")})
    own = merge(own, expand(settings.get("at", {}).get(preset, {})))
    if "base" not in settings:
        return {}, own
    return settings_of(_base(experiment, str(settings["base"]), f"{place}.base", extra), extra, preset=preset), own


def preset_settings(preset: str, extra: Path | None = None) -> dict[str, Any]:
    """The settings of a preset, from ``ablations/preset-NAME.yaml``."""
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    return settings_of(load_experiment(f"preset-{preset}", extra), extra, preset=preset)
