"""Measures FLOPs, the machine's matrix-product rate, and peak memory.

The model FLOP utilisation (MFU) of a training is images/s x FLOPs per image / the rate of large matrix products. This rate is measured on
the same machine in the same run, not taken from a data sheet.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

Precision = Literal["fp32", "tf32", "bf16"]

SIDES = {"cuda": 8192, "cpu": 1024}
"""Side of the square matrices whose product gives a device's rate."""

_APART: ContextVar[list[int] | None] = ContextVar("apart", default=None)
"""The counts of the functions marked by ``apart``, while ``count_work`` counts."""


def gemm_rate(device: torch.device, precision: Precision, seconds: float = 0.3) -> float:
    """FLOP/s of large square matrix products: the best of several intervals within ``seconds``, after a warm-up."""
    product = gemm(device, precision)
    for _ in range(3):
        product.call()
    synchronise(device)
    best, spent, repeats = 0.0, 0.0, 4 if device.type == "cuda" else 1  # short intervals: in some of them other processes are idle
    while spent < seconds or best == 0.0:
        start = time.perf_counter()
        for _ in range(repeats):
            product.call()
        synchronise(device)
        stretch = time.perf_counter() - start
        spent += stretch
        best = max(best, repeats * product.flops / stretch)
    return best


class Gemm(NamedTuple):
    """A large square matrix product."""

    call: Callable[[], Any]
    flops: int


def gemm(device: torch.device, precision: Precision) -> Gemm:
    """The product whose rate is this device's at a precision; ``gemm_name`` names it. On a GPU, fp32 is computed without TF32."""
    side = side_of(device)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.ones(side, side, device=device, dtype=kind), torch.ones(side, side, device=device, dtype=kind)
    out = torch.empty_like(a)
    a, b = a.normal_(), b.normal_()

    def product() -> None:
        with float32_products("high" if precision == "tf32" else "highest"):
            torch.mm(a, b, out=out)

    plain = kind is torch.bfloat16 or device.type != "cuda"
    return Gemm((lambda: torch.mm(a, b, out=out)) if plain else product, 2 * side**3)


def gemm_name(device: torch.device, precision: Precision) -> str:
    """Precision and shape of the product, such as ``bf16, 8192 x 8192 x 8192``."""
    side = side_of(device)
    return f"{precision}, {side} x {side} x {side}"


def side_of(device: torch.device) -> int:
    """Side of the matrices of ``gemm``."""
    return SIDES.get(device.type, SIDES["cpu"])


@contextlib.contextmanager
def float32_products(precision: Literal["highest", "high"]) -> Iterator[None]:
    """Context in which float32 products and convolutions on a GPU are exact (``highest``) or use TF32 (``high``)."""
    before, convolutions = torch.get_float32_matmul_precision(), _tf32_in_convolutions()
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision == "high"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def precision_used(device: torch.device, precision: Literal["fp32", "bf16"]) -> Precision:
    """The precision of the products of a training: on a GPU, fp32 is TF32 where products or convolutions may use it (by torch's default,
    convolutions do)."""
    if precision == "fp32" and device.type == "cuda" and tf32_allowed():
        return "tf32"
    return precision


def tf32_allowed() -> bool:
    """Whether float32 products or convolutions on a GPU may use TF32."""
    return torch.get_float32_matmul_precision() != "highest" or _tf32_in_convolutions()


def _tf32_in_convolutions() -> bool:
    convolutions = getattr(torch.backends.cudnn, "conv", None)  # torch 2.9; reading the older flag there may raise
    return convolutions.fp32_precision == "tf32" if convolutions is not None else torch.backends.cudnn.allow_tf32


def count_flops(function: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one call; one multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


class CountedWork(NamedTuple):
    """Floating-point operations of one image in one update."""

    model: int
    """Of the networks that are trained and of their losses."""
    apart: int = 0
    """Of frozen encoders that are run for the update; 0 where their outputs are kept in memory."""


def count_work(function: Callable[[], Any], images: int) -> CountedWork:
    """Counts one call on ``images`` images. What ``apart`` marks is counted apart. Compiled modules run uncompiled, because compiled code
    hides its operations."""
    counts: list[int] = []
    token = _APART.set(counts)
    try:
        with _uncompiled():
            total = count_flops(function)
    finally:
        _APART.reset(token)
    return CountedWork(round((total - sum(counts)) / images), round(sum(counts) / images))


def apart(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same function of images [B, 3, H, W], counted apart by ``count_work``: a frozen encoder, whose operations belong to no trained
    network and vanish where its outputs are kept."""

    def counted(images: torch.Tensor) -> torch.Tensor:
        counts = _APART.get()
        if counts is None:
            return function(images)
        with FlopCounterMode(display=False) as counter:
            outputs = function(images)
        counts.append(counter.get_total_flops())
        return outputs

    return counted


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Context in which compiled modules run as written. Without dynamo in memory, nothing was compiled (importing it takes seconds)."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


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
