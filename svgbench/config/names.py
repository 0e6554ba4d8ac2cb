"""Names of runs: what is special about a configuration, in words that fit a directory's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svgbench.config import cards
from svgbench.config.fields import word_of
from svgbench.config.grid import build
from svgbench.config.records import canonical, digest
from svgbench.config.schema import RunConfig

LONGEST = 40
"""Letters of a setting that a name says."""


def run_name(config: RunConfig, extra: Path | None = None, plains: dict[str, RunConfig] | None = None) -> str:
    """A short name that says what is special about a run: ``dinov3-tiny.no-align.weak-share-0.5.seed-1``; two or fewer settings beyond
    those are named, more are told apart by six digits of their digest. ``plains``: plain runs that other cells were held against."""
    autoencoder = config.autoencoder
    parts = [re.sub(r"[^\w.-]+", "-", config.encoder.card)]
    told: dict[str, Any] = {"encoder": {"card": config.encoder.card}, "data": {"limit": config.data.limit}}
    if cards.find(config.encoder.card, config.preset, extra).kind == "features":
        told["autoencoder"] = {"align": autoencoder.align}
        if autoencoder.residual.channels == 0:
            parts.append("no-residual")
            told["autoencoder"]["residual"] = {"channels": 0}
        elif autoencoder.align == "none":
            parts.append("no-align")
        elif autoencoder.align != "frozen":
            parts.append(f"align-{autoencoder.align}")
    if config.preset != "tiny":
        parts.append(config.preset)
    plains, asked = {} if plains is None else plains, canonical([config.preset, told])
    if asked not in plains:
        plains[asked] = build(told, preset=config.preset, extra=extra)
    plain = plains[asked].model_copy(update={"seed": config.seed})
    if config.data.limit:
        parts.append(f"limit-{config.data.limit}")
    return ".".join([*parts, *changes(plain, config), *([f"seed-{config.seed}"] if config.seed else [])])


def changes(plain: RunConfig, config: RunConfig) -> list[str]:
    """Words for what a run has otherwise than a plain one: two or fewer settings by name and value, more by six digits of their digest."""
    changed = differences(plain.model_dump(mode="json"), config.model_dump(mode="json"))
    words = [f"{word_of(path)}-{value}" for path, value in changed.items()]
    if changed and (len(words) > 2 or not all(len(word) <= LONGEST and re.fullmatch(r"[\w.-]+", word) for word in words)):
        words = [digest(changed)[:6]]
    return sorted(word.replace("_", "-") for word in words)


def differences(one: Mapping[str, Any], other: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Dotted path -> the other's value, wherever two mappings differ; what is filled in when planned is left out."""
    found: dict[str, Any] = {}
    for name, value in other.items():
        if isinstance(value, Mapping) and isinstance(one.get(name), Mapping):
            found |= differences(one[name], value, f"{start}{name}.")
        elif one.get(name) != value and name not in ("identity", "opened"):
            found[start + name] = value
    return found
