"""Aligns the residual's statistics with the features' (SVG, arXiv 2510.15301, section 3.2):  r <- (r - m_R) / (s_R + 1e-6) * s_D + m_D.

m and s are scalars, as released: means over channels of the per-channel mean and (unbiased) standard deviation over images and positions.
No gradient flows through them, as released, unless ``gradient`` is set: without it nothing stops the residual's scale from growing, and
directions of little variance are lost. ``batch`` computes them on the current batch, also at inference, as released, so a latent depends
on the other images of the batch; ``frozen`` fixes those of the training set at the end of training, so a latent depends only on its image;
``channel`` does the same for each residual channel; ``whiten`` also removes the correlation between residual channels.

``token`` follows the paper's text for the same equation (mean and standard deviation along the feature dimension): m and s are computed for
each token over its channels. Gradients flow through the residual's m and s, as in layer norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from svgbench.config.choices import ALIGNMENTS
from svgbench.errors import BadData, unknown

EPSILON = 1e-6
WORST_CONDITION = 1e5
"""Largest condition number at which a map is inverted; float32 then keeps two of its seven digits."""


def one_scale(covariance: Tensor, target_std: Tensor) -> Tensor:
    """The map [c, c] that scales all channels equally, so that their mean standard deviation becomes the target's."""
    scale = target_std / (covariance.diagonal().clamp(min=0).sqrt().mean() + EPSILON)
    return torch.eye(len(covariance), dtype=torch.float64, device=covariance.device) * scale


def scale_of_each(covariance: Tensor, target_std: Tensor) -> Tensor:
    """The map [c, c] that gives each channel the target's standard deviation."""
    return torch.diag(target_std / (covariance.diagonal().clamp(min=0).sqrt() + EPSILON))


