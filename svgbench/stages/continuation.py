"""Continues a finished training at another resolution without new parameters (SVG, arXiv 2510.15301, appendix H).

The residual encoder resamples its learned position table bicubically to the grid of the images (``nets.residual``). A convolutional
decoder keeps attention on the same levels. Fixed position embeddings (of a ViT decoder and of the transformer, sincos or rotary) are
computed for the larger grid, by ``continued.positions``. The frozen alignment is computed again when training ends, and the statistics of
the latents are measured on the new images. The optimiser, the moving average, the discriminator and REPA's projector start from scratch,
because no artifact holds them. SVG's release supports only a resolution of 256, and appendix H states only epochs; batch and learning rate
are those of the earlier training unless they are given.
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
    """Stage 1 from the weights of the artifact ``start``; writes the files of ``stages.autoencoder.train``."""
    step = _step(slice_)
    part = further_autoencoder(schema.Autoencoder.model_validate(slice_["autoencoder"]), step)
    changed = {"autoencoder": part.model_dump(mode="json"), "seed": _seed(slice_, "autoencoder"), "positions": step.positions}
    return stage_one.train({**slice_, **changed}, inputs, out, runtime) | _before(inputs["start"])


def diffusion(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Stage 2 from the averaged weights of the artifact ``start``; writes the files of ``stages.diffusion.train``."""
    step = _step(slice_)
    part = further_diffusion(schema.Diffusion.model_validate(slice_["diffusion"]), step)
    changed = {"diffusion": part.model_dump(mode="json"), "seed": _seed(slice_, "diffusion"), "positions": step.positions}
    return stage_two.train({**slice_, **changed}, inputs, out, runtime) | _before(inputs["start"])


def _step(slice_: dict[str, Any]) -> schema.Continuation:
    """The last entry of ``continued``: the artifact ``start`` includes the earlier ones."""
    return schema.Continuation.model_validate(slice_["continued"][-1])


def _seed(slice_: dict[str, Any], stage: str) -> int:
    """A seed derived from the run's seed, so that order and noise differ from the earlier training."""
    return draws.stream(slice_["seed"], f"continued/{stage}/{len(slice_['continued'])}") % 2**31


def _before(start: Path) -> dict[str, Any]:
    """Number of training images seen in the earlier trainings, at all resolutions."""
    cost = json.loads((start / "manifest.json").read_bytes())["cost"]
    return {"images_before": cost.get("images_seen", 0) + cost.get("images_before", 0)}
