"""How samples are drawn: the part of a configuration, and the protocol of one of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from svgbench.config.choices import DDPM_STEPS, MOST_GUIDANCE, MOST_STEPS, SamplerName, parse_schedule
from svgbench.config.part import Count, Part, Positive, Seed, Sparse
from svgbench.errors import BadInput

TUNED = "tuned"
"""The value of ``sampling.shift`` that selects the best of ``sampling.tuning.shifts``."""


class Tuning(Part):
    """How ``sampling.shift: tuned`` chooses: a run of the same configuration with another seed draws samples at each candidate shift, and
    all runs of this tokenizer use the shift with the lowest gFID. The seed is used only for tuning: no table shows its scores."""

    shifts: Annotated[tuple[Positive, ...], Field(min_length=2)] = (0.1, 0.15, 0.25, 0.4, 0.6, 1.0)
    """The candidates."""
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 5
    """Number of time steps of the samples that are compared."""
    guidance: Annotated[float, Field(ge=0.0, le=MOST_GUIDANCE)] = 1.0
    """Guidance scale of these samples."""
    count: Count = 10_000
    """Number of these samples per candidate."""
    seed: Seed = 9001
    """Seed of the networks and of the noise for tuning; must not be the seed of a run of the experiment."""

    @field_validator("shifts")
    @classmethod
    def _no_candidate_twice(cls, shifts: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{shift:g}" for shift in shifts}) != len(shifts):  # names of inputs and protocols have six digits
            raise ValueError(f"{list(shifts)} lists a candidate twice")
        return shifts

    @property
    def text(self) -> str:
        """As in a protocol: ``of-0.15,0.4-by-1000x5steps-seed9001``."""
        guided = f"-guidance{self.guidance:g}" if self.guidance != 1 else ""
        return f"of-{','.join(f'{shift:g}' for shift in self.shifts)}-by-{self.count}x{self.steps}steps{guided}-seed{self.seed}"


def at_edge(shift: float, text: str) -> bool:
    """Whether a tuned shift is the smallest or largest candidate of ``Tuning.text``, so that a better one may lie outside their range."""
    candidates = [float(word) for word in text.removeprefix("of-").partition("-by-")[0].split(",")]
    return float(f"{shift:g}") in (min(candidates), max(candidates))


class Sampling(Sparse):
    """Which samples are drawn from the trained SiT."""

    later = ("tuning", "zero_init", "optimised_scale", "precision", "head_steps", "temperature", "token_limit")

    count: Count = 50_000
    """Number of samples of each setting (steps, guidance scale, share of the training)."""
    steps: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST_STEPS)], ...], Field(min_length=1)] = (25,)
    """Number of time steps of the sampler (``mar``: of rounds, at most the tokens of a latent); one set of samples for each."""
    guidance: Annotated[tuple[Annotated[float, Field(ge=0.0, le=MOST_GUIDANCE)], ...], Field(min_length=1)] = (1.0, 4.0)
    """Guidance scales; 1 skips the unconditional prediction. One set of samples for each."""
    trained: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)] = (1.0,)
    """Shares of the training after which samples are drawn: 1, or a share in ``diffusion.snapshots``. One set of samples for each."""
    sampler: SamplerName = "euler"
    """For ``flow``: euler, heun, midpoint, dopri5 (adaptive: a sample then depends on its batch), sde-euler; for ``ddpm``: ddim, ddpm;
    for ``meanflow``: meanflow; for ``mar``: mar."""
    shift: Positive | Literal["tuned"] = 0.15
    """Shift of the uniform time grid, as ``diffusion.shift`` (0.15: the SVG release's); ``tuned``: the best of ``tuning.shifts`` for this
    tokenizer."""
    tuning: Tuning | None = None
    """How a ``tuned`` shift is chosen; its defaults when empty."""
    dimension_shift: bool = False
    """Whether RAE's shift replaces ``shift``, as ``diffusion.dimension_shift`` does in training."""
    against: Literal["null", "weak"] = "null"
    """The other prediction of guidance: of the null class (classifier-free guidance), or of the weak model (autoguidance, arXiv
    2406.02507)."""
    schedule: str = "constant"
    """constant; linear; late-R, or late for late-0.5; early-R; interval-A-B with A below B (``config.choices``)."""
    guided_channels: Count | None = None
    """Guide only this many of the first latent channels, as DiT, SiT and LightningDiT do (3); all when empty."""
    zero_init: Annotated[int, Field(ge=0, lt=MOST_STEPS)] = 0
    """Number of first steps with a velocity of zero: time advances, the latent stays (zero-init of CFG-Zero*, arXiv 2503.18886). For euler,
    heun and midpoint, at every guidance scale; smaller than every entry of ``steps``."""
    optimised_scale: bool = False
    """Whether guidance multiplies the null class's velocity by the optimised scale of CFG-Zero* (arXiv 2503.18886), which brings it closest
    to the class's velocity. For samplers of ``flow`` and ``against: null``."""
    labels: Literal["balanced", "random"] = "balanced"
    """Classes of the samples: each equally often in turn (balanced), or drawn uniformly (random)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic inside the transformer during sampling (bf16: autocast; the latent, the steps and guidance stay fp32). Samples are decoded
    in ``encoder.precision``."""
    head_steps: Annotated[int, Field(ge=1, le=DDPM_STEPS)] = 100
    """Steps of ``mar``'s head for each token, of the 1000 of its schedule."""
    temperature: Positive = 1.0
    """Factor of the noise that the steps of ``mar``'s head add."""
    token_limit: Positive | None = None
    """Largest absolute value of a standardised latent that a step of ``mar``'s head predicts; empty: none, as in MAR. At its first step the
    head's error is divided by a signal of 5e-5, so that a briefly trained head needs a limit, such as 4."""

    @field_validator("steps", "guidance", "trained")
    @classmethod
    def _no_entry_twice(cls, entries: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(entries)) != len(entries):
            raise ValueError(f"{list(entries)} names a cell twice")
        return entries

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, name: str) -> str:
        try:
            return parse_schedule(name).name
        except BadInput as error:
            raise ValueError(str(error)) from None


