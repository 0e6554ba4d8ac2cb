"""The training objectives, one row each: the model around a transformer, its training pairs and losses, and its use in sampling.

To add one: a row here, a module with its mathematics (as ``flow`` and ``ddpm``), its row and its samplers in ``config.choices``, and its
samplers' solvers in ``nets.sampler``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from svgbench.config.choices import ddpm_time
from svgbench.config.sampling import SamplingProtocol
from svgbench.config.schema import Diffusion
from svgbench.errors import BadInput
from svgbench.nets import ddpm, flow, mar, meanflow
from svgbench.nets.sit import SiT
from svgbench.nets.training_pair import TrainingPair


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One training objective."""

    wrap: Callable[[Any, str], Any]
    """(transformer, ``diffusion.prediction``) -> the model that is trained and sampled, called as (x, time, labels, tap)."""
    pair: Callable[[Any, Tensor, Tensor, int, int, Diffusion, Tensor, Mapping[str, Tensor]], TrainingPair]
    """(model, data [B, C, h, w], global positions [B], stream of the noise, stream of the times, settings, labels [B], what ``drawn``
    returned) -> training pair."""
    losses: Callable[[Any, Tensor, Tensor, TrainingPair], Tensor]
    """(model, prediction [B, C or 2C, h, w], data [B, C, h, w], pair) -> the loss of each sample [B]."""
    as_velocity: Callable[[Any], nn.Module]
    """Model -> equivalent velocity model of the straight path."""
    network: Callable[..., Any] = SiT
    """The transformer, built from its sizes."""
    sizes: Callable[[Diffusion], dict[str, Any]] = lambda part: part.transformer.model_dump(mode="json")
    """The sizes that a configuration gives; the latents and the classes give the others."""
    drawn: Callable[[Tensor, int, int, Diffusion], dict[str, Tensor]] | None = None
    """What an update draws on the host, because its shape depends on the draw: (global positions [B], number of tokens, stream of the
    times, settings) -> tensors [B, ...]."""
    generate: Callable[[Any, Tensor, Tensor, SamplingProtocol, int, Tensor], Tensor] | None = None
    """How models that have no solver in ``nets.sampler`` draw: (model, noise [B, C, h, w], labels [B], settings, seed, indices [B]) ->
    latents."""
    schedule_time: Callable[[Any], float] = float
    """The model's time, or interval, -> time in [0, 1] (0 noise) for a guidance schedule."""


def _with_interval(part: Diffusion) -> dict[str, Any]:
    return part.transformer.model_dump(mode="json") | {"interval": True}


def _mar_sizes(part: Diffusion) -> dict[str, Any]:
    used = part.transformer.model_dump(mode="json", include={"width", "depth", "heads", "mlp_ratio", "patch"})
    return used | part.mar.model_dump(mode="json", exclude={"least_hidden", "repeats"})


def _no_velocity(model: Any) -> nn.Module:
    raise BadInput("a model of the objective mar makes its tokens in rounds and has no velocity; use a run of another objective.")


def _flow_pair(
    model: Any, data: Tensor, at: Tensor, noise: int, time: int, part: Diffusion, labels: Tensor, held: Mapping[str, Tensor]
) -> TrainingPair:
    return flow.training_pair(data, at, noise=noise, time=time, shift=part.shift, times=part.time, prediction=part.prediction)


OBJECTIVES: Mapping[str, Objective] = {
    "flow": Objective(
        wrap=lambda sit, prediction: flow.DataModel(sit) if prediction == "data" else sit,
        pair=_flow_pair,
        losses=lambda model, prediction, data, pair: flow.losses(prediction, pair.target),
        as_velocity=lambda model: model,
    ),
    "ddpm": Objective(
        wrap=lambda sit, prediction: ddpm.EpsilonModel(sit).to(next(sit.parameters()).device),
        pair=lambda model, data, at, noise, time, settings, labels, held: ddpm.training_pair(model.chain, data, at, noise=noise, time=time),
        losses=lambda model, prediction, data, pair: ddpm.losses(model.chain, prediction, data, pair),
        as_velocity=ddpm.FlowView,
        schedule_time=ddpm_time,
    ),
    "meanflow": Objective(
        wrap=lambda sit, prediction: meanflow.MeanFlowModel(sit),
        pair=lambda model, data, at, noise, time, part, labels, held: meanflow.training_pair(model, data, at, noise, time, part, labels),
        losses=lambda model, prediction, data, pair: meanflow.losses(prediction, pair.target),
        as_velocity=lambda model: model,
        sizes=_with_interval,
        schedule_time=lambda interval: interval[0],
    ),
    "mar": Objective(
        wrap=lambda network, prediction: network,
        pair=mar.training_pair,
        losses=mar.losses,
        as_velocity=_no_velocity,
        network=mar.MAR,
        sizes=_mar_sizes,
        drawn=mar.drawn,
        generate=mar.generate,
    ),
}


def objective_of(model: Any) -> str:
    """The name of a model's objective; ``flow`` for a plain velocity network, which has no ``objective``."""
    return getattr(model, "objective", "flow")
