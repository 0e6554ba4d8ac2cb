"""A finished training goes on at another resolution without a new parameter (SVG, arXiv 2510.15301, appendix H).

What changes with the resolution. The residual encoder keeps its learned table of positions, which it resamples bicubically to the grid of
the images (``nets.residual``). Attention of a convolutional decoder stays on the levels that had it. Fixed positions (a ViT decoder's, the
transformer's sines and cosines, rotary angles) are made for the larger grid, as ``continued.positions`` asks. The frozen alignment is fixed
anew when training ends, and the statistics of the latents are measured on the new images. The optimiser, the moving average, the
discriminator and REPA's projector begin anew: no artifact holds them. SVG's release has no code for another resolution than 256, and
appendix H states epochs alone; batch and learning rate are those of the training before unless they are given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from svgbench.config import schema
from svgbench.config.derived import further_autoencoder, further_diffusion
from svgbench.machine.runtime import Runtime
from svgbench.nets import draws
from svgbench.stages import autoencoder as stage_one
from svgbench.stages import diffusion as stage_two


def autoencoder(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Stage 1 from the weights of the artifact ``start``; leaves what ``stages.autoencoder.train`` leaves."""
    step = _step(slice_)
    part = further_autoencoder(schema.Autoencoder.model_validate(slice_["autoencoder"]), step)
    changed = {"autoencoder": part.model_dump(mode="json"), "seed": _seed(slice_, "autoencoder"), "positions": step.positions}
    return stage_one.train({**slice_, **changed}, inputs, out, runtime) | _before(inputs["start"])


def diffusion(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Stage 2 from the averaged weights of the artifact ``start``; leaves what ``stages.diffusion.train`` leaves."""
    step = _step(slice_)
    part = further_diffusion(schema.Diffusion.model_validate(slice_["diffusion"]), step)
    changed = {"diffusion": part.model_dump(mode="json"), "seed": _seed(slice_, "diffusion"), "positions": step.positions}
    return stage_two.train({**slice_, **changed}, inputs, out, runtime) | _before(inputs["start"])


def _step(slice_: dict[str, Any]) -> schema.Continuation:
    """The last entry: those before it were trained by the start."""
    return schema.Continuation.model_validate(slice_["continued"][-1])


def _seed(slice_: dict[str, Any], stage: str) -> int:
    """A seed of the run's seed, so that order and noise are not those of the training before."""
    return draws.stream(slice_["seed"], f"continued/{stage}/{len(slice_['continued'])}") % 2**31


def _before(start: Path) -> dict[str, Any]:
    """Training images seen before, at all resolutions."""
    cost = json.loads((start / "manifest.json").read_bytes())["cost"]
    return {"images_before": cost.get("images_seen", 0) + cost.get("images_before", 0)}
