"""Measures FLOPs, the machine's matrix-product rate, and peak memory.

The model FLOP utilisation (MFU) of a training is images/s x FLOPs per image / the rate of large matrix products. This rate is measured on
the same machine in the same run, not taken from a data sheet.
"""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode


def gemm_rate(device: torch.device, precision: Literal["fp32", "bf16"], seconds: float = 0.3) -> float:
    """FLOP/s of large square matrix products: the best of several intervals within ``seconds``, after a warm-up."""
    side = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.ones(side, side, device=device, dtype=kind), torch.ones(side, side, device=device, dtype=kind)
    out = torch.empty_like(a)
    a, b = a.normal_(), b.normal_()
    for _ in range(3):
        torch.mm(a, b, out=out)
    synchronise(device)
    best, spent, repeats = 0.0, 0.0, 4 if device.type == "cuda" else 1  # short intervals: in some of them other processes are idle
    while spent < seconds or best == 0.0:
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b, out=out)
        synchronise(device)
        stretch = time.perf_counter() - start
        spent += stretch
        best = max(best, repeats * 2 * side**3 / stretch)
    return best


def count_flops(function: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one call; one multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def processor_name() -> str:
    """The processor model as reported by Linux, else by Python."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def reset_peak(device: torch.device) -> None:
    """Resets ``peak_memory`` (on a CPU only under Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes since ``reset_peak``: of the device's allocator on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def utilisation(images_per_second: float, flops_per_image: float, rate: float) -> float:
    """Model FLOP utilisation, from 0 to 1, relative to ``rate`` (FLOP/s of all ranks together)."""
    return images_per_second * flops_per_image / rate if rate else 0.0


class Stopwatch:
    """Measures the time of updates; the rate excludes the first interval after each start."""

    def __init__(self, *, images_seen: int = 0, seconds: float = 0.0, rated_images: int = 0, rated_seconds: float = 0.0) -> None:
        self.seconds, self._rated_images, self._rated_seconds = seconds, rated_images, rated_seconds
        self._since: float | None = None
        self._at, self._warm = images_seen, False

    def go(self) -> None:
        """Starts the clock, unless it is running."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self, images_seen: int, pause: bool = False) -> None:
        """Ends an interval; the next one begins now, or at the next ``go`` after a pause."""
        now = time.perf_counter()
        if self._since is not None:
            spent = now - self._since
            self.seconds += spent
            if self._warm:
                self._rated_images += images_seen - self._at
                self._rated_seconds += spent
            self._at, self._warm = images_seen, self._warm or images_seen > self._at
        self._since = None if pause else now

    def images_per_second(self, images_seen: int) -> float:
        """Rate of the counted intervals, or of all intervals if none counts yet."""
        images, seconds = (self._rated_images, self._rated_seconds) if self._rated_seconds else (images_seen, self.seconds)
        return images / seconds if seconds else 0.0

    def state(self) -> dict[str, float]:
        """The state that a checkpoint stores."""
        return {"seconds": self.seconds, "rated_images": self._rated_images, "rated_seconds": self._rated_seconds}


def synchronise(device: torch.device) -> None:
    """Waits until all operations on the device have finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