def whitening(covariance: Tensor, target_std: Tensor) -> Tensor:
    """The map [c, c] that makes channels uncorrelated, with the target's standard deviation (ZCA)."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag(target_std / (values.clamp(min=0).sqrt() + EPSILON)) @ vectors.T


def untouched(residual: Tensor, features: Tensor | None) -> Tensor:
    """The unchanged residual [B, c, h, w]."""
    return residual


def of_each_token(residual: Tensor, features: Tensor | None) -> Tensor:
    """Residual [B, c, h, w] in which each token has the mean and unbiased standard deviation over channels of its features [B, C, h, w]."""
    assert features is not None
    std, mean = torch.std_mean(residual.float(), dim=1, keepdim=True)
    target_std, target_mean = torch.std_mean(features.float(), dim=1, keepdim=True)
    return (residual - mean) / (std + EPSILON) * target_std + target_mean


MAPS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "batch": one_scale,
    "frozen": one_scale,
    "channel": scale_of_each,
    "whiten": whitening,
}
"""Mode -> (covariance of the residual [c, c], target standard deviation []) -> linear map [c, c]; all float64."""

TOKENWISE: Mapping[str, Callable[[Tensor, Tensor | None], Tensor]] = {"none": untouched, "token": of_each_token}
"""Mode -> (residual [B, c, h, w], features [B, C, h, w]) -> aligned residual [B, c, h, w]; these use no other images."""


class Alignment(nn.Module):
    """Residual [B, c, h, w] -> aligned residual [B, c, h, w], by one of the modes of ``config.choices.ALIGNMENTS``. ``strength``: r +
    strength (aligned - r). ``gradient``: whether gradients flow through the statistics m_R and s_R of a training batch."""

    weight: Tensor
    """Matrix [c, c] of the fixed map."""
    bias: Tensor
    """Offset [c] of the fixed map."""

    def __init__(self, mode: str, *, feature_channels: int, residual_channels: int, strength: float = 1.0, gradient: bool = False) -> None:
        super().__init__()
        if mode not in ALIGNMENTS:
            raise unknown("alignment", mode, ALIGNMENTS)
        self.mode, self.features, self.channels, self.strength = mode, feature_channels, residual_channels, strength
        self.gradient = gradient
        self.register_buffer("weight", torch.full((residual_channels, residual_channels), torch.nan))
        self.register_buffer("bias", torch.full((residual_channels,), torch.nan))  # NaN shows a map that was not fixed

    @property
    def needs_statistics(self) -> bool:
        """Whether training needs statistics of the global batch."""
        return self.mode in MAPS

    def statistics_of(self, residual: Tensor, features: Tensor) -> Tensor:
        """Sums [1 + c + c^2 + 2 C] float64 that add up over micro-batches and ranks: count, sum and outer products of residual channels,
        sum and squares of feature channels."""
        r = (residual if self.gradient else residual.detach()).double().transpose(0, 1).flatten(1)
        f = features.detach().transpose(0, 1).flatten(1)
        squares = torch.linalg.vector_norm(f, dim=1, dtype=torch.float64) ** 2
        count = r.new_full((1,), r.shape[1])
        return torch.cat([count, r.sum(1), (r @ r.T).flatten(), f.sum(1, dtype=torch.float64), squares])

    @property
    def freezes(self) -> bool:
        """Whether this mode needs ``freeze`` before inference."""
        return ALIGNMENTS[self.mode].freezes

    @torch.no_grad()
    def freeze(self, statistics: Tensor) -> None:
        """Fixes the map for inference from the sums [1 + c + c^2 + 2 C] over (much of) the training set; modes without a map are not
        changed."""
        if not self.needs_statistics:
            return
        weight, bias = self.affine(statistics)
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    @torch.no_grad()
    def leave(self) -> None:
        """Fixes the identity map, to measure the cost of an untrained residual."""
        self.weight.copy_(torch.eye(self.channels))
        self.bias.zero_()

    def affine(self, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [c, c] and bias [c], float32, of the map aligned = weight @ residual + bias, computed from the sums."""
        c, n = self.channels, statistics[0]
        total, outer, sums, squares = statistics[1:].split([c, c * c, self.features, self.features])
        mean = total / n
        covariance = (outer.view(c, c) - n * mean[:, None] * mean) / (n - 1).clamp(min=1)
        target_mean = sums.mean() / n
        target_std = ((squares - sums**2 / n) / (n - 1).clamp(min=1)).clamp(min=0).sqrt().mean()
        weight = MAPS[self.mode](covariance, target_std)
        if MAPS[self.mode] is one_scale:
            mean = mean.mean().expand(c)
        return weight.float(), (target_mean - weight @ mean).float()

    def forward(self, residual: Tensor, features: Tensor | None = None, statistics: Tensor | None = None) -> Tensor:
        """Aligned residual [B, c, h, w] of residual [B, c, h, w] and features [B, C, h, w]. ``statistics``: in training, those of the
        global batch; None: the fixed map is used, or this batch's statistics if the mode has no fixed map."""
        if self.strength == 0:
            return residual
        aligned = self._whole(residual, features, statistics)
        return aligned if self.strength == 1 else torch.lerp(residual.to(aligned.dtype), aligned, self.strength)

    def _whole(self, residual: Tensor, features: Tensor | None, statistics: Tensor | None) -> Tensor:
        """The aligned residual at strength 1."""
        if self.mode in TOKENWISE:
            return TOKENWISE[self.mode](residual, features)
        if statistics is None and not self.freezes:
            assert features is not None
            statistics = self.statistics_of(residual, features)
        weight, bias = (self.weight, self.bias) if statistics is None else self.affine(statistics)
        if MAPS[self.mode] is whitening:
            return torch.einsum("dc,bchw->bdhw", weight, residual) + bias[:, None, None]
        return residual * weight.diagonal()[:, None, None] + bias[:, None, None]

    @torch.no_grad()
    def undo(self, aligned: Tensor) -> Tensor:
        """The residual [B, c, h, w] of an aligned residual [B, c, h, w], by inverting the fixed map."""
        if self.mode == "none":
            return aligned
        inverse, shifted = self.inverse(), aligned - self.bias[:, None, None]
        if MAPS[self.mode] is whitening:
            return torch.einsum("dc,bchw->bdhw", inverse, shifted)
        return shifted * inverse.diagonal()[:, None, None]

    def inverse(self) -> Tensor:
        """Inverse [c, c] of the fixed map's matrix. Raises BadData when it is ill-conditioned, because a residual channel hardly varies."""
        if not self.freezes or self.strength != 1:
            raise ValueError(f"alignment '{self.mode}' at strength {self.strength:g} has no fixed map to undo")
        weight = self.weight.double().cpu()
        condition = float(torch.linalg.cond(weight)) if bool(weight.isfinite().all()) else torch.inf
        if not condition < WORST_CONDITION:
            raise BadData(
                f"the alignment '{self.mode}' of these residuals cannot be undone: its map has condition {condition:.2g}, because a "
                "residual channel hardly varies; use another mode, or fewer autoencoder.residual.channels."
            )
        return torch.linalg.inv(weight).to(self.weight)