class SamplingProtocol(Sparse):
    """How one cell's samples are drawn: the settings of sampling, which are also part of a generation score's protocol."""

    later = ("zero_init", "optimised_scale", "tuned", "precision", "head_steps", "temperature", "token_limit")

    sampler: str
    """Name of the sampler, such as ``euler``."""
    steps: int
    """Number of time steps."""
    guidance: float
    """Guidance scale; 1 is unguided."""
    shift: float
    """Shift of the time grid."""
    schedule: str = "constant"
    """Guidance schedule over time."""
    against: str = "null"
    """The other prediction of guidance: null or weak."""
    guided_channels: int | None = None
    """Number of first latent channels that are guided; all when empty."""
    zero_init: int = 0
    """Number of first steps with a velocity of zero."""
    optimised_scale: bool = False
    """Whether the other prediction of guidance is multiplied by CFG-Zero*'s optimised scale."""
    tuned: str | None = None
    """How the shift was tuned (``Tuning.text``); empty for a fixed shift."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic inside the transformer."""
    head_steps: int = 100
    """Steps of ``mar``'s head for each token."""
    temperature: float = 1.0
    """Factor of the noise of these steps."""
    token_limit: float | None = None
    """Largest absolute value that these steps predict; empty: none."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> SamplingProtocol:
        """The protocol from the settings of one cell. ``chosen``: the tuned shift (``stages.tuning``), if they ask for one. Files of
        earlier versions, and files without defaults, lack later fields."""
        fields = {name: settings[name] for name in cls.model_fields if name in settings}
        if fields["shift"] == TUNED:
            if chosen is None:
                raise BadInput("sampling.shift is tuned, but the run has no finished stage shift-choice; run its command again.")
            fields |= {"shift": chosen["shift"], "tuned": chosen["text"]}
        return cls(**fields)

    @property
    def how(self) -> str:
        """Everything except steps and guidance, which are columns of a table, e.g. ``euler-shift0.15``; default values are left out. The
        value of a tuned shift differs between rows and is in a note of the table."""
        return self._how("-tuned" if self.tuned else f"{self.shift:g}")

    def _how(self, shift: str) -> str:
        parts = [self.sampler, f"shift{shift}"]
        parts += [self.tuned] if self.tuned else []
        parts += [self.schedule] if self.schedule != "constant" else []
        parts += [f"against-{self.against}"] if self.against != "null" else []
        parts += [f"first{self.guided_channels}channels"] if self.guided_channels else []
        parts += [f"zero{self.zero_init}"] if self.zero_init else []
        parts += ["optimised"] if self.optimised_scale else []
        parts += [self.precision] if self.precision != "fp32" else []
        parts += [f"head{self.head_steps}"] if self.sampler == "mar" else []
        parts += [f"temperature{self.temperature:g}"] if self.temperature != 1 else []
        parts += [f"limit{self.token_limit:g}"] if self.token_limit else []
        return "-".join(parts)

    @property
    def text(self) -> str:
        """E.g. ``euler-shift0.15-25steps-guidance4``."""
        how = self._how(f"{self.shift:g}-tuned" if self.tuned else f"{self.shift:g}")
        return f"{how}-{self.steps}steps-guidance{self.guidance:g}"
