"""The choices that configuration, networks, cost forecasts and ``--help`` share: objectives, samplers, alignments, guidance schedules,
limits. No torch: what a choice computes is in ``nets``, under the same name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from svgbench.errors import BadConfig, unknown

MOST_STEPS = 4000
MOST_GUIDANCE = 100.0
LEAST_SHIFT = 1e-3
"""Smallest shift that the command line accepts."""
MEMORY_SHARE = 0.9
"""Part of a GPU's memory that is planned; the rest is for the allocator's gaps, workspaces of kernels and the driver."""
PIECE = 64
"""Images in a micro-batch of stage 1 that keep a GPU busy: when a batch does not fit, small pieces let more of them keep their
activations."""
MOMENT_IMAGES = 50_000
"""Number of training images whose residuals determine a frozen alignment."""
CACHE_BYTES = 4 << 30
"""Features or latents of an image set up to this size in bytes are kept in memory by a stage; larger sets are encoded when read."""
KEPT_BYTES = 1 << 30
"""Latents of all images up to this size in bytes are kept on disk; ImageNet's (250 to 500 GB) are encoded when read."""


class ObjectiveChoice(NamedTuple):
    """What a training objective allows (``nets.objectives`` trains by it)."""

    about: str
    predicts: str
    """What its models predict, as a plural noun for error messages."""
    continuous: bool
    """Times are continuous: a shift and a distribution of times apply."""
    autoguidance: bool
    """Samples may be guided by a weak model."""
    learned_sigma: bool
    """The network may also predict a variance."""
    intervals: bool = False
    """The network sees intervals of time, not times."""
    rounds: bool = False
    """A network of its own makes the tokens in rounds: it has no velocity and no blocks that REPA could align."""


OBJECTIVES: Mapping[str, ObjectiveChoice] = {
    "flow": ObjectiveChoice("straight paths and velocities (SiT)", "velocities", True, True, False),
    "ddpm": ObjectiveChoice("noise prediction over 1000 steps of a linear schedule (DiT)", "noise", False, False, True),
    "meanflow": ObjectiveChoice(
        "average velocities over intervals, for one or a few steps (MeanFlow)", "average velocities", True, False, False, True
    ),
    "mar": ObjectiveChoice("hidden tokens by a diffusion loss, made in rounds (MAR)", "tokens in rounds", False, False, False, rounds=True),
}


class AlignmentChoice(NamedTuple):
    """A way to match the residual's statistics to the features' (``nets.alignment`` computes it)."""

    about: str
    freezes: bool
    """Whether the map is fixed when training ends, from the statistics of the training set."""
    by_channel: bool = False
    """Whether the map only scales and shifts channels. Standardising each channel undoes such a map, so SiT sees no difference."""


ALIGNMENTS: Mapping[str, AlignmentChoice] = {
    "none": AlignmentChoice("no alignment", False, by_channel=True),
    "batch": AlignmentChoice(
        "statistics of the batch, as released; a latent depends on the other images of its batch", False, by_channel=True
    ),
    "frozen": AlignmentChoice("batch statistics in training, those of the training set afterwards", True, by_channel=True),
    "channel": AlignmentChoice("as frozen, for each channel separately", True, by_channel=True),
    "whiten": AlignmentChoice("as frozen, and residual channels are decorrelated", True),
    "token": AlignmentChoice(
        "each token separately: mean and standard deviation over its channels, the text of arXiv 2510.15301 to its equation 6", False
    ),
}


STANDARDISATIONS: Mapping[str, str] = {
    "channel": "each channel by its own mean and standard deviation, as released",
    "scalar": "all channels by one mean and standard deviation over all values: differences in scale between channels remain",
    "features": "all channels by the features' scale: mean and standard deviation of the feature channels, averaged over them",
    "none": "raw latents",
}
"""Ways to bring raw latents to the scale that the diffusion model sees (``nets.latents`` computes them)."""


LAST_STEP = 0.04
"""Length of the last, noiseless step of ``sde-euler``: SiT's and REPA's."""
DDPM_STEPS = 1000
"""Steps of DDPM's schedule: 0 is nearly data, 999 nearly noise."""


