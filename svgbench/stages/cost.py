"""What a training cost, in the words of the report's table."""

from __future__ import annotations

from typing import Any

from torch import nn

from svgbench.world.measure import utilisation
from svgbench.world.training import TrainingReport


def cost_of(report: TrainingReport, flops: int, rate: float, network: nn.Module) -> dict[str, Any]:
    """``flops`` an image in one update; ``rate``: FLOP/s of large matrix products, all processes together, measured beside it."""
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
