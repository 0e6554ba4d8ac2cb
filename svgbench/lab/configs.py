"""From an experiment's or an encoder's name to named RunConfigs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from svgbench.config import cards
from svgbench.config.build import build
from svgbench.config.experiments import Experiment, cells, load_experiment, place_of, preset_of, repeated, run_of
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

DEFAULT_PRESET = "tiny"
FEW = 3
"""Equal cells that are named one by one."""
"""The preset where none is given."""


def configs_of(
    experiment: str, preset: str, sets: list[str] | None, shelf: Path | None, *, data: str | None = None, resolved: bool = True
) -> dict[str, RunConfig]:
    """Name -> RunConfig for every cell of an experiment, or for one encoder, on the images of ``data`` (the configuration's own when
    None), with ``sets`` on top; with identities where they are to be ``resolved``."""
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
    told: bool = True,
) -> dict[str, tuple[str, RunConfig]]:
    """The same with the cell of each: name -> (cell, RunConfig). Of cells that are one run the first, which is ``told``; an encoder's cell
    is empty."""
    over = merge(nested("data.source", data) if data is not None else {}, override(sets or []))
    if not is_experiment(experiment, shelf):
        try:
            cards.find(experiment, preset, shelf)
        except UnknownName:
            raise unknown("experiment or encoder", experiment, [*entries("ablations", shelf), *cards.load_cards(shelf)]) from None
        config = build(merge(nested("encoder.card", experiment), over), preset=preset, extra=shelf)
        config = resolve(config, shelf) if resolved else config
        return {run_name(config, shelf): ("", config)}
    loaded = load_experiment(experiment, shelf)
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
    equal: dict[str, str] = {}
    for axis, value in repeated(loaded) if told else []:
        notify(f"the axis '{axis}' names {value} twice; it runs once.")
    for cell, cell_settings in cells(loaded, shelf, preset=preset).items():
        try:
            drafted = build(merge(cell_settings, over), preset=preset, extra=shelf)
            _check_judges(drafted)
            config = resolve(drafted, shelf, seen=seen) if resolved else drafted
        except BadInput as error:
            raise _placed(error, experiment, cell, over, shelf, preset) from None
        same = cell_of.setdefault(_work(drafted, shelf), cell)
        if same != cell:
            equal[cell] = same
            continue
        if base_run:  # named by the file, and by what --set changes
            plain = build(cell_settings, preset=preset, extra=shelf) if over else drafted
            place = [preset] if preset != "tiny" and not fixed else []
            name = ".".join(_file_name(part) for part in (base_run, cell, *place, *changes(plain, drafted)) if part)
        else:
            name = run_name(config, shelf, plains)
        if name in configs:  # equal once they are made to fit a file's name
            name += f".{digest(cell)[:6]}"
        checked_name(name, f"{experiment}, cell '{cell}': the run's name" if cell else f"{experiment}: the run's name")
        configs[name] = cell, config
    if told:
        _tell_equal(equal, len(cell_of) + len(equal))
    try:
        check_tuning_seeds(config for _, config in configs.values())
    except BadConfig as error:
        tuned = next(cell for cell, config in configs.values() if config.sampling.tuning is not None)
        raise _placed(error, experiment, tuned, over, shelf, preset) from None
    return configs


def _tell_equal(equal: dict[str, str], count: int) -> None:
    """Says which of ``count`` cells are the run of another one: each of a few, one for example of many."""
    if len(equal) <= FEW:
        for cell, same in equal.items():
            notify(f"cell '{cell}' is the same run as '{same}'; it runs once.")
    else:
        cell, same = next(iter(equal.items()))
        notify(f"{len(equal)} of {count} cells are the same runs as others, such as '{cell}' as '{same}'; each runs once.")


def _check_metrics(experiment: Experiment) -> None:
    """Refuses a contrast of an unknown metric, with its line."""
    for number, contrast in enumerate(experiment.contrasts):
        if contrast.metric not in METRICS:
            raise BadConfig(f"{experiment.at(f'contrasts.{number}.metric')}: {unknown('metric', contrast.metric, METRICS)}")


def _check_judges(config: RunConfig) -> None:
    """Refuses a judging network that is unknown, with its field."""
    plain = config.model_dump(mode="json")
    for path, kind, _ in JUDGES:
        name = field(plain, path)
        if name is not None:
            try:
                judges.row(kind, name)
            except UnknownName as error:
                raise error.about(path) from None


def _work(config: RunConfig, shelf: Path | None) -> str:
    """The configuration as text, without the autoencoder where the card is a codec: equal texts are equal runs."""
    codec = cards.find(config.encoder.card, config.preset, shelf).kind == "codec"
    return config.model_copy(update={"autoencoder": Autoencoder()} if codec else {}).model_dump_json()


def _file_name(word: str) -> str:
    """Text as part of a directory name: no slash, and never only dots."""
    word = re.sub(r"[^\w.-]+", "-", word)
    return word if word.strip(".") else "-"


def _placed(error: BadInput, experiment: str, cell: str, over: dict[str, Any], shelf: Path | None, preset: str) -> BadInput:
    """The error with the file, line and cell of the setting, or with ``--set`` where that set the field; unchanged where it is about the
    images given on the command line."""
    about = error.field or str(error).partition(" ")[0].strip("':,")
    source = _given(over, "data.source")
    if source is not None and Path(about) == Path(str(source)):
        return error
    where = "--set" if _given(over, about) is not None else place_of(experiment, cell, about, shelf, preset=preset)
    return type(error)(f"{where}: {error}")


def _given(over: dict[str, Any], path: str) -> Any:
    """The value that the command line sets a dotted field to; None where it does not."""
    part: Any = over
    for name in path.split("."):
        part = part.get(name) if isinstance(part, dict) else None
    return part


def is_experiment(name: str, shelf: Path | None = None) -> bool:
    """Whether a name is an experiment's: a YAML file, or an entry of the shelf."""
    return Path(name).suffix in (".yaml", ".yml") or name in entries("ablations", shelf)
