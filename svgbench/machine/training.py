"""The training loop of all tasks, in one process or several (torchrun). Stopping and resuming at any update gives the same bits.

The position in the run (``images_seen``) determines the next images (``order``), every random draw and the learning rate. A checkpoint
therefore needs only this number, weights, averages and optimiser state. To resume, call ``train`` again with the same ``out``.

Training is data parallel. The losses of a task are sums over local images divided by the GLOBAL batch size, so that gradients add up over
micro-batches and ranks. ``apply`` sums them once per update, which is also exact for tasks with several losses, optimisers and backward
passes. A missing gradient counts as zero, so that every distribution of images over ranks gives the same update.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from svgbench.config import networks
from svgbench.config.records import flat
from svgbench.errors import BadConfig, Interrupted, NumericalError, StorageError
from svgbench.machine import checkpoints
from svgbench.machine.averages import Averages
from svgbench.machine.checkpoints import Checkpoint
from svgbench.machine.feed import Feed, open_feed
from svgbench.machine.files import failpoint, guarded, sweep, write_atomic
from svgbench.machine.measure import Stopwatch, peak_memory
from svgbench.machine.optimisers import adam as adam
from svgbench.machine.optimisers import learning_rate as learning_rate
from svgbench.machine.order import Batch, Order, stable_hash
from svgbench.machine.runtime import Runtime
from svgbench.machine.signals import GUARD, Stop
from svgbench.machine.tally import Tally


class Task(Protocol):
    """The interface of a training task. Its random draws depend only on ``batch.positions``."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Name -> module, for everything that training changes. Checkpoints hold their state dicts, so statistics must be buffers."""

    @property
    def averaged(self) -> str | None:
        """The module whose moving average is computed if ``settings.ema`` is set."""

    @property
    def optimisers(self) -> Mapping[str, Optimizer]:
        """Name -> optimiser; ``update`` passes these names to ``apply``."""

    def load(self, batch: Batch) -> Mapping[str, Any]:
        """What an update needs from the host, name -> tensor [b, ...], ``feed.Rows`` of a table, or a list of b entries, which stays on the
        host. A thread may call it for later updates, so it draws nothing from global generators. Empty if all data is on the device."""

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of a batch whose tensors, and those of ``load`` in ``batch.data``, are on the device: calls backward for each of
        ``batch.micro_batches(...)``, then ``apply(name)`` for each optimiser that steps. Returns the losses to report, each the sum over
        local images divided by ``batch.size``."""


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The result of a finished training, including restarts."""

    images_seen: int
    updates: int
    seconds: float
    """Time in updates over all restarts."""
    images_per_second: float
    """Over all ranks. Excludes checkpoints, and after each start the time up to the first log line (compilation, cold caches)."""
    peak_memory_bytes: int
    losses: dict[str, float]
    """Means over the updates between the last two log lines."""
    skipped: int
    """Number of updates that were skipped because a loss or gradient was not finite."""
    averages: dict[str, Tensor] | None
    """State dict of the averaged module's moving average; None when no average is kept."""


def train(
    task: Task,
    *,
    settings: networks.Training,
    dataset_size: int,
    seed: int,
    out: Path,
    runtime: Runtime,
    label: str,
    keep: Mapping[str, int] | None = None,
    rate: Callable[[int], float] | None = None,
) -> TrainingReport:
    """Trains until ``settings.total_images`` and starts from the newest valid checkpoint in ``out``, if there is one.

    ``keep``: safetensors file in ``out`` -> number of images after which the moving average is saved there. ``rate``: images seen at the
    end of an update -> its learning rate; replaces the schedule of ``settings``. The training writes ``out/log.jsonl`` and
    ``out/checkpoints/``; the latter is removed when the artifact is committed, or by ``checkpoints.clear``.

    Raises Interrupted after a signal, with the work saved; NumericalError after more skipped updates than ``settings.skipped_updates``;
    StorageError when the disk fails.
    """
    where: dict[str, Any] = {"out": out, "runtime": runtime, "label": label}
    loop = _Loop(task, settings=settings, dataset_size=dataset_size, seed=seed, keep=keep, rate=rate, **where)
    with runtime.together(label):
        loop.restore()
        if loop.images_seen < settings.total_images:
            _run(loop)
    return loop.report()