def equal_pieces(count: int, most: int) -> int:
    """Images in each of the fewest pieces of a batch with at most ``most`` images; the last one may be smaller."""
    return math.ceil(count / math.ceil(count / most))


def shift_time(t: Any, shift: float) -> Any:
    """t <- s t / (1 + (s - 1) t), for a number or a tensor: s < 1 moves times towards noise (t = 0); t = 0 and t = 1 do not change."""
    return shift * t / (1 + (shift - 1) * t)


def shifted_times(steps: int, shift: float) -> list[float]:
    """The ``steps`` + 1 times from 0 (noise) to 1 (data): a uniform grid, shifted."""
    if steps < 1:
        raise BadConfig(f"sampling needs at least 1 step, not {steps}.")
    return [*(shift_time(i / steps, shift) for i in range(steps)), 1.0]


def stochastic_times(steps: int, shift: float) -> list[float]:
    """The times of ``sde-euler``: ``steps`` points from 0 to 0.96, shifted within this range, then 1 (SiT's grid if the shift is 1)."""
    return shifted_times(steps, shift) if steps <= 1 else [*(t * (1 - LAST_STEP) for t in shifted_times(steps - 1, shift)), 1.0]


def kept_steps(steps: int) -> list[int]:
    """The sampled ones of DDPM's 1000 steps, in ascending order: evenly spaced, including both ends (ADM's respacing)."""
    if not 1 <= steps <= DDPM_STEPS:
        raise BadConfig(f"a noise-predicting model of {DDPM_STEPS} steps is sampled in 1 to {DDPM_STEPS} of them, not {steps}.")
    return [round(i * (DDPM_STEPS - 1) / max(steps - 1, 1)) for i in range(steps)]


def ddpm_time(step: float) -> float:
    """The time in [0, 1] of a DDPM step, as guidance schedules use it: 0 is noise."""
    return 1 - step / (DDPM_STEPS - 1)


def _ddpm_times(steps: int, shift: float) -> list[float]:
    """Times of the kept steps from noise to data, then 1; the shift has no effect."""
    return [*(ddpm_time(step) for step in reversed(kept_steps(steps))), 1.0]


class SamplerChoice(NamedTuple):
    """A way from noise to latents (``nets.sampler`` computes it)."""

    objective: str
    """The objective of the models that it samples."""
    evaluations: tuple[float, ...] | None
    """Where in a step's interval the network is evaluated, as shares of the interval: one entry per evaluation. None: adaptive."""
    times: Callable[[int, float], list[float]] = shifted_times
    """(steps, shift) -> ``steps`` + 1 times from 0 (noise) to 1 (data)."""
    about: str = ""
    order: int = 1
    """Order of its error in the length of a step; of no use to an adaptive one."""
    zero_init: bool = False
    """Whether the sampler allows zero-init: it takes a fixed number of steps along an ODE of velocities."""


SAMPLERS: Mapping[str, SamplerChoice] = {
    "euler": SamplerChoice("flow", (0.0,), zero_init=True),
    "heun": SamplerChoice("flow", (0.0, 1.0), order=2, zero_init=True),
    "midpoint": SamplerChoice("flow", (0.0, 0.5), order=2, zero_init=True),
    "dopri5": SamplerChoice("flow", None, about="adaptive: a sample depends on its batch"),
    "sde-euler": SamplerChoice("flow", (0.0,), stochastic_times, about="stochastic"),
    "ddim": SamplerChoice("ddpm", (0.0,), _ddpm_times),
    "ddpm": SamplerChoice("ddpm", (0.0,), _ddpm_times, about="stochastic"),
    "meanflow": SamplerChoice("meanflow", (0.0,), about="one average velocity for each interval"),
    "mar": SamplerChoice("mar", (0.0,), about="steps are rounds, each of which makes further tokens"),
}

if TYPE_CHECKING:
    ObjectiveName: TypeAlias = str
    AlignmentName: TypeAlias = str
    StandardisationName: TypeAlias = str
    SamplerName: TypeAlias = str
