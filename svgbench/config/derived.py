"""Configurations that a run builds on beside its own: the candidates of a tuned shift, and the training that it continues."""

from __future__ import annotations

from svgbench.config.networks import Training
from svgbench.config.sampling import TUNED
from svgbench.config.schema import Autoencoder, Continuation, Diffusion, Further, RunConfig


def candidates(config: RunConfig) -> dict[float, RunConfig]:
    """Shift -> the run whose samples stand for it when the shift is tuned: the same run of the tuning seed. None where none is tuned."""
    part = config.sampling
    if part.shift != TUNED or part.tuning is None:
        return {}
    tuning = part.tuning
    drawn = {"count": tuning.count, "steps": (tuning.steps,), "guidance": (tuning.guidance,), "trained": (1.0,), "tuning": None}
    return {
        shift: config.model_copy(update={"seed": tuning.seed, "sampling": part.model_copy(update={**drawn, "shift": shift})})
        for shift in tuning.shifts
    }


def start_of(config: RunConfig) -> RunConfig | None:
    """The run that a continued run continues: the same at the resolution before; None where nothing is continued."""
    if not config.continued:
        return None
    *before, last = config.continued
    data = config.data.model_copy(update={"resolution": last.resolution})
    return config.model_copy(update={"data": data, "continued": tuple(before) or None})


def first_resolution(config: RunConfig) -> int:
    """Side in pixels of the images on which the networks were first trained."""
    return config.continued[0].resolution if config.continued else config.data.resolution


def further_autoencoder(part: Autoencoder, step: Continuation) -> Autoencoder:
    """Stage 1 as it goes on at the new resolution."""
    if step.autoencoder is None:
        return part
    loss = part.loss.model_copy(update={"adversarial_start_images": step.adversarial_start_images})
    return part.model_copy(update={"training": _further(part.training, step.autoencoder), "loss": loss})


def further_diffusion(part: Diffusion, step: Continuation) -> Diffusion:
    """Stage 2 as it goes on at the new resolution."""
    return part.model_copy(update={"training": _further(part.training, step.diffusion)})


def _further(training: Training, step: Further) -> Training:
    """A training with the length of its continuation, and its batch and rate where they are given."""
    optimiser = training.optimiser.model_copy(update={"lr": step.lr or training.optimiser.lr, "lr_warmup_images": step.lr_warmup_images})
    update = {"total_images": step.images, "batch": step.batch or training.batch, "optimiser": optimiser}
    return training.model_copy(update=update)
