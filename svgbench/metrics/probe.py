"""Linear probing of frozen latents; the scores of all probes of pooled latents.

Protocol: each image's raw latents averaged over their positions (``detail`` states which: features, residual or both), training labels for
fitting, accuracy on all validation images. Linear: inputs standardised by the training images' moments (a batch norm without affine, as
MAE's probe has), softmax regression by SGD (momentum 0.9, no decay, cosine to zero), one head for each learning rate, trained side by side
on nine tenths of the training images; the head that is best on the held-out tenth is reported, and validation images are not used for
selection. DINOv2 and DINOv3 (eval/linear.py) also train 13 heads, for 12,500 updates of 1,024 images with the same SGD and schedule, but on
random crops and on the concatenated class token and mean patch token, and they choose the head on the images that they report. kNN and
logistic regression: see ``neighbours`` and ``logistic``. Vectors may be memory-mapped and rounded to bfloat16 (then the protocol records
bf16). Intervals resample validation images. Limits: it does not show the accuracy of a probe on all positions or of fine-tuning, nor pixel
quality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svgbench.config.records import Score
from svgbench.config.scoring import Probe
from svgbench.errors import NumericalError
from svgbench.machine.checkpoints import Steps
from svgbench.metrics import vectors
from svgbench.metrics.logistic import LogisticResult, logistic_regression
from svgbench.metrics.neighbours import knn
from svgbench.metrics.protocol import ImageGroup, protocol
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.vectors import Standard

MOMENTUM = 0.9
STATE = ("weight", "bias", "weight_velocity", "bias_velocity")
"""Tensors of a saved state of the linear probe."""
SCORED = 8192
"""Number of images scored at once by all heads."""


class ProbeResult(NamedTuple):
    """Whether each validation prediction is correct."""

    top1: Tensor
    """[N] bool"""
    top5: Tensor
    """[N] bool: whether the label is among the five best classes (all, if there are fewer)"""
    learning_rate: float
    """The learning rate chosen on the held-out tenth."""


class Heads(NamedTuple):
    """One softmax regression for each of L learning rates."""

    weight: Tensor
    """[L, D, K]"""
    bias: Tensor
    """[L, 1, K]"""

    def __call__(self, x: Tensor) -> Tensor:
        """[L, B, K] of standardised vectors [B, D]."""
        return torch.baddbmm(self.bias, x.expand(len(self.weight), -1, -1), self.weight)


def pool(latents: Tensor) -> Tensor:
    """[B, C] float32 means over the positions of latents [B, C, h, w]."""
    return latents.float().mean((2, 3))


@torch.no_grad()
def linear_probe(
    train_x: Tensor,
    train_y: Tensor,
    val_x: Tensor,
    val_y: Tensor,
    settings: Probe,
    *,
    seed: int = 0,
    classes: int | None = None,
    device: torch.device | None = None,
    steps: Steps = Steps(None),
) -> ProbeResult:
    """Softmax regression on vectors [N, D] with labels [N], scored on [M, D] and [M]; results on the CPU.

    Vectors are float32 or bfloat16 and may be memory-mapped; ``device``: where the heads are trained, by default that of ``train_x``;
    ``steps``: where the training saves its state and resumes from.
    """
    device = device or train_x.device
    classes = vectors.check(train_x, train_y, val_x, val_y, classes, device)
    train_y, val_y = train_y.to(device), val_y.to(device)
    generator = torch.Generator().manual_seed(seed)
    fitted, held = vectors.split(len(train_x), generator)
    standard = vectors.moments(train_x, fitted, device)
    heads = _fit(train_x, train_y, fitted, standard, classes, settings, generator, steps)
    best = _best(heads, train_x, train_y, held, standard)
    chosen = Heads(heads.weight[best : best + 1], heads.bias[best : best + 1])
    hits = []
    for x, y in zip(vectors.blocks(val_x, device, SCORED), val_y.split(SCORED), strict=True):
        hits.append(chosen(standard(x))[0].topk(min(5, classes), 1).indices == y[:, None])
    correct = torch.cat(hits).cpu()
    return ProbeResult(correct[:, 0], correct.any(1), settings.learning_rates[best])


def _best(heads: Heads, x: Tensor, y: Tensor, held: Tensor, standard: Standard) -> int:
    """Index of the head with the most correct held-out predictions; heads that diverged are left out."""
    right = torch.zeros(len(heads.weight), dtype=torch.int64, device=y.device)
    for part in held.split(SCORED):
        right += (heads(standard(vectors.rows(x, part, y.device))).argmax(2) == y[part.to(y.device)]).sum(1)
    finite = heads.weight.flatten(1).isfinite().all(1) & heads.bias.flatten(1).isfinite().all(1)
    if not bool(finite.any()):
        raise NumericalError("the linear probe diverged at every learning rate; give smaller ones in scores.probe.learning_rates.")
    return int(torch.where(finite, right, -1).argmax())


def _fit(
    x: Tensor, y: Tensor, fitted: Tensor, standard: Standard, classes: int, settings: Probe, generator: torch.Generator, saved: Steps
) -> Heads:
    """Heads for every learning rate, trained on the same batches of the rows ``fitted``; the gradient is computed in closed form."""
    device, count = y.device, len(fitted)
    rates = torch.tensor(settings.learning_rates, device=device).view(-1, 1, 1)
    weight = torch.zeros(len(rates), x.shape[1], classes, device=device)
    heads = Heads(weight, torch.zeros(len(rates), 1, classes, device=device))
    velocities = torch.zeros_like(heads.weight), torch.zeros_like(heads.bias)
    batch = min(settings.batch, count)
    each = count // batch
    steps, begin = settings.epochs * each, 0
    tensors = dict(zip(STATE, (*heads, *velocities), strict=True))
    known = saved.last()
    if known is not None:
        begin = known.images_seen
        for name, value in tensors.items():
            value.copy_(known.parts["tensors"][name])
    step = 0
    for _ in range(settings.epochs):
        order = fitted[torch.randperm(count, generator=generator)]
        for places in order[: each * batch].split(batch):
            if step >= begin:
                decay = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
                inputs = standard(vectors.rows(x, places, device))
                error = heads(inputs).softmax(2)
                error[:, torch.arange(batch, device=device), y[places.to(device)]] -= 1
                gradients = inputs.T @ error / batch, error.mean(1, keepdim=True)
                for value, velocity, gradient in zip(heads, velocities, gradients, strict=True):
                    velocity.mul_(MOMENTUM).add_(gradient)
                    value.sub_(rates * decay * velocity)
                saved.save(step + 1, lambda: (tensors, {}))
            step += 1
    return heads


def probe_scores(
    train_x: Tensor,
    train_y: Tensor,
    val_x: Tensor,
    val_y: Tensor,
    *,
    settings: Probe,
    latents: str,
    train_images: ImageGroup,
    val_images: ImageGroup,
    resampling: Resampling = Resampling(),
    seed: int = 0,
    classes: int | None = None,
    device: torch.device | None = None,
    detail: Mapping[str, Any] | None = None,
    done: Callable[[int], None] = lambda probes: None,
    steps: Steps = Steps(None),
) -> list[Score]:
    """probe_top1, probe_top5, knn_top1 and logreg_top1 in percent, of pooled latents; ``latents``: features, residual or both.

    ``done`` is called after each of the three probes; ``steps``: where each saves its state and its result, so that a stopped one resumes.
    """
    device = device or train_x.device
    sets = vectors.near(train_x, device), train_y, val_x, val_y
    common: dict[str, Any] = {"classes": classes, "device": device}

    def linear_result(states: Steps) -> tuple[dict[str, Tensor], dict[str, Any]]:
        result = linear_probe(*sets, settings, seed=seed, **common, steps=states)
        return {"top1": result.top1, "top5": result.top5}, {"learning_rate": result.learning_rate}

    def vote_result(states: Steps) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"top1": knn(*sets, settings.neighbours, **common, steps=states)}, {}

    def regression_result(states: Steps) -> tuple[dict[str, Tensor], dict[str, Any]]:
        made = logistic_regression(*sets, settings.logreg_c, iterations=settings.logreg_iterations, seed=seed, **common, steps=states)
        return {"top1": made.top1}, {"c": made.c, "iterations": made.iterations, "gradient": made.gradient}

    tensors, state = steps.once("linear", linear_result)
    result = ProbeResult(tensors["top1"], tensors["top5"], **state)
    done(1)
    vote = steps.once("knn", vote_result)[0]["top1"]
    done(1)
    tensors, state = steps.once("logistic", regression_result)
    fitted = LogisticResult(tensors["top1"], **state)
    done(1)

    def score(metric: str, right: Tensor, measure: str, fields: set[str], **more: Any) -> Score:
        percent = right.double() * 100
        low, high = resampling.of_mean(percent, floor=0.0, ceiling=100.0)
        used = settings.model_dump(mode="json", include={*fields, "train_images"})
        rounded = () if settings.precision == "fp32" else (settings.precision,)
        made = protocol(measure, images=val_images, reference=train_images, details=rounded, settings=used)
        facts = {**(detail or {}), "latents": latents, **more, **resampling.stated("validation images")}
        return Score(metric=metric, value=percent.mean().item(), low=low, high=high, count=len(right), protocol=made, detail=facts)

    linear, ended = {"epochs", "batch", "learning_rates"}, {"iterations": fitted.iterations, "gradient": fitted.gradient}
    return [
        score("probe_top1", result.top1, "linear", linear, learning_rate=result.learning_rate),
        score("probe_top5", result.top5, "linear", linear, learning_rate=result.learning_rate),
        score("knn_top1", vote, f"knn{settings.neighbours}", {"neighbours"}),
        score("logreg_top1", fitted.top1, "logreg", {"logreg_c", "logreg_iterations"}, c=fitted.c, **ended),
    ]
