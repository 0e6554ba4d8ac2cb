"""What a linear classifier and a nearest-neighbour vote read from frozen latents.

Protocol: each image's raw latents averaged over their positions (``detail`` says which: features, residual or both), training labels for
fitting, accuracy on all validation images. Linear: inputs standardised by the training images' moments (a batch norm without affine,
as MAE and DINO probes use), softmax regression by SGD (momentum 0.9, no decay, cosine to zero), one head for each learning rate side
by side on nine tenths of the training images, the head that is best on the held-out tenth is the one reported; validation images
choose nothing. kNN: cosine similarity, k neighbours voting with weight exp(similarity / 0.07) (DINO, arXiv 2104.14294). Intervals draw
validation images again. What it cannot tell: what a probe of all positions, or fine-tuning, would read; it says nothing of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svgbench.config.records import Score
from svgbench.config.scoring import Probe
from svgbench.errors import BadData
from svgbench.metrics.protocol import ImageGroup, protocol
from svgbench.metrics.resampling import Resampling

MOMENTUM = 0.9
TEMPERATURE = 0.07


class ProbeResult(NamedTuple):
    """Per validation image, whether it was right."""

    top1: Tensor
    """[N] bool"""
    top5: Tensor
    """[N] bool: the label is among the five (or all, if fewer classes) best"""
    learning_rate: float
    """The one chosen on the held-out tenth."""


def pool(latents: Tensor) -> Tensor:
    """[B, C] float32 means over the positions of latents [B, C, h, w]."""
    return latents.float().mean((2, 3))


def linear_probe(
    train_x: Tensor, train_y: Tensor, val_x: Tensor, val_y: Tensor, settings: Probe, *, seed: int = 0, classes: int | None = None
) -> ProbeResult:
    """Softmax regression on vectors [N, D] with labels [N], scored on [M, D] and [M]."""
    _check(train_x, train_y, val_x, val_y)
    classes = classes or int(max(train_y.max(), val_y.max())) + 1
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train_x), generator=generator).to(train_x.device)
    held = max(1, len(order) // 10)
    if len(order) - held < 2:
        raise BadData(f"a probe needs 3 training images or more, there are {len(order)}.")
    fitted, chosen_on = order[held:], order[:held]
    scale, mean = torch.std_mean(train_x[fitted].double(), 0)
    train_x, val_x = (((x.double() - mean) / scale.clamp_min(1e-6)).float() for x in (train_x, val_x))
    weight, bias = _fit(train_x[fitted], train_y[fitted], classes, settings, generator)
    right = (_logits(train_x[chosen_on], weight, bias).argmax(2) == train_y[chosen_on]).sum(1)
    best = int(right.argmax())
    logits = _logits(val_x, weight[best : best + 1], bias[best : best + 1])[0]
    hits = logits.topk(min(5, classes), 1).indices == val_y[:, None]
    return ProbeResult(hits[:, 0], hits.any(1), settings.learning_rates[best])


def _logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[L, B, K] of vectors [B, D] under L heads ([L, D, K], [L, 1, K])."""
    return torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight)


@torch.no_grad()
def _fit(x: Tensor, y: Tensor, classes: int, settings: Probe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Heads for every learning rate, trained on the same batches; the gradient of softmax regression is written out."""
    rates = torch.tensor(settings.learning_rates, device=x.device).view(-1, 1, 1)
    weight = torch.zeros(len(rates), x.shape[1], classes, device=x.device)
    bias = torch.zeros(len(rates), 1, classes, device=x.device)
    velocities = torch.zeros_like(weight), torch.zeros_like(bias)
    batch = min(settings.batch, len(x))
    steps = settings.epochs * (len(x) // batch)
    step = 0
    for _ in range(settings.epochs):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in order[: len(x) // batch * batch].split(batch):
            decay = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
            error = _logits(x[rows], weight, bias).softmax(2)
            error[:, torch.arange(batch, device=x.device), y[rows]] -= 1
            gradients = x[rows].T @ error / batch, error.mean(1, keepdim=True)
            for value, velocity, gradient in zip((weight, bias), velocities, gradients, strict=True):
                velocity.mul_(MOMENTUM).add_(gradient)
                value.sub_(rates * decay * velocity)
            step += 1
    return weight, bias


def knn(train_x: Tensor, train_y: Tensor, val_x: Tensor, val_y: Tensor, neighbours: int = 20, *, block: int = 1024) -> Tensor:
    """Whether the weighted vote of the nearest training vectors names each validation image's class: [M] bool."""
    _check(train_x, train_y, val_x, val_y)
    neighbours = min(neighbours, len(train_x))
    classes = int(max(train_y.max(), val_y.max())) + 1
    train_x, val_x = (torch.nn.functional.normalize(x.float(), dim=1) for x in (train_x, val_x))
    right = []
    for x, y in zip(val_x.split(block), val_y.split(block), strict=True):
        similarity, index = (x @ train_x.T).topk(neighbours, 1)
        votes = torch.zeros(len(x), classes, device=x.device).scatter_add_(1, train_y[index], ((similarity - 1) / TEMPERATURE).exp())
        right.append(votes.argmax(1) == y)
    return torch.cat(right)


def _check(train_x: Tensor, train_y: Tensor, val_x: Tensor, val_y: Tensor) -> None:
    """Vectors and labels that fit."""
    if train_x.ndim != 2 or val_x.ndim != 2 or train_x.shape[1] != val_x.shape[1]:
        raise BadData(f"training vectors {list(train_x.shape)} and validation vectors {list(val_x.shape)} do not fit; both must be [N, D].")
    if len(train_x) != len(train_y) or len(val_x) != len(val_y) or not len(val_x):
        raise BadData(f"{len(train_x)} + {len(val_x)} vectors have {len(train_y)} + {len(val_y)} labels; each needs one.")


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
    detail: Mapping[str, Any] | None = None,
) -> list[Score]:
    """probe_top1, probe_top5 and knn_top1 in percent, of pooled latents; ``latents``: features, residual or both."""
    result = linear_probe(train_x, train_y, val_x, val_y, settings, seed=seed, classes=classes)
    near = knn(train_x, train_y, val_x, val_y, settings.neighbours)
    linear, vote = ({"epochs", "batch", "learning_rates", "train_images"}, {"neighbours", "train_images"})

    def score(metric: str, right: Tensor, measure: str, fields: set[str], **more: Any) -> Score:
        percent = right.double() * 100
        low, high = resampling.of_mean(percent, floor=0.0, ceiling=100.0)
        used = settings.model_dump(mode="json", include=fields)
        name = protocol(measure, images=val_images, reference=train_images, settings=used)
        facts = {**(detail or {}), "latents": latents, **more, **resampling.stated("validation images")}
        return Score(metric=metric, value=percent.mean().item(), low=low, high=high, count=len(right), protocol=name, detail=facts)

    return [
        score("probe_top1", result.top1, "linear", linear, learning_rate=result.learning_rate),
        score("probe_top5", result.top5, "linear", linear, learning_rate=result.learning_rate),
        score("knn_top1", near, f"knn{settings.neighbours}", vote),
    ]
