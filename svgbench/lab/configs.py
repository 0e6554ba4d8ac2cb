"""From an experiment's or an encoder's name to named RunConfigs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from svgbench.config import cards
from svgbench.config.build import build
from svgbench.config.choices import listed
from svgbench.config.contrasts import FEWEST_SCALES, group_name
from svgbench.config.experiments import DEFAULT_PRESET, Experiment, cells, experiment_at, place_of, preset_of, repeated, run_of
from svgbench.config.names import changes, checked_name, run_name
from svgbench.config.parse import merge, nested, override
from svgbench.config.records import digest
from svgbench.config.schema import Autoencoder, RunConfig
from svgbench.errors import BadConfig, BadInput, UnknownName, notify, unknown
from svgbench.lab.plan import check_tuning_seeds, resolve
from svgbench.metrics import judges
from svgbench.metrics.declared import METRICS
from svgbench.shelf import entries
from svgbench.stages.graph import JUDGES, field

FEW = 3
"""Largest number of repeated cells that are all named."""


def configs_of(
    experiment: str, preset: str, sets: list[str] | None, shelf: Path | None, *, data: str | None = None, resolved: bool = True
) -> dict[str, RunConfig]:
    """Name -> RunConfig for every cell of an experiment, or for one encoder, on the images of ``data`` (None: those of the configuration),
    with ``sets`` applied last. ``resolved``: whether to add the identities of files."""
    configs = cells_of(experiment, preset, sets, shelf, data=data, resolved=resolved)
    return {name: config for name, (_, config) in configs.items()}


def cells_of(
    experiment: str,
    preset: str,
    sets: list[str] | None,
    shelf: Path | None,
    *,
    data: str | None = None,
    resolved: bool = True,
    report_repeats: bool = True,
) -> dict[str, tuple[str, RunConfig]]:
    """The same with the cell of each run: name -> (cell, RunConfig); for an encoder the cell is empty. Of several cells with the same run
    only the first is kept; ``report_repeats``: whether to print a note about this."""
    over = merge(nested("data.source", data) if data is not None else {}, override(sets or []))
    if not is_experiment(experiment, shelf):
        try:
            cards.find(experiment, preset, shelf)
        except UnknownName:
            raise unknown("experiment or encoder", experiment, [*entries("ablations", shelf), *cards.load_cards(shelf)]) from None
        config = build(merge(nested("encoder.card", experiment), over), preset=preset, extra=shelf)
        config = resolve(config, shelf) if resolved else config
        return {run_name(config, shelf): ("", config)}
    loaded = experiment_at(experiment, preset, shelf)
    _check_metrics(loaded)
    fixed = preset_of(loaded, shelf)
    if fixed and preset not in (fixed, DEFAULT_PRESET):
        raise BadConfig(f"--preset {preset}: '{experiment}' is based on the preset {fixed}; leave --preset out or give another experiment.")
    preset = fixed or preset
    base_run = run_of(loaded, shelf)
    configs: dict[str, tuple[str, RunConfig]] = {}
    seen: dict[str, str] = {}
    plains: dict[str, RunConfig] = {}
    cell_of: dict[str, str] = {}
    repeats: dict[str, str] = {}
    for axis, value in repeated(loaded) if report_repeats else []:
        notify(f"the axis '{axis}' lists {value} twice; it runs once.")
    for cell, cell_settings in cells(loaded, shelf, preset=preset).items():
        try:
            drafted = build(merge(cell_settings, over), preset=preset, extra=shelf)
            _check_judges(drafted)
            config = resolve(drafted, shelf, seen=seen) if resolved else drafted
        except BadInput as error:
            raise _placed(error, experiment, cell, over, shelf, preset) from None
        same = cell_of.setdefault(_work(drafted, shelf), cell)
        if same != cell:
            repeats[cell] = same
            continue
        if base_run:  # the name comes from the file and from what --set changes
            plain = build(cell_settings, preset=preset, extra=shelf) if over else drafted
            place = [preset] if preset != "tiny" and not fixed else []
            name = ".".join(_file_name(part) for part in (base_run, cell, *place, *changes(plain, drafted)) if part)
        else:
            name = run_name(config, shelf, plains)
        if name in configs:  # two names became equal when they were converted to file names
            name += f".{digest(cell)[:6]}"
        checked_name(name, f"{experiment}, cell '{cell}': the run's name" if cell else f"{experiment}: the run's name")
        configs[name] = cell, config
    if report_repeats:
        _tell_repeats(repeats, len(cell_of) + len(repeats))
    try:
        check_tuning_seeds(config for _, config in configs.values())
    except BadConfig as error:
        tuned = next(cell for cell, config in configs.values() if config.sampling.tuning is not None)
        raise _placed(error, experiment, tuned, over, shelf, preset) from None
    if not over:  # --set and trials may omit steps; the table of contrasts then notes it
        _check_samples(loaded, list(configs.values()))
    return configs


def _check_samples(experiment: Experiment, cells: list[tuple[str, RunConfig]]) -> None:
    """Raises BadConfig, with the line, for a contrast at steps, a guidance scale or a share of the training at which one of its cells draws
    no samples."""
    for number, contrast in enumerate(experiment.contrasts):
        for what in ("steps", "guidance", "trained") if METRICS[contrast.metric].of_samples else ():
            value = getattr(contrast, what)
            for cell, config in cells:
                drawn = getattr(config.sampling, what)
                if group_name(cell) not in contrast.between or _drawn_at(what, value, drawn):
                    continue
                at, named = experiment.at(f"contrasts.{number}.{what}"), listed([f"{each:g}" for each in drawn])
                if value == "tuned":
                    raise BadConfig(
                        f"{at}: the contrast '{contrast.name}' compares samples at tuned guidance, which needs {FEWEST_SCALES} scales or "
                        f"more, and '{group_name(cell)}' draws {named}; add scales to sampling.guidance."
                    ).about("sampling.guidance")
                raise BadConfig(
                    f"{at}: the contrast '{contrast.name}' compares samples of {what} {1 if value == 'none' else value}, and "
                    f"'{group_name(cell)}' draws {what} {named}; name one of these, or add it to sampling.{what}."
                ).about(f"sampling.{what}")


def _drawn_at(what: str, value: float | str, drawn: tuple[float, ...]) -> bool:
    """Whether ``drawn``, the steps, guidance scales or shares of the training of a cell, allows a contrast's value."""
    if value == "most":
        return what == "steps" or set(drawn) != {1.0}
    if value == "tuned":
        return len(drawn) >= FEWEST_SCALES
    return (1.0 if value == "none" else value) in drawn  # no guidance is the scale 1


