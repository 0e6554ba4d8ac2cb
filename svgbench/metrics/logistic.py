"""L2-regularised logistic regression on frozen latents.

Protocol (after facebookresearch/dinov2 and dinov3, eval/log_regression.py): softmax regression on pooled latents, standardised by the
training images' moments, with scikit-learn's objective C * sum of cross-entropies + |W|^2 / 2 (the intercept is not regularised), minimised
in float64 by L-BFGS. For each C of a sweep, a model is fitted to nine tenths of the training images, starting from the previous solution.
With the C that is best on the held-out tenth, a model is fitted to all training images and scored on the validation images, which are not
used for selection. Unlike in DINO, the inputs are standardised, so that C means the same for features and residual, and the sweep has one C
per decade (DINO's: four). With two classes the penalty is that of softmax, half as strong as scikit-learn's binomial one at equal C. Limit:
like the linear probe, it uses no positions. Unlike the probe by SGD, its result does not depend on the order of the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svgbench.errors import NumericalError
from svgbench.machine.checkpoints import Steps
from svgbench.metrics import vectors
from svgbench.metrics.vectors import Standard

HELD = 1 << 24
"""Largest number of class scores in memory at once; inputs with at most this many numbers are standardised once and kept."""
FITTED = ("weight", "bias", "present")
"""Tensors of a saved fit."""
GRADIENT = 1e-6
"""Convergence: no entry of the gradient (of the objective divided by C and the number of training images) is larger."""


class Regression(NamedTuple):
    """A fitted model: class scores [B, K] = standardised vectors @ weight + bias, for the classes of the fitted images."""

    weight: Tensor
    """[D, K] float64"""
    bias: Tensor
    """[K] float64"""
    present: Tensor
    """[K] int64: the class of each column"""
    standard: Standard
    iterations: int
    gradient: float
    """Largest absolute entry of the final gradient."""

    def predict(self, x: Tensor) -> Tensor:
        """Predicted classes [N] of vectors [N, D], on the CPU."""
        parts = vectors.blocks(x, self.weight.device, _block(len(self.bias)))
        return torch.cat([self.present[(self.standard(part).double() @ self.weight + self.bias).argmax(1)].cpu() for part in parts])


class LogisticResult(NamedTuple):
    """Whether each validation prediction is correct; the selected C; how the last fit ended."""

    top1: Tensor
    """[N] bool"""
    c: float
    iterations: int
    gradient: float


@torch.no_grad()
def logistic_regression(
    train_x: Tensor,
    train_y: Tensor,
    val_x: Tensor,
    val_y: Tensor,
    sweep: Sequence[float],
    *,
    iterations: int = 1000,
    seed: int = 0,
    classes: int | None = None,
    device: torch.device | None = None,
    steps: Steps = Steps(None),
) -> LogisticResult:
    """C chosen from ``sweep`` on a held-out tenth of vectors [N, D] with labels [N]; scored on [M, D] and [M]. ``steps``: where each fit is
    saved, so that a stopped attempt resumes with the next C."""
    device = device or train_x.device
    vectors.check(train_x, train_y, val_x, val_y, classes, device)
    fitted, held = vectors.split(len(train_x), torch.Generator().manual_seed(seed))
    standard = vectors.moments(train_x, fitted, device)
    held_x, held_y = train_x[held.to(train_x.device)], train_y[held.to(train_y.device)].cpu()
    settings: dict[str, Any] = {"standard": standard, "iterations": iterations, "device": device}
    model, best, chosen, most = None, None, 0.0, -1
    for number, c in enumerate(sorted(sweep)):
        model = fit(train_x, train_y, fitted, c, **settings, start=model, saved=steps.part(f"{number}"))
        right = int((model.predict(held_x) == held_y).sum())
        if right > most:
            best, chosen, most = model, c, right
    everything = torch.arange(len(train_x))
    standard = vectors.moments(train_x, everything, device)
    settings = {**settings, "standard": standard}
    final = fit(train_x, train_y, everything, chosen, **settings, start=best, saved=steps.part("all"))
    return LogisticResult(final.predict(val_x) == val_y.cpu(), chosen, final.iterations, final.gradient)


@torch.no_grad()
def fit(
    x: Tensor,
    y: Tensor,
    chosen: Tensor,
    c: float,
    *,
    standard: Standard,
    iterations: int = 1000,
    device: torch.device | None = None,
    start: Regression | None = None,
    saved: Steps = Steps(None),
) -> Regression:
    """The regression fitted to the rows ``chosen`` of vectors [N, D] with labels [N]; ``start``: initial model, which changes only the
    number of iterations; ``saved``: where the fit is saved for later attempts."""
    device, known = device or x.device, saved.last()
    if known is not None:
        weight, bias, present = (known.parts["tensors"][name].to(device) for name in FITTED)
        return Regression(weight, bias, present, standard, **known.state)
    chosen = chosen.sort().values
    present, columns = y.to(device)[chosen.to(device)].unique(return_inverse=True)
    count, size = len(chosen), _block(len(present))
    weight = torch.zeros(x.shape[1], len(present), dtype=torch.float64, device=device)
    bias = torch.zeros(len(present), dtype=torch.float64, device=device)
    if start is not None and start.present.equal(present):
        weight.copy_(start.weight)
        bias.copy_(start.bias)

    def inputs(part: Tensor) -> Tensor:
        return standard(vectors.rows(x, part, device)).double()

    parts = chosen.split(size)
    kept = [inputs(part) for part in parts] if count * x.shape[1] <= HELD else None

    @torch.no_grad()
    def objective() -> Tensor:
        """The objective divided by C and count; sets the gradients of weight and bias in closed form."""
        loss = weight.square().sum() / (2 * c * count)
        weight.grad, bias.grad = weight / (c * count), torch.zeros_like(bias)
        for block, column in zip(kept or map(inputs, parts), columns.split(size), strict=True):
            likelihood = (block @ weight + bias).log_softmax(1)
            loss -= likelihood.gather(1, column[:, None]).sum() / count
            error = likelihood.exp_().div_(count)
            error[torch.arange(len(block), device=device), column] -= 1 / count
            weight.grad += block.T @ error
            bias.grad += error.sum(0)
        return loss

    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, max_eval=2 * iterations, history_size=10,
        tolerance_grad=GRADIENT, tolerance_change=1e-14, line_search_fn="strong_wolfe",
    )  # fmt: skip
    optimiser.step(objective)
    loss = objective()
    if not bool(loss.isfinite()):
        raise NumericalError(f"the logistic regression with C {c:g} ended at an infinite loss; leave that C out of scores.probe.logreg_c.")
    assert weight.grad is not None and bias.grad is not None  # set by the objective
    left = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    state = {"iterations": optimiser.state[weight]["n_iter"], "gradient": left}
    saved.save(0, lambda: (dict(zip(FITTED, (weight, bias, present), strict=True)), state), due=True)
    return Regression(weight, bias, present, standard, **state)


def _block(classes: int) -> int:
    """Number of images whose class scores fit into ``HELD``."""
    return max(1, min(vectors.BLOCK, HELD // classes))
