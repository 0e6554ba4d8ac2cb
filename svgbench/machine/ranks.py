"""What torchrun tells a process about itself and the others, read from the environment in one place. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from svgbench.errors import BadInput

UNSET = "unset RANK, WORLD_SIZE and LOCAL_RANK, or start the processes with torchrun, which sets all of them"
TIMEOUT_MINUTES = 30.0


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Its number on its own machine, which is that of its GPU."""


def ranks(environ: Mapping[str, str] | None = None) -> Ranks:
    """RANK, WORLD_SIZE and LOCAL_RANK; BadInput where one is missing beside another, is no number, or is out of its bounds."""
    environ = os.environ if environ is None else environ
    given = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in environ]
    if not given:
        return Ranks()
    for name in ("RANK", "WORLD_SIZE"):
        if name not in environ:
            raise BadInput(f"the environment has {' and '.join(given)} but not {name}; {UNSET}.")
    world = whole_number("WORLD_SIZE", environ, minimum=1, advice=UNSET)
    rank = whole_number("RANK", environ, maximum=world - 1, advice=UNSET)
    local = whole_number("LOCAL_RANK", environ, maximum=world - 1, advice=UNSET) if "LOCAL_RANK" in environ else 0
    return Ranks(rank, world, local)


def whole_number(
    name: str, environ: Mapping[str, str], *, minimum: int = 0, maximum: int | None = None, advice: str = "correct it, or unset it"
) -> int:
    """A whole number that the environment holds; BadInput names the variable, its value and its bounds."""
    text = environ.get(name, "").strip()
    value = int(text) if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 19 else None
    if value is None or value < minimum or (maximum is not None and value > maximum):
        bounds = f"from {minimum} to {maximum}" if maximum is not None else f"of {minimum} or more"
        raise BadInput(f"{name}='{text}' in the environment must be a whole number {bounds}; {advice}.")
    return value


def timeout_minutes() -> float:
    """SVGBENCH_RANK_TIMEOUT_MINUTES: after how long without a heartbeat a rank is given up; fractions are allowed."""
    name = "SVGBENCH_RANK_TIMEOUT_MINUTES"
    text = os.environ.get(name, str(TIMEOUT_MINUTES))
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes <= 7 * 24 * 60:
        raise BadInput(f"{name}='{text}' in the environment must be minutes above 0 and of at most 10080, a week; correct it, or unset it.")
    return minutes


def check_environment() -> None:
    """Refuses what the environment has only half of, or misspelt, before anything runs."""
    here = ranks()
    timeout_minutes()
    if here.world == 1:
        return
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name, "").strip():
            raise BadInput(f"the environment has WORLD_SIZE={here.world} but not {name}; {UNSET}.")
    whole_number("MASTER_PORT", os.environ, minimum=1, maximum=65535, advice=UNSET)
