"""The recipes of the shipped networks, and ``pretrain``, which trains one and writes a safetensors file."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from svgbench.config.networks import Optimiser, Training
from svgbench.errors import BadInput, unknown
from svgbench.machine import checkpoints
from svgbench.machine.files import sha256_of, write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import train
from svgbench.pretraining.pictures import Pictures
from svgbench.pretraining.shipped import Shipped


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one network is trained."""

    builder: str
    """MODULE:FUNCTION in ``svgbench.pretraining``; called with (pictures, training, runtime), it returns a ``Shipped``."""
    images: int
    """Number of training images."""
    seed: int
    """Seed of the images, the initial weights and every random draw. Each network has a different one; the benchmark uses none of them."""
    training: Training


def _training(
    updates: int, batch: int, lr: float, *, ema: float, decay: float, clip: float = 1.0, betas: tuple[float, float] = (0.9, 0.999)
) -> Training:
    """Training settings with a warm-up over a twentieth of the updates, then a cosine to zero."""
    optimiser = Optimiser(
        lr=lr, betas=betas, weight_decay=decay, schedule="cosine", max_gradient_norm=clip, lr_warmup_images=updates * batch // 20
    )
    return Training(total_images=updates * batch, batch=batch, ema=ema, checkpoint_images=250 * batch, optimiser=optimiser)


RECIPES: dict[str, Recipe] = {
    "shapes-cnn": Recipe(
        builder="classifiers:shapes_cnn", images=30_000, seed=1001, training=_training(1500, 128, 2e-3, ema=0.99, decay=0.02)
    ),
    "shapes-vgg": Recipe(
        builder="classifiers:shapes_vgg", images=30_000, seed=1002, training=_training(1500, 128, 1e-3, ema=0.99, decay=0.02)
    ),
    "dinov2": Recipe(builder="distillation:dinov2", images=30_000, seed=2002, training=_training(800, 128, 1e-3, ema=0.0, decay=0.04)),
    "dinov3": Recipe(builder="distillation:dinov3", images=30_000, seed=2003, training=_training(1200, 128, 1e-3, ema=0.0, decay=0.04)),
    "mae": Recipe(
        builder="masked:mae", images=30_000, seed=2004, training=_training(2000, 128, 2e-3, ema=0.0, decay=0.05, betas=(0.9, 0.95))
    ),
    "siglip": Recipe(
        builder="contrastive:siglip", images=30_000, seed=2005, training=_training(1200, 128, 1e-3, ema=0.0, decay=0.02, betas=(0.9, 0.98))
    ),
    "sd-vae": Recipe(builder="codecs:sd_vae", images=30_000, seed=2006, training=_training(2000, 32, 2e-3, ema=0.99, decay=0.0)),
    "va-vae": Recipe(builder="codecs:va_vae", images=30_000, seed=2007, training=_training(2500, 32, 3e-3, ema=0.99, decay=0.0)),
}
"""Name -> recipe. A family's name refers to its tiny encoder."""


def pretrain(name: str, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Trains a network, writes ``out/NAME.safetensors`` (half precision), and returns name, file, digest, counts, seconds and losses.

    After an interruption, the same call resumes from the last checkpoint. Some losses compare the images of a batch with each other, which
    micro-batches and ranks would change, so one process computes each batch at once. Raises BadInput under torchrun.
    """
    name = known(name)
    if runtime.world > 1:
        raise BadInput(f"pretrain {name} runs in one process, not in {runtime.world}; call it without torchrun.")
    recipe, work = RECIPES[name], out / f"{name}.partial"
    pictures = Pictures.drawn(recipe.images, seed=recipe.seed, device=runtime.torch_device)
    shipped = build(recipe, pictures, runtime)
    label = f"pretrain {name}"
    report = train(
        shipped.task, settings=recipe.training, dataset_size=len(pictures), seed=recipe.seed, out=work, runtime=runtime, label=label
    )
    if shipped.averaged and report.averages is not None:
        shipped.network.load_state_dict(report.averages)
    path = out / f"{name}.safetensors"
    write_atomic(path, save(halved(shipped.network.state_dict())))
    checkpoints.clear(work)
    return {
        "name": name,
        "file": str(path),
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "images_seen": report.images_seen,
        "updates": report.updates,
        "seconds": round(report.seconds, 1),
        "losses": report.losses,
    }


def known(name: str) -> str:
    """The recipe's name; ``name`` may be that of a tiny card. Raises UnknownName."""
    name = name.removesuffix("-tiny")
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return name


def build(recipe: Recipe, pictures: Pictures, runtime: Runtime) -> Shipped:
    """The recipe's task with initial weights from its seed; torch's global generator is not changed."""
    module, _, function = recipe.builder.partition(":")
    builder = getattr(importlib.import_module(f"svgbench.pretraining.{module}"), function)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return builder(pictures, recipe.training, runtime)


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with floats as float16. The shipped file is rounded in this way, and measurements are made with the shipped file."""
    return {name: (t.half() if t.is_floating_point() else t).contiguous().cpu().clone() for name, t in sorted(state.items())}
