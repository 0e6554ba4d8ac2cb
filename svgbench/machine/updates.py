"""The updates of a training without its checkpoints and log, for measuring them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from svgbench.config import networks
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Task, _Loop

ENDLESS = 1 << 50
"""Images of a training that does not end."""


def updates(
    task: Task, *, settings: networks.Training, dataset_size: int, out: Path, runtime: Runtime, images_seen: int = 0
) -> Callable[[], int]:
    """Each call makes the next update of ``training.train`` and returns the number of its images. Starts after ``images_seen`` images;
    nothing is written to ``out``, and updates with numbers that are not finite never stop it."""
    endless = settings.model_copy(update={"total_images": ENDLESS, "skipped_updates": ENDLESS})
    loop = _Loop(task, settings=endless, dataset_size=dataset_size, seed=0, out=out, runtime=runtime, label="updates", keep=None, rate=None)
    loop.images_seen = images_seen
    return loop.update