else:  # the keys of the tables are the values that a configuration may have
    ObjectiveName, AlignmentName, StandardisationName, SamplerName = (
        Literal[tuple(table)] for table in (OBJECTIVES, ALIGNMENTS, STANDARDISATIONS, SAMPLERS)
    )


def replacing_alignments() -> tuple[str, ...]:
    """Alignments that can replace a trained one: their maps do not depend on the batch, and decoding can undo them."""
    return tuple(name for name, choice in ALIGNMENTS.items() if choice.freezes or name == "none")


def samplers_of(objective: str) -> tuple[str, ...]:
    """Names of the samplers of an objective's models."""
    return tuple(name for name, sampler in SAMPLERS.items() if sampler.objective == objective)


def objectives_with(fact: str) -> str:
    """Names of the objectives for which a fact of ``ObjectiveChoice`` holds, for an error sentence."""
    return listed([name for name, choice in OBJECTIVES.items() if getattr(choice, fact)])


def listed(names: list[str] | tuple[str, ...]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def sampler_help() -> str:
    """The samplers by objective, for ``--help``."""
    return "; ".join(f"for {objective}: {', '.join(samplers_of(objective))}" for objective in OBJECTIVES)


SCHEDULES = ("constant", "linear", "late-0.5", "early-0.5", "interval-0.2-0.8")
"""One example of each kind: ``constant``; ``linear`` (the weight rises from near 1 to the scale at the last step); ``late-R`` (while
(i + 1) / N > R at step i of N, from 0; ``late`` is ``late-0.5``, the SVG release's); ``early-R`` (while t > R, as the SVG release names
it); ``interval-A-B`` (while A <= t <= B, arXiv 2404.07724)."""
SCHEDULE_HELP = "constant, linear, late, late-R, early-R or interval-A-B"
_TIME = r"(0?\.\d+|0|1|0\.0*|1\.0*)"


@dataclass(frozen=True)
class Schedule:
    """When classifier-free guidance acts."""

    name: str
    share: Callable[[float, int, int], float]
    """(t, step, steps) -> position of the weight between 1 and the scale, as a share from 0 to 1."""

    def weight(self, scale: float, t: float, step: int, steps: int) -> float:
        """The guidance weight at time t of step ``step`` (from 0) of ``steps``; if it is 1, the unconditional branch is not evaluated."""
        return 1.0 + (scale - 1.0) * float(self.share(t, step, steps))


def parse_schedule(name: str) -> Schedule:
    """The guidance schedule of this name. Raises UnknownName for an unknown name, BadConfig if its times are missing or out of order."""
    if name == "constant":
        return Schedule(name, lambda t, step, steps: 1.0)
    if name == "linear":
        return Schedule(name, lambda t, step, steps: (step + 1) / steps)
    kind, _, rest = name.partition("-")
    if kind == "late":
        (share,) = _times(name, rest, 1) if name != "late" else (0.5,)
        return Schedule(f"late-{share:g}", lambda t, step, steps: (step + 1) / steps > share)
    if kind == "early":
        (low,) = _times(name, rest, 1)
        return Schedule(name, lambda t, step, steps: t > low)
    if kind == "interval":
        low, high = _times(name, rest, 2)
        if low >= high:
            first, last = rest.split("-")
            raise BadConfig(
                f"guidance schedule '{name}' must begin before it ends, but {first} is not below {last}; give the earlier time first."
            )
        return Schedule(name, lambda t, step, steps: low <= t <= high)
    raise unknown("guidance schedule", name, SCHEDULES)


def _times(name: str, rest: str, count: int) -> list[float]:
    """``count`` times in [0, 1] written with dashes between them."""
    match = re.fullmatch("-".join([_TIME] * count), rest)
    if not match:
        example = f"{name.partition('-')[0]}-0.5" if count == 1 else "interval-0.1-0.8"
        raise BadConfig(f"guidance schedule '{name}' needs {count} time{'s' * (count > 1)} from 0 to 1, for example {example}.")
    return [float(text) for text in match.groups()]


ROUND_SCHEDULES = ("constant", "linear")
"""Guidance schedules of the sampler ``mar``, whose rounds have no times; its ``linear`` follows the share of tokens that exist."""


def check_rounds(sampler: str, schedule: str, guided_channels: int | None) -> None:
    """Raises BadConfig, with the field, for a setting that needs what the rounds of a sampler do not have."""
    if schedule not in ROUND_SCHEDULES:
        raise BadConfig(
            f"schedule {schedule} needs times, which the rounds of the sampler {sampler} do not have; use {listed(ROUND_SCHEDULES)}."
        ).about("sampling.schedule")
    if guided_channels is not None:
        raise BadConfig(f"guided_channels does not fit the sampler {sampler}, which guides all of a token; leave it empty.").about(
            "sampling.guided_channels"
        )


def usual_steps(objective: str, drawn: Sequence[int]) -> int:
    """Number of steps where a user names none: 25; of an objective whose tokens limit the rounds, the most that the run draws."""
    return max(drawn) if OBJECTIVES[objective].rounds else 25


HIDDEN_SPREAD = 0.25
"""Standard deviation of the share of hidden tokens in MAR's training, a normal distribution around 1 cut off above 1 (section 4.2)."""


def hidden_share(place: float, least: float) -> float:
    """The share of hidden tokens between ``least`` and 1 of which a part ``place`` (0 to 1) of all draws is smaller."""
    normal = NormalDist()
    low = normal.cdf((least - 1) / HIDDEN_SPREAD)
    return 1 + HIDDEN_SPREAD * normal.inv_cdf(low + place * (0.5 - low))


def left_after(rounds: int, tokens: int) -> list[int]:
    """How many of a latent's tokens are absent after each round but the last, by MAR's cosine: at least one less than before, at least
    one."""
    if not 1 <= rounds <= tokens:
        raise BadConfig(f"MAR makes {tokens} tokens in 1 to {tokens} rounds, not {rounds}; change the number of steps.")
    left = [tokens]
    for number in range(1, rounds):
        left.append(max(1, min(left[-1] - 1, math.floor(tokens * math.cos(math.pi / 2 * number / rounds)))))
    return left[1:]


def zero_init_samplers() -> str:
    """Names of the samplers that allow zero-init, for a sentence."""
    return listed([name for name, sampler in SAMPLERS.items() if sampler.zero_init])


def check_zero_init(sampler: str, steps: int, zero_init: int, optimised_scale: bool, against: str = "null") -> None:
    """Raises BadConfig, with the field, for zero-init or an optimised scale that does not fit the sampler."""
    if zero_init and not SAMPLERS[sampler].zero_init:
        raise BadConfig(f"zero_init works with the samplers {zero_init_samplers()}, not with {sampler}; set it to 0.").about(
            "sampling.zero_init"
        )
    if not 0 <= zero_init < max(steps, 1):
        raise BadConfig(f"zero_init {zero_init} must be at least 0 and below the {steps} step{'s' * (steps > 1)}; change it.").about(
            "sampling.zero_init"
        )
    if optimised_scale and SAMPLERS[sampler].objective != "flow":
        fitting = listed(samplers_of("flow"))
        raise BadConfig(
            f"optimised_scale works with velocity models and the samplers {fitting}, not with {sampler}; set it to false."
        ).about("sampling.optimised_scale")
    if optimised_scale and against != "null":
        raise BadConfig(f"optimised_scale works with guidance against the null class, not {against}; set it to false.").about(
            "sampling.optimised_scale"
        )


def evaluations(sampler: str, steps: int, guidance: float, schedule: str, shift: float, zero_init: int = 0) -> float | None:
    """Number of network evaluations for one sample: guided evaluations count twice, zero-init steps not at all. None for a sampler with
    adaptive steps. Raises UnknownName for an unknown sampler."""
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    row, guides = SAMPLERS[sampler], parse_schedule(schedule)
    if row.evaluations is None:
        return None
    count = 0
    for step, (t, after) in enumerate(pairwise(row.times(steps, shift))):
        if step < zero_init:
            continue
        at = [after if share == 1 else t + share * (after - t) for share in row.evaluations]
        count += sum(1 if guides.weight(guidance, time, step, steps) == 1 else 2 for time in at)
    return float(count)