def _run(loop: _Loop) -> None:
    """Updates until all images are seen, with logs and checkpoints. When any rank has received a signal, all stop after the update."""
    settings, runtime, label = loop.settings, loop.runtime, loop.label
    shares = loop.order.batches(loop.images_seen, settings.total_images, settings.batch, rank=runtime.rank, world=runtime.world)
    with (
        open_feed(loop.task, shares, runtime.torch_device) as feed,
        Stop() as stop,
        runtime.progress(label, settings.total_images, done=loop.images_seen) as bar,
    ):
        while loop.images_seen < settings.total_images:
            size = loop.update(feed)
            stop.unit()
            figures = loop.log() if loop.at_log_point else {}
            bar.advance(size, **figures)
            failpoint("training.updated")
            stopped = not runtime.all_agree(not stop.received)
            if stopped or loop.at_checkpoint:
                with GUARD.hold():
                    loop.save()
            if stopped:
                raise Interrupted(
                    f"{label}: stopped by {stop.name or 'another rank'} after {loop.images_seen:,} of {settings.total_images:,} images, "
                    "which are saved; run the same command again to resume."
                )


class _Loop:
    """The state of one training, saved in checkpoints, and the steps of ``train``."""

    def __init__(
        self,
        task: Task,
        *,
        settings: networks.Training,
        dataset_size: int,
        seed: int,
        out: Path,
        runtime: Runtime,
        label: str,
        keep: Mapping[str, int] | None,
        rate: Callable[[int], float] | None,
    ) -> None:
        self.task, self.settings, self.seed, self.out, self.runtime, self.label = task, settings, seed, out, runtime, label
        self._keep, self._rate = keep or {}, rate or partial(learning_rate, settings)
        self.order = Order(dataset_size, seed=seed)
        self.images_seen = self.updates = self.skipped = 0
        self.tally = Tally(runtime.torch_device)
        self.averages = Averages(task.modules[task.averaged], settings.ema) if task.averaged and settings.ema else None
        self.losses: dict[str, float] = {}
        self._identity = {"settings": settings.model_dump(mode="json"), "dataset_size": dataset_size, "seed": seed}
        self._log_updates = min(max(math.ceil(settings.total_images / settings.batch) // 100, 1), 50)
        self._saved_at = -1
        self._clock = Stopwatch()

    # --- one update ---

    def update(self, feed: Feed) -> int:
        """One update of everything that the task trains; returns the number of its images."""
        _seed_libraries(stable_hash(self.seed, "update", self.images_seen, self.runtime.rank, bits=32))
        self._clock.go()
        batch = feed.next()
        size = batch.size
        assert batch.images_seen == self.images_seen
        losses = self.task.update(batch, lambda name: self.apply(name, self.images_seen + size))
        self.tally.add({name: loss.detach() for name, loss in losses.items()}, size)
        before, self.images_seen = self.images_seen, self.images_seen + size
        self.updates += 1
        due = [file for file, images in self._keep.items() if before < images <= self.images_seen]
        if due and self.averages:
            content = save({name: tensor.contiguous().cpu() for name, tensor in self.averages.state.items()})
            for file in due:
                self._on_main(partial(write_atomic, self.out / file, content))
        if self.runtime.torch_device.type == "cpu" or self.at_log_point:
            self._check_numbers()
        return size

    def apply(self, name: str, images_seen: int) -> None:
        """One step of an optimiser on the gradients of the global batch. It is skipped when they are not finite; a fused optimiser decides
        that on the device, without waiting for the host."""
        optimiser = self.task.optimisers[name]
        parameters = [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters]
        self.runtime.sum_over_ranks_(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        bad = ~torch.isfinite(norm)
        if self.settings.optimiser.max_gradient_norm:
            torch._foreach_mul_(gradients, (self.settings.optimiser.max_gradient_norm / (norm + 1e-6)).clamp(max=1.0))
        for group in optimiser.param_groups:
            group["lr"] = self._rate(images_seen) * group.get("lr_scale", 1.0)
        if optimiser.defaults.get("fused"):
            optimiser.found_inf, optimiser.grad_scale = bad.float(), None  # type: ignore[attr-defined]
            optimiser.step()
        elif not bool(bad):
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.tally.note(f"{name}_gradient_norm", norm, bad)
        if self.averages is not None and self.averages.follows(parameters):
            self.averages.update()
        failpoint("training.applied")

    def _check_numbers(self) -> None:
        """Counts skipped updates; raises NumericalError when they are too many. The weights are those of the last finite update."""
        self.skipped += int(self.runtime.all_reduce_(self.tally.take_bad(), "max").item())
        if self.skipped > self.settings.skipped_updates:
            raise NumericalError(
                f"{self.label}: losses or gradients were not finite in {self.skipped} updates, the last before image {self.images_seen:,}, "
                f"and training.skipped_updates allows {self.settings.skipped_updates}; lower the learning rate, or train in fp32."
            )

    # --- log ---

    @property
    def at_log_point(self) -> bool:
        """Whether a log line is due. It depends on the position alone, so all ranks agree without communication."""
        return self.updates % self._log_updates == 0 or self.images_seen >= self.settings.total_images

    def log(self) -> dict[str, float]:
        """Writes a line of ``log.jsonl`` and returns the mean losses since the previous line."""
        self.losses = self.tally.means(self.runtime)
        self._clock.stop(self.images_seen)
        line = {
            "images_seen": self.images_seen, "seconds": round(self._clock.seconds, 3),
            "images_per_second": round(self._clock.images_per_second(self.images_seen), 3), "lr": self._rate(self.images_seen),
            "skipped": self.skipped, **self.losses,
        }  # fmt: skip
        self._on_main(lambda: self._append(line))
        return {name: value for name, value in self.losses.items() if not name.endswith("_gradient_norm")}

    def _append(self, line: Mapping[str, Any]) -> None:
        path = self.out / "log.jsonl"
        with guarded(path):
            self.out.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _rewind_log(self) -> None:
        """Removes lines of updates after the checkpoint, which will be written again, and an incomplete last line."""
        path = self.out / "log.jsonl"
        with guarded(path):
            if not path.exists():
                return
            lines = []
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    if json.loads(line)["images_seen"] <= self.images_seen:
                        lines.append(line + "\n")
            path.write_text("".join(lines), encoding="utf-8")

    # --- checkpoints ---

    @property
    def at_checkpoint(self) -> bool:
        """Whether this update crossed a multiple of ``checkpoint_images`` or was the last."""
        every, size = self.settings.checkpoint_images, self.settings.batch
        return self.images_seen // every > max(self.images_seen - size, 0) // every or self.images_seen >= self.settings.total_images

    def save(self) -> None:
        """Writes a checkpoint. When the main rank cannot, every rank raises the same error."""
        if self._saved_at == self.images_seen:
            return
        self._clock.stop(self.images_seen, pause=True)
        self._check_numbers()
        parts = {f"module.{name}": dict(module.state_dict()) for name, module in self.task.modules.items()}
        scalars: dict[str, dict[str, Any]] = {}
        for name, optimiser in self.task.optimisers.items():
            parts[f"optimiser.{name}"], scalars[name] = _flatten(optimiser)
        if self.averages is not None:
            parts["averages"] = self.averages.state
        state = {
            "identity": self._identity,
            "updates": self.updates,
            "skipped": self.skipped,
            "losses": self.losses,
            "clock": self._clock.state(),
            "optimisers": scalars,
            "tally": self.tally.state(self.runtime),
        }
        self._on_main(lambda: checkpoints.save(self.out / checkpoints.FOLDER, Checkpoint(self.images_seen, parts, state)))
        self._saved_at = self.images_seen
        failpoint("training.saved")

    def restore(self) -> None:
        """Loads the newest valid checkpoint. Without one, every rank gets the main rank's initial weights."""
        folder = self.out / checkpoints.FOLDER
        for module in self.task.modules.values():
            module.train()
        place: Path | None = None
        if self.runtime.is_main:
            sweep(self.out)
            sweep(folder)
            place = checkpoints.newest_valid(folder, self.runtime.notify)
        at = int(self.runtime.broadcast_(torch.tensor([int(place.name) if place else -1])).item())
        if at < 0:
            for module in self.task.modules.values():
                for tensor in module.state_dict().values():
                    self.runtime.broadcast_(tensor)
            if self.averages is not None:
                self.averages.restart()
        else:
            self._adopt(checkpoints.load(folder / f"{at:012d}"))
        if self.runtime.is_main:
            self._rewind_log()

    def _adopt(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        _check_same_training(state["identity"], self._identity, self.out)
        for name, module in self.task.modules.items():
            module.load_state_dict(checkpoint.parts[f"module.{name}"])
        for name, optimiser in self.task.optimisers.items():
            _unflatten(optimiser, checkpoint.parts[f"optimiser.{name}"], state["optimisers"][name])
        if self.averages is not None:
            self.averages.load(checkpoint.parts["averages"])
        self.images_seen = self._saved_at = checkpoint.images_seen
        self.updates, self.skipped, self.losses = state["updates"], state["skipped"], state["losses"]
        self.tally.load(state["tally"], self.runtime)
        self._clock = Stopwatch(images_seen=self.images_seen, **state["clock"])

    def _on_main(self, write: Callable[[], Any]) -> None:
        """Writes on the main rank; when that raises StorageError, every rank does."""
        error: StorageError | None = None
        if self.runtime.is_main:
            try:
                write()
            except StorageError as caught:
                error = caught
        if not self.runtime.all_agree(error is None):
            raise error or StorageError(f"{self.out}: the main process could not write there; its message says why.")

    def report(self) -> TrainingReport:
        """Counts, times and losses of the finished training."""
        return TrainingReport(
            images_seen=self.images_seen,
            updates=self.updates,
            seconds=self._clock.seconds,
            images_per_second=self._clock.images_per_second(self.images_seen),
            peak_memory_bytes=peak_memory(self.runtime.torch_device),
            losses=self.losses,
            skipped=self.skipped,
            averages=self.averages.state if self.averages is not None else None,
        )


def _seed_libraries(number: int) -> None:
    """Seeds the global generators by the position, for libraries that draw from them (augmentations); svgbench itself uses ``draws``."""
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def _flatten(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors and plain values named ``<parameter number>.<key>``."""
    entries = {f"{n}.{key}": value for n, state in optimiser.state_dict()["state"].items() for key, value in state.items()}
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in entries.items() if name not in tensors}


def _unflatten(optimiser: Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *scalars.items()]:
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _check_same_training(saved: dict[str, Any], current: dict[str, Any], out: Path) -> None:
    """Raises BadConfig when a checkpoint belongs to other settings; the sentence names the differences."""
    if saved == current:
        return
    flat_saved, flat_current = flat(saved), flat(current)
    names = sorted(name for name in {*flat_saved, *flat_current} if flat_saved.get(name) != flat_current.get(name))
    differing = ", ".join(f"{name} {flat_saved.get(name)} there and {flat_current.get(name)} here" for name in names)
    raise BadConfig(f"{out}: its checkpoint belongs to another training ({differing}); give another --out, or remove the directory.")