def _tell_repeats(repeats: dict[str, str], count: int) -> None:
    """Prints which of ``count`` cells are the same run as another cell: up to ``FEW`` by name, else their number and an example."""
    if len(repeats) <= FEW:
        for cell, same in repeats.items():
            notify(f"cell '{cell}' is the same run as '{same}'; it runs once.")
    else:
        cell, same = next(iter(repeats.items()))
        notify(f"{len(repeats)} of {count} cells are the same run as another cell, for example '{cell}' as '{same}'; each runs once.")


def _check_metrics(experiment: Experiment) -> None:
    """Raises BadConfig, with the line, for a contrast of an unknown metric."""
    for number, contrast in enumerate(experiment.contrasts):
        if contrast.metric not in METRICS:
            raise BadConfig(f"{experiment.at(f'contrasts.{number}.metric')}: {unknown('metric', contrast.metric, METRICS)}")


def _check_judges(config: RunConfig) -> None:
    """Raises UnknownName, with the field, for an unknown judging network."""
    plain = config.model_dump(mode="json")
    for path, kind, _ in JUDGES:
        name = field(plain, path)
        if name is not None:
            try:
                judges.row(kind, name)
            except UnknownName as error:
                raise error.about(path) from None


def _work(config: RunConfig, shelf: Path | None) -> str:
    """The configuration as text, without the autoencoder if the card is a codec. Equal texts mean equal runs."""
    codec = cards.find(config.encoder.card, config.preset, shelf).kind == "codec"
    return config.model_copy(update={"autoencoder": Autoencoder()} if codec else {}).model_dump_json()


def _file_name(word: str) -> str:
    """Text that can be part of a directory name: without slashes, and not only dots."""
    word = re.sub(r"[^\w.-]+", "-", word)
    return word if word.strip(".") else "-"


def _placed(error: BadInput, experiment: str, cell: str, over: dict[str, Any], shelf: Path | None, preset: str) -> BadInput:
    """The error with the file, line and cell of the setting, or with ``--set`` if that set the field; unchanged if it is about images given
    on the command line."""
    about = error.field or str(error).partition(" ")[0].strip("':,")
    source = _given(over, "data.source")
    if source is not None and Path(about) == Path(str(source)):
        return error
    where = "--set" if _given(over, about) is not None else place_of(experiment, cell, about, shelf, preset=preset)
    return type(error)(f"{where}: {error}")


def _given(over: dict[str, Any], path: str) -> Any:
    """The value that the command line gives to a dotted field; None if it gives none."""
    part: Any = over
    for name in path.split("."):
        part = part.get(name) if isinstance(part, dict) else None
    return part


def is_experiment(name: str, shelf: Path | None = None) -> bool:
    """Whether a name is an experiment's: a YAML file, or an entry of the shelf."""
    return Path(name).suffix in (".yaml", ".yml") or name in entries("ablations", shelf)
