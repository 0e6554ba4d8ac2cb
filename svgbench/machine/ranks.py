"""The rank of a process under torchrun, read from the environment. No torch."""

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
    """This process among the processes of a run."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Index of the process, and of its GPU, on its machine."""


def ranks(environ: Mapping[str, str] | None = None) -> Ranks:
    """Reads RANK, WORLD_SIZE and LOCAL_RANK. Raises BadInput when only some are set, or a value is not a number in its range."""
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
    """An integer from the environment. Raises BadInput with the name, value and range of the variable."""
    text = environ.get(name, "").strip()
    value = int(text) if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 19 else None
    if value is None or value < minimum or (maximum is not None and value > maximum):
        bounds = f"from {minimum} to {maximum}" if maximum is not None else f"of {minimum} or more"
        raise BadInput(f"{name}='{text}' in the environment must be a whole number {bounds}; {advice}.")
    return value


def check_several(processes: int) -> None:
    """Raises BadInput when a transformer cannot be divided, because there is only one process."""
    if processes == 1:
        raise BadInput("--shard divides a transformer among processes, and there is one; give --ranks N or use torchrun, or leave it out.")


def timeout_minutes() -> float:
    """SVGBENCH_RANK_TIMEOUT_MINUTES: minutes without a heartbeat after which a rank counts as lost; fractions are allowed."""
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
    """Raises BadInput for incomplete or invalid settings of torchrun in the environment."""
    here = ranks()
    timeout_minutes()
    if here.world == 1:
        return
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name, "").strip():
            raise BadInput(f"the environment has WORLD_SIZE={here.world} but not {name}; {UNSET}.")
    whole_number("MASTER_PORT", os.environ, minimum=1, maximum=65535, advice=UNSET)
