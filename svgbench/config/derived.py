"""Other configurations that a run needs: the candidates of a tuned shift, and the training that it continues."""

from __future__ import annotations

from svgbench.config.networks import Training
from svgbench.config.sampling import TUNED
from svgbench.config.schema import Autoencoder, Continuation, Diffusion, Further, RunConfig


def candidates(config: RunConfig) -> dict[float, RunConfig]:
    """Candidate shift -> the configuration whose samples are scored for it: the run's own with the tuning seed. Empty when the shift is not
    tuned."""
    part = config.sampling
    if part.shift != TUNED or part.tuning is None or not config.generation:
        return {}
    tuning = part.tuning
    drawn = {"count": tuning.count, "steps": (tuning.steps,), "guidance": (tuning.guidance,), "trained": (1.0,), "tuning": None}
    return {
        shift: config.model_copy(update={"seed": tuning.seed, "sampling": part.model_copy(update={**drawn, "shift": shift})})
        for shift in tuning.shifts
    }


def start_of(config: RunConfig) -> RunConfig | None:
    """The run that a continued run continues, at the earlier resolution; None if it continues none."""
    if not config.continued:
        return None
    *before, last = config.continued
    data = config.data.model_copy(update={"resolution": last.resolution})
    return config.model_copy(update={"data": data, "continued": tuple(before) or None})


def first_resolution(config: RunConfig) -> int:
    """Side in pixels of the images on which the networks were first trained."""
    return config.continued[0].resolution if config.continued else config.data.resolution


def further_autoencoder(part: Autoencoder, step: Continuation) -> Autoencoder:
    """The settings with which stage 1 continues at the new resolution."""
    if step.autoencoder is None:
        return part
    loss = part.loss.model_copy(update={"adversarial_start_images": step.adversarial_start_images})
    return part.model_copy(update={"training": _further(part.training, step.autoencoder), "loss": loss})


def further_diffusion(part: Diffusion, step: Continuation) -> Diffusion:
    """The settings with which stage 2 continues at the new resolution."""
    return part.model_copy(update={"training": _further(part.training, step.diffusion)})


def _further(training: Training, step: Further) -> Training:
    """The settings of a training with the length of its continuation, and with batch and learning rate if they are given. A decay begins
    with the continuation, and ends at most at its learning rate."""
    lr = step.lr or training.optimiser.lr
    last = min(training.optimiser.final_lr, lr)
    changed = {"lr": lr, "lr_warmup_images": step.lr_warmup_images, "decay_start_images": 0, "final_lr": last}
    optimiser = training.optimiser.model_copy(update=changed)
    update = {"total_images": step.images, "batch": step.batch or training.batch, "optimiser": optimiser}
    return training.model_copy(update=update)
