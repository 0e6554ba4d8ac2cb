"""Names of runs: the settings that differ from the defaults, as a directory name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svgbench.config import cards
from svgbench.config.build import build
from svgbench.config.fields import short_name
from svgbench.config.part import whole
from svgbench.config.records import canonical, digest
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput

LONGEST = 40
"""Maximum number of letters of one setting in a name."""
NAME_BYTES = 255
"""Longest directory name that file systems accept, in bytes."""
TAKEN = ("store", "plans", "slurm", "figures", "costs", "contrasts")
"""Directories in an output directory that are not runs."""


def checked_name(name: str, what: str = "the name of a run") -> str:
    """The name, unchanged. Raises BadInput if it cannot be the name of a run and its directory: empty, a path, hidden, with control
    characters or spaces at its ends, too long, or the name of another directory there."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BadInput(f"{what} {name!a} is not UTF-8; choose letters, digits, '.', '_' and '-'.") from None
    wrong = None
    if not name.strip(" ."):
        wrong = "is empty or only dots and spaces"
    elif set(name) & {"/", "\\"}:
        wrong = "is a path; a run is a directory directly in --out"
    elif any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Cn") for letter in name):
        wrong = "contains control characters"
    elif name != name.strip() or name[0] in ".-":
        wrong = "starts with a dot, a dash or a space, or ends with a space"
    elif size > NAME_BYTES:
        wrong = f"has {size} bytes, and a directory's name may have {NAME_BYTES}"
    elif name.lower() in TAKEN:
        wrong = "is reserved for another directory in --out"
    if wrong:
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise BadInput(f"{what} {shown!r} {wrong}; choose letters, digits, '.', '_' and '-'.")
    return name


def run_name(config: RunConfig, extra: Path | None = None, plains: dict[str, RunConfig] | None = None) -> str:
    """A short name of the settings that differ from the defaults: ``dinov3-tiny.no-align.weak-share-0.5.seed-1``. Up to two other settings
    are named; more become six digits of their digest. ``plains``: a cache of default configurations, shared by the cells of a grid."""
    autoencoder = config.autoencoder
    parts = [re.sub(r"[^\w.-]+", "-", config.encoder.card)]
    named: dict[str, Any] = {"encoder": {"card": config.encoder.card}, "data": {"limit": config.data.limit}}
    if cards.find(config.encoder.card, config.preset, extra).kind == "features":
        named["autoencoder"] = {"align": autoencoder.align}
        if autoencoder.residual.channels == 0:
            parts.append("no-residual")
            named["autoencoder"]["residual"] = {"channels": 0}
        elif autoencoder.align == "none":
            parts.append("no-align")
        elif autoencoder.align != "frozen":
            parts.append(f"align-{autoencoder.align}")
    if not config.generation:
        parts.append("no-generation")
        named["generation"] = False
    of_card = cards.find(config.encoder.card, config.preset, extra).preset
    if config.preset != "tiny" and not config.preset == of_card == "mini":  # the names of such cards end in it
        parts.append(config.preset)
    plains, cache_key = {} if plains is None else plains, canonical([config.preset, named])
    if cache_key not in plains:
        plains[cache_key] = build(named, preset=config.preset, extra=extra)
    plain = plains[cache_key].model_copy(update={"seed": config.seed})
    if config.data.limit:
        parts.append(f"limit-{config.data.limit}")
    return checked_name(".".join([*parts, *changes(plain, config), *([f"seed-{config.seed}"] if config.seed else [])]))


def changes(plain: RunConfig, config: RunConfig) -> list[str]:
    """Parts of a name for settings that differ from a plain run: up to two by name and value, more as six digits of their digest."""
    changed = differences(whole(plain), whole(config))
    words = [f"{short_name(path)}-{value}" for path, value in changed.items()]
    if changed and (len(words) > 2 or not all(len(word) <= LONGEST and re.fullmatch(r"[\w.-]+", word) for word in words)):
        words = [digest(changed)[:6]]
    return sorted(word.replace("_", "-") for word in words)


def differences(one: Mapping[str, Any], other: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Dotted path -> value in ``other``, for all fields in which two mappings differ, except those that planning fills in."""
    differing: dict[str, Any] = {}
    for name, value in other.items():
        if isinstance(value, Mapping) and isinstance(one.get(name), Mapping):
            differing |= differences(one[name], value, f"{start}{name}.")
        elif one.get(name) != value and name not in ("identity", "opened"):
            differing[start + name] = value
    return differing
