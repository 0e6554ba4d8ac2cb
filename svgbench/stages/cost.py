"""The cost of a training, with the names of the report's table."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from svgbench.machine.measure import gemm_rate, utilisation
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import TrainingReport


def product_rate(runtime: Runtime, precision: Literal["fp32", "bf16"]) -> float:
    """FLOP/s of large matrix products, summed over all processes. Measured before and after a training; callers use the larger value,
    because other jobs on the machine may have slowed one of the two."""
    return gemm_rate(runtime.torch_device, precision) * runtime.world


def cost_of(report: TrainingReport, flops: int, rate: float, network: nn.Module) -> dict[str, Any]:
    """``flops``: of one image in one update; ``rate``: FLOP/s of large matrix products, summed over all processes (``product_rate``)."""
    return {
        "images_seen": report.images_seen,
        "seconds": report.seconds,
        "images_per_second": report.images_per_second,
        "flops_per_image": flops,
        "utilisation": utilisation(report.images_per_second, flops, rate),
        "peak_memory_bytes": report.peak_memory_bytes,
        "parameters": sum(p.numel() for p in network.parameters()),
        "losses": report.losses,
        "skipped_updates": report.skipped,
    }
