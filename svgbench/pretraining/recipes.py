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
from svgbench.pretraining.shipped import Job, Shipped

SEED_STEP = 10_000
"""Distance between the seeds of two pretrainings of a recipe."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one network is trained."""

    builder: str
    """MODULE:FUNCTION in ``svgbench.pretraining``; called with a ``Job``, it returns a ``Shipped``."""
    seed: int
    """Seed of the order in which images are seen, and of the images themselves unless ``drawn`` is given."""
    drawn: int | None = None
    """Seed of the images. Together with ``split`` it is one that the benchmark does not use."""
    training: Training
    source: str = "shapes"
    """The drawn images."""
    split: str = "train"
    resolution: int = 32
    images: int = 30_000
    """Number of training images."""


def _training(
    updates: int, batch: int, lr: float, *, ema: float, decay: float, clip: float = 1.0, betas: tuple[float, float] = (0.9, 0.999)
) -> Training:
    """Training settings with a warm-up over a twentieth of the updates, then a cosine to zero."""
    optimiser = Optimiser(
        lr=lr, betas=betas, weight_decay=decay, schedule="cosine", max_gradient_norm=clip, lr_warmup_images=updates * batch // 20
    )
    return Training(total_images=updates * batch, batch=batch, ema=ema, checkpoint_images=250 * batch, optimiser=optimiser)


SCENES: dict[str, Any] = {"source": "scenes", "split": "pretrain", "drawn": 0, "resolution": 64, "images": 40_000}
"""The images of all encoders, codecs and of the perceptual network for ``scenes``."""
JUDGED: dict[str, Any] = {**SCENES, "split": "judge"}
"""The images of the extractor for ``scenes``, on which nothing else is trained."""

RECIPES: dict[str, Recipe] = {
    "shapes-cnn": Recipe(builder="classifiers:extractor", seed=1001, training=_training(1500, 128, 2e-3, ema=0.99, decay=0.02)),
    "shapes-lpips": Recipe(builder="classifiers:perceptual", seed=1002, training=_training(1500, 128, 1e-3, ema=0.99, decay=0.02)),
    "dinov2-tiny": Recipe(builder="distillation:dinov2", seed=2002, training=_training(800, 128, 1e-3, ema=0.0, decay=0.04)),
    "dinov3-tiny": Recipe(builder="distillation:dinov3", seed=2003, training=_training(1200, 128, 1e-3, ema=0.0, decay=0.04)),
    "mae-tiny": Recipe(builder="masked:mae", seed=2004, training=_training(2000, 128, 2e-3, ema=0.0, decay=0.05, betas=(0.9, 0.95))),
    "siglip-tiny": Recipe(
        builder="contrastive:siglip", seed=2005, training=_training(1200, 128, 1e-3, ema=0.0, decay=0.02, betas=(0.9, 0.98))
    ),
    "sd-vae-tiny": Recipe(builder="codecs:sd_vae", seed=2006, training=_training(2000, 32, 2e-3, ema=0.99, decay=0.0)),
    "va-vae-tiny": Recipe(builder="codecs:va_vae", seed=2007, training=_training(2500, 32, 3e-3, ema=0.99, decay=0.0)),
    "scenes-cnn": Recipe(
        builder="classifiers:extractor",
        seed=3001,
        training=_training(2500, 128, 2e-3, ema=0.99, decay=0.02),
        **JUDGED,
    ),
    "scenes-lpips": Recipe(
        builder="classifiers:perceptual",
        seed=3002,
        training=_training(2500, 128, 1e-3, ema=0.99, decay=0.02),
        **SCENES,
    ),
    "scenes-simclr": Recipe(builder="simclr:extractor", seed=3009, training=_training(1200, 128, 2e-3, ema=0.99, decay=0.02), **JUDGED),
    "dinov3-mini": Recipe(
        builder="dense:dinov3", seed=3003, training=_training(3000, 128, 2e-3, ema=0.0, decay=0.3, betas=(0.9, 0.98)), **SCENES
    ),
    "dinov2-mini": Recipe(
        builder="dense:dinov2", seed=3004, training=_training(3000, 128, 2e-3, ema=0.0, decay=0.3, betas=(0.9, 0.98)), **SCENES
    ),
    "mae-mini": Recipe(
        builder="masked:mae", seed=3005, training=_training(4000, 128, 2e-3, ema=0.0, decay=0.05, betas=(0.9, 0.95)), **SCENES
    ),
    "siglip-mini": Recipe(
        builder="contrastive:siglip", seed=3006, training=_training(4000, 128, 1e-3, ema=0.0, decay=0.02, betas=(0.9, 0.98)), **SCENES
    ),
    "sd-vae-mini": Recipe(builder="codecs:sd_vae", seed=3007, training=_training(3200, 32, 2e-3, ema=0.99, decay=0.0), **SCENES),
    "va-vae-mini": Recipe(builder="codecs:va_vae", seed=3008, training=_training(4000, 32, 3e-3, ema=0.99, decay=0.0), **SCENES),
}
"""Name of a card or of a judge -> recipe."""


