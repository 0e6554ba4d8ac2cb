"""Sampling settings and latent scales of official releases, from their authors' documents. ``import`` writes these fields into a
configuration; models opened in Python use them as defaults. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svgbench.config.build import dimension_shift

WHOLE = {"zero_init": 0}
"""Sampling without a skipped first step, also with the preset ``paper``, whose default is the protocol of SVG's tables."""
SETTINGS: Mapping[str, dict[str, Any]] = {
    "svg-dit": {"sampling": {"sampler": "euler", "shift": 0.15}},
    "sit": {"sampling": {"shift": 1.0, "guided_channels": 3, **WHOLE}, "latents": {"scale": 0.18215}},
    "repa": {"sampling": {"shift": 1.0, **WHOLE}, "latents": {"scale": 0.18215}},
    "dit": {
        "diffusion": {"objective": "ddpm"}, "sampling": {"sampler": "ddpm", "guided_channels": 3, **WHOLE}, "latents": {"scale": 0.18215},
    },
    "lightningdit": {"sampling": {"shift": 0.3, "schedule": "interval-0.11-1", "guided_channels": 3, **WHOLE}},
    "ddt": {"sampling": {"dimension_shift": True, **WHOLE}, "diffusion": {"release": {"config": {"noise_at": 1}}}},
    "svg-autoencoder": {"autoencoder": {"align": "batch"}},
    "rae-decoder": {"autoencoder": {"residual": {"channels": 0}}},
}  # fmt: skip
"""Kind of release -> fields of a configuration."""


def sampling_of(kind: str, channels: int, grid: int) -> dict[str, Any]:
    """The fields of ``sampling`` for a released transformer of latents [channels, grid, grid]."""
    fields = dict(SETTINGS.get(kind, {}).get("sampling", {}))
    if fields.pop("dimension_shift", False):
        fields["shift"] = dimension_shift(channels * grid**2)
    return fields
