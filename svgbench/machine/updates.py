"""The updates of a training without its checkpoints and log, for measuring them."""

from __future__ import annotations

import weakref
from pathlib import Path

from svgbench.config import networks
from svgbench.machine.feed import Feed, open_feed
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Task, _Loop

ENDLESS = 1 << 50
"""Images of a training that does not end."""


class Updates:
    """Each call makes the next update of ``training.train`` and returns the number of its images. Starts after ``images_seen`` images;
    nothing is written to ``out``, and updates with numbers that are not finite never stop it. Its threads end when it is deleted."""

    def __init__(
        self, task: Task, *, settings: networks.Training, dataset_size: int, out: Path, runtime: Runtime, images_seen: int = 0
    ) -> None:
        endless = settings.model_copy(update={"total_images": ENDLESS, "skipped_updates": ENDLESS})
        self._loop = _Loop(
            task, settings=endless, dataset_size=dataset_size, seed=0, out=out, runtime=runtime, label="updates", keep=None, rate=None
        )
        self._loop.images_seen = images_seen
        shares = self._loop.order.batches(images_seen, ENDLESS, settings.batch, rank=runtime.rank, world=runtime.world)
        self._feed = open_feed(task, shares, runtime.torch_device)
        self._feed.__enter__()
        weakref.finalize(self, _end, self._feed, self._loop)

    def __call__(self) -> int:
        """One update."""
        return self._loop.update(self._feed)


def _end(feed: Feed, loop: _Loop) -> None:
    feed.__exit__(None, None, None)
    loop.close()