def pretrain(name: str, out: Path, runtime: Runtime, *, seed: int = 0) -> dict[str, Any]:
    """Trains a network, writes ``out/NAME.safetensors`` (half precision), and returns name, file, digest, counts, seconds and losses.

    ``seed``: another seed than 0 gives another pretraining on the same images, in ``out/NAME.seed-N.safetensors``. After an interruption,
    the same call resumes from the last checkpoint. Some losses compare the images of a batch with each other, which micro-batches and ranks
    would change, so one process computes each batch at once. Raises BadInput under torchrun.
    """
    name = known(name)
    if runtime.world > 1:
        raise BadInput(f"pretrain {name} runs in one process, not in {runtime.world}; call it without torchrun.")
    recipe, file = RECIPES[name], f"{name}.seed-{seed}" if seed else name
    shipped = build(name, pictures_of(recipe, runtime), runtime, seed=seed)
    work, order = out / f"{file}.partial", recipe.seed + SEED_STEP * seed
    report = train(
        shipped.task, settings=recipe.training, dataset_size=recipe.images, seed=order, out=work, runtime=runtime, label=f"pretrain {file}"
    )
    if shipped.averaged and report.averages is not None:
        shipped.network.load_state_dict(report.averages)
    path = out / f"{file}.safetensors"
    write_atomic(path, save(halved(shipped.network.state_dict())))
    checkpoints.clear(work)
    return {
        "name": name,
        "seed": seed,
        "file": str(path),
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "images_seen": report.images_seen,
        "updates": report.updates,
        "seconds": round(report.seconds, 1),
        "losses": report.losses,
    }


def known(name: str) -> str:
    """The recipe's name; a family's name means its tiny card. Raises UnknownName."""
    for candidate in (name, f"{name}-tiny"):
        if candidate in RECIPES:
            return candidate
    raise unknown("recipe", name, RECIPES)


def pictures_of(recipe: Recipe, runtime: Runtime) -> Pictures:
    """The recipe's training images on the device."""
    seed = recipe.seed if recipe.drawn is None else recipe.drawn
    return Pictures.drawn(
        recipe.images, seed=seed, source=recipe.source, resolution=recipe.resolution, split=recipe.split, device=runtime.torch_device
    )


def build(name: str, pictures: Pictures, runtime: Runtime, *, training: Training | None = None, seed: int = 0) -> Shipped:
    """A recipe's task with initial weights from its seed; torch's global generator is not changed. ``training``: other settings."""
    recipe = RECIPES[name]
    module, _, function = recipe.builder.partition(":")
    builder = getattr(importlib.import_module(f"svgbench.pretraining.{module}"), function)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + SEED_STEP * seed)
        return builder(Job(name, pictures, training or recipe.training, runtime, seed))


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with floats as float16. The shipped file is rounded in this way, and measurements are made with the shipped file."""
    return {name: (t.half() if t.is_floating_point() else t).contiguous().cpu().clone() for name, t in sorted(state.items())}
