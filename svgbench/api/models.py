"""Encoders, released models, and sampling of any model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from svgbench.config.choices import LEAST_SHIFT, MOST_GUIDANCE, MOST_STEPS
from svgbench.errors import BadConfig, BadInput

USUAL_SAMPLERS = {"flow": "euler", "ddpm": "ddpm", "meanflow": "meanflow", "mar": "mar"}
"""Objective -> the sampler of its models, where none is chosen."""

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from svgbench.backends.open import FrozenEncoder


def load_encoder(name: str, weights: str | Path | None = None, device: str | torch.device = "cpu") -> FrozenEncoder:
    """A frozen encoder: ``encode(images [B, 3, H, W] in [0, 1]) -> latents [B, C, h, w]``; a codec also has ``decode``.

    ``name``: a card, a family (its full-size member) or BACKEND:NAME; ``weights``: an official file. Raises UnknownName for an unknown
    name, BadWeights if the weights are missing or do not fit.
    """
    from svgbench.backends.open import open_encoder
    from svgbench.config.cards import find

    return open_encoder(find(name, "paper"), weights, device)


def load_official(kind: str, path: str | Path, config: Mapping[str, Any] | None = None, weights_key: str | None = None) -> Any:
    """An official model from a released file; see ``svgbench.releases.open.load_official`` for the kinds and the returned objects."""
    from svgbench.releases.open import load_official as opened

    return opened(kind, path, config, weights_key)


def sample(
    model: Any,
    noise: Tensor,
    labels: Tensor | Sequence[int],
    *,
    steps: int = 25,
    sampler: str | None = None,
    shift: float | None = None,
    guidance: float = 1.0,
    schedule: str | None = None,
    guided_channels: int | None = None,
    zero_init: int | None = None,
    optimised_scale: bool | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    head_steps: int = 100,
    temperature: float = 1.0,
    token_limit: float | None = None,
    weak: Any = None,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Latents [B, C, h, w] sampled from noise [B, C, h, w] and labels [B] with a model of any objective.

    Settings that are None default to ``model.sampling`` (of a released model), else to the objective's usual sampler (euler, ddpm, meanflow
    or mar), shift 0.15, a constant schedule, guidance of all channels, no zero-init and no optimised scale.
    ``guided_channels=model.channels`` guides all channels of any model. ``steps``: 1 to 4000 intervals of the time grid; ``guidance``: 0 to
    100, 1 is unguided; ``shift``: 0.001 or more. The label ``model.classes`` is unconditional. ``zero_init``: number of first steps with a
    velocity of zero (euler, heun, midpoint); ``optimised_scale``: use the optimised scale of CFG-Zero* (arXiv 2503.18886), for velocity
    models without ``weak``. ``precision``: bf16 runs the network under autocast, the steps stay in the noise's precision.
    ``weak``: the weak model of autoguidance. ``seed``, ``indices`` [B]: for the noise of stochastic samplers. ``head_steps``,
    ``temperature``, ``token_limit``: of MAR's head (``sampling.head_steps`` and others), whose ``steps`` are rounds.
    Raises BadConfig for a setting out of range or a sampler that does not fit the model, BadInput for labels or noise that do not fit.
    """
    import torch

    from svgbench.nets import sampler as sampling
    from svgbench.nets.objectives import objective_of

    usual = {
        "sampler": USUAL_SAMPLERS[objective_of(model)],
        "shift": 0.15,
        "schedule": "constant",
        "guided_channels": None,
        "zero_init": 0,
        "optimised_scale": False,
    }
    asked: dict[str, Any] = {
        "sampler": sampler, "shift": shift, "schedule": schedule, "guided_channels": guided_channels, "zero_init": zero_init,
        "optimised_scale": optimised_scale,
    }  # fmt: skip
    settings: dict[str, Any] = {
        **usual,
        **getattr(model, "sampling", {}),
        **{name: value for name, value in asked.items() if value is not None},
    }
    check_range(steps, guidance, settings["shift"])
    _check_channels(model, noise, settings["guided_channels"])
    classes = getattr(model, "classes", None)
    if classes is not None:
        check_labels(labels, classes, unconditional=True)
    numbers = torch.as_tensor(labels, dtype=torch.int64).to(noise.device)
    if numbers.shape != noise.shape[:1]:
        raise BadInput(f"there are labels {list(numbers.shape)} for noise {list(noise.shape)}; give one label for each row of noise.")
    check_precision(precision)
    return sampling.sample(
        model, noise, numbers, steps=steps, guidance=guidance, precision=precision, weak=weak, seed=seed, indices=indices,
        head_steps=head_steps, temperature=temperature, token_limit=token_limit, **settings,
    )  # fmt: skip


def check_range(steps: int, guidance: float, shift: float) -> None:
    """Raises BadConfig for values that the commands reject."""
    if not 1 <= steps <= MOST_STEPS:
        raise BadConfig(f"steps must be from 1 to {MOST_STEPS}, not {steps}.")
    if not 0 <= guidance <= MOST_GUIDANCE:
        raise BadConfig(f"guidance must be from 0 to {MOST_GUIDANCE:g}, not {guidance:g}.")
    if not LEAST_SHIFT <= shift < math.inf:
        raise BadConfig(f"shift must be {LEAST_SHIFT:g} or more, and finite, not {shift:g}.")


def check_precision(precision: str) -> None:
    """Raises BadConfig for an unknown precision."""
    if precision not in ("fp32", "bf16"):
        raise BadConfig(f"precision must be fp32 or bf16, not {precision}.")


def check_labels(labels: Tensor | Sequence[int], classes: int, *, unconditional: bool) -> None:
    """Raises BadInput for labels that are not integers [B] in the range of this model's classes."""
    import torch

    numbers = torch.as_tensor(labels)
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise BadInput(f"labels are {str(numbers.dtype).removeprefix('torch.')} {list(numbers.shape)}; give whole numbers [B].")
    most = classes if unconditional else classes - 1
    wrong = [label for label in numbers.tolist() if not 0 <= label <= most]
    if wrong:
        more = f"; {classes} is unconditional" if unconditional else ""
        raise BadInput(f"class {wrong[0]} does not exist; this model has classes 0 to {classes - 1}{more}.")


def _check_channels(model: Any, noise: Tensor, guided: int | None) -> None:
    """Raises BadInput for noise whose shape is not that of the model's latents, BadConfig for ``guided`` out of range."""
    if noise.ndim != 4:
        raise BadInput(f"the noise has shape {list(noise.shape)}; give [B, C, h, w].")
    channels, grid = getattr(model, "channels", noise.shape[1]), getattr(model, "grid", noise.shape[2])
    if tuple(noise.shape[1:]) != (channels, grid, grid):
        raise BadInput(f"the noise has shape {list(noise.shape)}, but this model's latents are [B, {channels}, {grid}, {grid}].")
    if guided is not None and not 1 <= guided <= channels:
        raise BadConfig(f"guided_channels must be from 1 to {channels}, not {guided}.")
