"""Facts of a row's runs that a table can show next to its name: what was trained, for how long, and any field of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from svgbench.config.part import whole
from svgbench.config.records import flat
from svgbench.config.schema import RunConfig
from svgbench.stages.graph import TRAININGS
from svgbench.tables.collect import RunRecord

TITLES = {
    "encoder": "encoder", "align": "alignment", "residual_channels": "residual", "images_seen": "images seen", "parameters": "parameters",
    "gpu_hours": "device-hours", "layers": "blocks",
}  # fmt: skip
"""Facts that are not fields of the configuration, and their titles."""
FIELDS = tuple(flat(whole(RunConfig())))
LATER: Mapping[str, Any] = {name: value for name, value in flat(whole(RunConfig())).items() if name not in flat(RunConfig().model_dump())}
"""Fields that later versions added, with their defaults; a record omits fields with these values."""


class Row(NamedTuple):
    """The runs (seeds) of a row and their scores."""

    records: list[RunRecord]
    scores: list[dict[str, Any]]
    point: int | None = None
    """Number of images seen at this row's snapshot, if its runs have a row for each snapshot of their training."""

    @property
    def images_seen(self) -> list[int]:
        """Numbers of images seen by the networks that were sampled; of all scores if none was sampled."""
        seen = {s["images_seen"] for s in self.scores if s["steps"] is not None} or {s["images_seen"] for s in self.scores}
        return sorted(seen - {None})


def title_of(name: str) -> str:
    """The title of a fact's column; for a field its last two words."""
    return TITLES.get(name) or " ".join(name.split(".")[-2:]).replace("_", " ")


def fact(name: str, row: Row) -> str:
    """A fact of a row; a dash if its runs do not state it. If seeds differ, all values are listed."""
    if name == "gpu_hours":
        return _hours(row)
    if name == "parameters":
        stages = [stage for record in row.records if (stage := record.stage("diffusion")) is not None]
        values = [_millions(count) for stage in stages if (count := stage["cost"].get("parameters")) is not None]
    elif name == "layers":
        values = [_layers(record.config()) for record in row.records]
    elif name == "encoder":
        values = [record.about["encoder"] for record in row.records]
    elif name == "images_seen":
        values = [f"{count:,}" for count in row.images_seen]
    elif name in TITLES:
        values = [str(s[name]) for s in row.scores if s[name] is not None]
    else:
        values = [_plain({**LATER, **flat(record.config())}.get(name)) for record in row.records]
    return " / ".join(dict.fromkeys(values)) or "-"


def _layers(config: dict[str, Any]) -> str:
    """The encoder's blocks whose tokens are the features, if the run names them."""
    layers = ((config.get("encoder") or {}).get("features") or {}).get("layers", "-")
    return layers if isinstance(layers, str) else ", ".join(map(str, layers))


def _plain(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _millions(count: int) -> str:
    millions = count / 1e6
    return f"{millions:.{2 if millions < 10 else 1 if millions < 100 else 0}f}M"


def _hours(row: Row) -> str:
    """Device-hours of training per seed (autoencoder, and diffusion up to the images seen, including a training that it continues), and the
    kind of device."""
    hours: list[float] = []
    devices: dict[str, None] = {}
    for record in row.records:
        stages = [stage for name in ("autoencoder", "diffusion") if (stage := record.stage(name)) is not None]
        before = [stage for stage in record.behind if stage["why"] == "start" and stage["stage"] in TRAININGS]
        seconds = [s["seconds"] * s["host"].get("ranks", 1) * _share(s, row) for s in stages]
        seconds += [s["seconds"] * s["host"].get("ranks", 1) for s in before]
        hours += [sum(seconds) / 3600] if stages else []
        devices |= {s["host"].get("device", "?"): None for s in stages}
    return f"{sum(hours) / len(hours):.3g} ({', '.join(devices)})" if hours else "-"


def _share(stage: dict[str, Any], row: Row) -> float:
    """The share of a stage's training after which the row's samples were drawn."""
    total = stage["cost"].get("images_seen")
    if stage["stage"] not in ("diffusion", "continued-diffusion") or not total or not row.images_seen:
        return 1.0
    return min(1.0, (row.images_seen[-1] - stage["cost"].get("images_before", 0)) / total)
