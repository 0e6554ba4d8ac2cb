"""The one fake of these tests: a task of two networks and two optimisers that train in milliseconds, and children to kill.

It uses all that the real tasks use: keyed draws, library draws, buffers, averages, an optimiser that starts late.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from svgbench.config.networks import Optimiser, Training
from svgbench.errors import SvgbenchError
from svgbench.machine import checkpoints
from svgbench.machine.feed import TableRows
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import TrainingReport, adam, train
from svgbench.nets import draws

SETTINGS = Training(
    total_images=290, batch=12, ema=0.9, checkpoint_images=50, skipped_updates=2,
    optimiser=Optimiser(lr=1e-2, lr_warmup_images=60, schedule="cosine", max_gradient_norm=1.0, weight_decay=0.01),
)  # fmt: skip
"""25 updates, the last of 2 images, over 37 images: batches run over the ends of epochs; six checkpoints."""
DATASET = 37


class Toy:
    """Learns to repeat noisy rows; a second network learns from the 10th update on."""

    averaged = "first"
    marks = True
    """Whether it marks its backward passes."""

    def __init__(self, runtime: Runtime, *, library: bool = False, on_update: Callable | None = None, poison: Any = ()) -> None:
        torch.manual_seed(1)
        self.modules = {"first": nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 6)), "second": nn.Linear(6, 1)}
        self.modules["first"].register_buffer("mass", torch.zeros((), dtype=torch.float64))
        self.optimisers = {name: adam(module.parameters(), SETTINGS.optimiser) for name, module in self.modules.items()}
        self.data = draws.normal(draws.stream(7, "toy"), torch.arange(DATASET), (6,))
        self.runtime, self.library, self.on_update, self.poison = runtime, library, on_update, set(poison)
        self.visited: list[int] = []

    def load(self, batch):
        return {"rows": TableRows(self.data, batch.indices)}

    def update(self, batch, apply):
        start = batch.images_seen
        if self.on_update:
            self.on_update(start)
        losses = {"fit": torch.zeros(()), "critic": torch.zeros(())}
        for micro in batch.micro_batches(self.runtime.micro_batch):
            self.visited += micro.indices.tolist()
            rows = micro.data["rows"]
            noise = draws.normal(draws.stream(0, "toy/noise"), micro.positions, (6,))
            if self.library:
                noise = noise + torch.randn(len(rows), 6)
            made = self.modules["first"](rows + 0.3 * noise)
            fit = (made - rows).square().mean(1).sum() / batch.size
            if start in self.poison:
                fit = fit * torch.tensor(float("nan"))
            critic = (self.modules["second"](made.detach()) - rows[:, :1]).square().sum() / batch.size
            with micro.reducing("first", *(["second"] if start >= 108 else [])) if self.marks else contextlib.nullcontext():
                (fit + critic).backward()
            losses["fit"] += fit.detach()
            losses["critic"] += critic.detach()
        mass = self.runtime.all_reduce_(batch.data["rows"].double().sum())
        self.modules["first"].mass += mass
        apply("first")
        if batch.images_seen >= 108:
            apply("second")
        else:
            self.optimisers["second"].zero_grad(set_to_none=True)
        return losses


def run(
    out: Path, *, settings: Training = SETTINGS, micro: int | None = 5, seed: int = 3, keep: dict[str, int] | None = None, **options: Any
) -> tuple[TrainingReport, Toy]:
    """Trains the toy in this process."""
    runtime = Runtime(device="cpu", threads=1, micro_batch=micro, quiet=True).start()
    toy = Toy(runtime, **options)
    report = train(toy, settings=settings, dataset_size=DATASET, seed=seed, out=out, runtime=runtime, label="toy", keep=keep)
    return report, toy


def run_on_a_full_disk(out: Path) -> None:
    """Trains the toy in a forked rank, whose first checkpoint finds the disk full."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(out))

    checkpoints.save_file = full  # type: ignore[assignment]
    run(out)


def digest(report: TrainingReport, toy: Toy) -> str:
    """sha256 of all that a training leaves: weights, buffers, averages, optimisers, losses and counts (not times)."""
    parts: dict[str, torch.Tensor] = {}
    for name, module in toy.modules.items():
        parts |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
    parts |= {f"averages.{key}": tensor for key, tensor in (report.averages or {}).items()}
    for name, optimiser in toy.optimisers.items():
        for number, state in optimiser.state_dict()["state"].items():
            parts |= {f"{name}.{number}.{key}": tensor for key, tensor in state.items()}
    text = hashlib.sha256(repr((report.images_seen, report.updates, report.skipped, sorted(report.losses.items()))).encode())
    for name in sorted(parts):
        text.update(f"{name} {parts[name].dtype} {tuple(parts[name].shape)}".encode())
        text.update(parts[name].contiguous().numpy().tobytes())
    return text.hexdigest()


def leftovers(out: Path) -> list[str]:
    """Names of unfinished files."""
    return [path.name for path in out.rglob(".writing-*")]


def in_child(function: Callable[[], Any], *, failpoint: str | None = None, kill_after: float | None = None, **environ: str) -> int:
    """Exit status of ``function`` in a forked child: an error's own, 99 for any other, -9 when killed (at a failpoint or after seconds)."""
    listening, told = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            if "SHOW" not in os.environ:
                os.dup2(silent, 2)
            os.environ.update(environ)
            if failpoint:
                os.environ["SVGBENCH_FAILPOINT"] = failpoint
            function()
            status = 0
        except SvgbenchError as error:
            status = error.exit_status
        except BaseException:  # the parent says what it was: pytest shows a failed test's standard error
            os.write(told, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(status)
    os.close(told)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.set_blocking(listening, False)  # a process that the child left behind may hold the other end
    with os.fdopen(listening, "rb") as pipe:
        sys.stderr.write((pipe.read() or b"").decode())
    return status


def in_ranks(world: int, function: Callable[[], Any], *, failpoints: dict[int, str] | None = None) -> list[int]:
    """Exit statuses of ``function`` run by ``world`` forked ranks that talk over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    starters = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            environ = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os._exit(in_child(function, failpoint=(failpoints or {}).get(rank), **{k: str(v) for k, v in environ.items()}) & 0xFF)
        starters.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in starters]
