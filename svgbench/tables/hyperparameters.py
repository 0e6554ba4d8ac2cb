"""The hyperparameters of an experiment's cells in one table, in the groups of table 5 of the paper. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from svgbench.config.choices import OBJECTIVES
from svgbench.config.schema import Diffusion, RunConfig
from svgbench.lab.forecast.sizes import Sizes, counts_of, sizes_of
from svgbench.shelf import entries, read_yaml
from svgbench.tables.table import Table


def _continuous(part: Diffusion) -> bool:
    return OBJECTIVES[part.objective].continuous


def _predicts(part: Diffusion) -> str:
    """What the network predicts."""
    return part.prediction if part.objective == "flow" else OBJECTIVES[part.objective].predicts


DERIVED: Mapping[str, Callable[[Sizes], str]] = {
    "parameters": lambda sizes: f"{sizes.transformer.parameters / 1e6:.4g}M",
    "predicts": lambda sizes: _predicts(sizes.config.diffusion),
    "latent": lambda sizes: f"{sizes.grid}x{sizes.grid}x{sizes.channels}",
    "updates": lambda sizes: f"{-(-sizes.config.diffusion.training.total_images // sizes.config.diffusion.training.batch):,}",
}
"""Facts that follow from a configuration."""
OF_FEATURES = ("autoencoder.",)
"""Fields without effect when a codec is adopted."""
OF_FLOW = ("diffusion.time", "diffusion.shift", "sampling.shift")
"""Fields without effect for an objective with discrete times."""


def groups() -> dict[str, dict[str, str]]:
    """Group -> title of a row -> its field or fact."""
    return read_yaml(entries("reports")["hyperparameters"])


def value(config: RunConfig, path: str) -> Any:
    """The value at a dotted path, defaults included."""
    part: Any = config
    for name in path.split("."):
        part = getattr(part, name)
    return part


def hyperparameters(title: str, configs: Mapping[str, RunConfig], shelf: Path | None = None) -> tuple[Table, list[dict[str, Any]]]:
    """A table with a column for each name, and its records for JSON. For data sets that are not on this machine, published numbers of
    images are used."""
    all_sizes = {name: sizes_of(config, counts_of(config), shelf) for name, config in configs.items()}
    table = Table(title, ["group", "hyperparameter", *configs], [], keys=2)
    records: list[dict[str, Any]] = [{"name": name} for name in configs]
    for group, rows in groups().items():
        for row, path in rows.items():
            texts = [DERIVED[path](sizes) if path in DERIVED else _text(_value(sizes, path)) for sizes in all_sizes.values()]
            table.rows.append([group, row, *texts])
            for record, sizes in zip(records, all_sizes.values(), strict=True):
                record[path] = DERIVED[path](sizes) if path in DERIVED else _value(sizes, path)
    return table, records


def _value(sizes: Sizes, path: str) -> Any:
    """A field's value; None for a field that has no effect with this codec, objective or release."""
    unused = (sizes.card.kind == "codec" and path.startswith(OF_FEATURES)) or (path in OF_FLOW and not _continuous(sizes.config.diffusion))
    unused |= path == "latents.standardise" and (sizes.config.latents.scale is not None or sizes.config.latents.statistics is not None)
    return None if unused else value(sizes.config, path)


def _text(found: Any) -> str:
    if isinstance(found, tuple | list):
        return ", ".join(map(_text, found))
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, float):
        return f"{found:g}"
    return "-" if found is None else f"{found:,}" if isinstance(found, int) else str(found)
