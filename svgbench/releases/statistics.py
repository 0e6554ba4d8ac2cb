"""Reads the files of latent means and standard deviations that releases publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from svgbench.errors import BadWeights, unknown
from svgbench.nets.latents import LatentStats
from svgbench.weights import files

RAE_EPSILON = 1e-5
"""RAE divides by sqrt(var + RAE_EPSILON)."""


class StatisticsLayout(NamedTuple):
    """How a release stores its statistics: the names of mean and spread, and how to get standard deviations [C] or [C, h, w] from the
    spread."""

    mean: str
    spread: str
    description: str
    shaped: Callable[[Tensor], Tensor | None]
    """Mean or spread as [C] or [C, h, w]; None for an unexpected shape."""
    deviation: Callable[[Tensor], Tensor] = lambda spread: spread


def _tokens(x: Tensor) -> Tensor | None:
    return x.flatten() if x.ndim == 3 and x.shape[:2] == (1, 1) else None


def _map(x: Tensor) -> Tensor | None:
    return x if x.ndim == 3 else None


def _channels(x: Tensor) -> Tensor | None:
    return x.flatten() if x.ndim == 4 and (x.shape[0], *x.shape[2:]) == (1, 1, 1) else None


LAYOUTS: Mapping[str, StatisticsLayout] = {
    "svg": StatisticsLayout("dinov3_sp_mean", "dinov3_sp_std", "dinov3_sp_mean and dinov3_sp_std [1, 1, C]", _tokens),
    "rae": StatisticsLayout("mean", "var", "mean and var [C, h, w]", _map, lambda variance: (variance + RAE_EPSILON).sqrt()),
    "lightningdit": StatisticsLayout("mean", "std", "mean and std [1, C, 1, 1]", _channels),
}
"""Release -> its layout. A file's layout is recognised by the names in it."""


def read_statistics(path: str | Path, kind: str | None = None, channels: int | None = None) -> LatentStats:
    """Mean and standard deviation of a release's file, float64, [C] each (RAE: [C, h, w]).

    ``kind``: svg, rae or lightningdit; recognised from the file when None. ``channels``: channels of the latents; SVG's file may have more,
    because it includes the residual's, and the first ``channels`` are used.
    """
    if kind is not None and kind not in LAYOUTS:
        raise unknown("layout of latent statistics", kind, LAYOUTS)
    place = Path(path).expanduser()
    if not place.is_file():
        raise BadWeights(f"the statistics file {place} does not exist; give the path of a release's means and deviations.")
    tensors = files.read(place)
    layout = _layout(tensors, kind, place)
    mean, spread = (layout.shaped(tensors[name].double()) for name in (layout.mean, layout.spread))
    if mean is None or spread is None or mean.shape != spread.shape:
        shapes = f"{layout.mean} {list(tensors[layout.mean].shape)} and {layout.spread} {list(tensors[layout.spread].shape)}"
        raise BadWeights(f"{place} holds {shapes} instead of {layout.description}; give the file as it was released.")
    if channels is not None and layout is LAYOUTS["svg"]:
        mean, spread = mean[:channels], spread[:channels]
    if channels is not None and len(mean) != channels:
        raise BadWeights(
            f"{place} holds statistics of {len(mean)} channels, the latents have {channels}; give the file that belongs to these latents."
        )
    std = layout.deviation(spread)
    bad = ~(torch.isfinite(mean) & torch.isfinite(std) & (std > 0))
    if bool(bad.any()):
        raise BadWeights(f"{place}: {int(bad.sum())} of {bad.numel()} means and deviations are not finite or not above 0; fetch it again.")
    return LatentStats(mean, std)


def _layout(tensors: Mapping[str, Tensor], kind: str | None, place: Path) -> StatisticsLayout:
    """The layout ``kind``, or the only one whose names the file has."""
    fitting = [name for name, layout in LAYOUTS.items() if layout.mean in tensors and layout.spread in tensors]
    if len(fitting) == 1 and kind in (None, fitting[0]):
        return LAYOUTS[fitting[0]]
    if kind in fitting:
        return LAYOUTS[kind]
    expected = LAYOUTS[kind].description if kind else "; ".join(layout.description for layout in LAYOUTS.values())
    present = ", ".join(list(tensors)[:4])
    if len(fitting) > 1:
        raise BadWeights(f"{place} fits {' and '.join(fitting)}; give the kind.")
    raise BadWeights(f"{place} holds {present} instead of {expected}; give a file of a release's statistics.")
