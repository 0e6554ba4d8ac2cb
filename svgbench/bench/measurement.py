"""Measures a sheet of pieces within a time, and gives what was measured, also after a signal."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from svgbench.bench.clock import Clock
from svgbench.bench.pieces import BenchSheet
from svgbench.bench.subject import Subject
from svgbench.config.schema import RunConfig
from svgbench.lab.forecast.sizes import Sizes
from svgbench.lab.measured import BenchFile, BenchRow
from svgbench.machine.measure import Precision, gemm_rate
from svgbench.machine.processor import free_memory, processor_name
from svgbench.machine.progress import Bar
from svgbench.machine.runtime import Runtime
from svgbench.machine.signals import Stop

MINUTES = {"cuda": 8.0, "cpu": 3.0}
"""Time that a measurement takes at most, by kind of device."""
PRESETS = {"cuda": "paper", "cpu": "tiny"}
"""The preset that is measured by default."""
PLANNING = 0.05
"""Seconds in which a rate of products is measured to plan with."""
SMALL = 128
"""Side of the product with which emulated bf16 is found out."""


def measure(
    config: RunConfig, sizes: Sizes, runtime: Runtime, *, stages: tuple[str, ...], batch: int | None, minutes: float
) -> tuple[BenchFile, str]:
    """Measures the stages at the sizes of a configuration; returns the result and the name of the signal that ended it, if one did."""
    began, seconds = time.perf_counter(), 60 * minutes
    device, rows = runtime.torch_device, []
    with Stop() as stop, tempfile.TemporaryDirectory(prefix="svgbench-bench-") as place:
        subject = Subject(config, sizes, runtime, Path(place), most=2 * (batch or 256))
        clock = Clock(device, free=free_of(device), rates=planning_rates(device), stopped=lambda: bool(stop.received))
        bouts = BenchSheet(subject, stages, batch).bouts()
        with runtime.progress("svgbench bench", max(1, round(seconds)), unit="s") as bar:
            for number, bout in enumerate(bouts):
                if stop.received:
                    break
                bar.label = f"{bout.stage}: {bout.names[-1]}"
                bar.show()
                left = max(0.0, seconds - (time.perf_counter() - began))
                rows += clock.rows(bout, left * bout.weight / sum(later.weight for later in bouts[number:]), left)
                stop.unit()
                _advance(bar, time.perf_counter() - began)
        ended = stop.name
    return _file(config, runtime, rows, {"stages": list(stages), "batch": batch, "minutes": minutes}, began, complete=not ended), ended


def planning_rates(device: torch.device) -> dict[str, float]:
    """Rates of matrix products to plan with; bf16 on a CPU, where it may be emulated, by one small product."""
    if device.type == "cuda":
        kinds: tuple[Precision, ...] = ("bf16", "tf32", "fp32")
        return {kind: gemm_rate(device, kind, PLANNING) for kind in kinds}
    small = torch.ones(SMALL, SMALL, dtype=torch.bfloat16)
    torch.mm(small, small)
    start = time.perf_counter()
    torch.mm(small, small)
    return {"fp32": gemm_rate(device, "fp32", PLANNING), "bf16": 2 * SMALL**3 / (time.perf_counter() - start)}


def free_of(device: torch.device) -> Callable[[], int | None]:
    """Bytes that can still be allocated on a device: what is free, and what PyTorch holds without using it."""
    if device.type != "cuda":
        return free_memory
    return lambda: torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _advance(bar: Bar, seconds: float) -> None:
    """Moves the bar to the seconds that have passed."""
    bar.done = min(bar.total, round(seconds))
    bar.show()


def _file(
    config: RunConfig, runtime: Runtime, rows: list[BenchRow], settings: dict[str, Any], began: float, *, complete: bool
) -> BenchFile:
    host = runtime.describe()
    name = host["device_name"] if host["device"] == "cuda" else processor_name()
    return BenchFile(
        device=host["device"], device_name=name, preset=config.preset, encoder=config.encoder.card, settings=settings, host=host,
        finished=datetime.now(UTC).isoformat(timespec="seconds"), seconds=time.perf_counter() - began, complete=complete, rows=tuple(rows),
    )  # fmt: skip
