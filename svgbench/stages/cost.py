"""The cost of a training, with the names of the report's table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

from torch import nn

from svgbench.machine.measure import CountedWork, count_work, gemm_name, gemm_rate, precision_used, utilisation
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch, Task, TrainingReport
from svgbench.nets.chunks import whole_batches


class ProductRate(NamedTuple):
    """The rate of large matrix products; the larger of two is the faster."""

    flops_per_second: float
    """Summed over all processes."""
    name: str
    """Precision and shape of the product."""


def product_rate(runtime: Runtime, precision: Literal["fp32", "bf16"]) -> ProductRate:
    """The rate of large matrix products in the precision that a training uses on this device (fp32 on a GPU may be TF32). Measured before
    and after a training; callers use the larger value, because other jobs on the machine may have slowed one of the two."""
    device = runtime.torch_device
    used = precision_used(device, precision)
    return ProductRate(gemm_rate(device, used) * runtime.world, gemm_name(device, used))


def work_of(task: Task, call: Callable[[Batch], Any], probe: Batch) -> CountedWork:
    """Operations of one image in one update: ``call`` is counted on the batch ``probe`` and leaves no gradients. The probe has one image,
    which is one micro-batch of any size, and encoders do not pad it, so the count depends neither on the micro-batch nor on whether latents
    are kept in memory."""
    with whole_batches(), _keeping_activations(task.modules.values()):
        work = count_work(lambda: call(probe), len(probe.indices))
    for module in task.modules.values():
        module.zero_grad(set_to_none=True)
    return work


@contextlib.contextmanager
def _keeping_activations(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Context in which no block computes its activations again in the backward pass (attribute ``checkpointing``)."""
    blocks: list[Any] = [module for network in networks for module in network.modules() if getattr(module, "checkpointing", False)]
    try:
        for block in blocks:
            block.checkpointing = False
        yield
    finally:
        for block in blocks:
            block.checkpointing = True


def cost_of(report: TrainingReport, work: CountedWork, rate: ProductRate, network: nn.Module) -> dict[str, Any]:
    """``work``: of one image in one update. The utilisation is that of the trained networks and their losses (model FLOPs): neither frozen
    encoders nor recomputation count."""
    return {
        "images_seen": report.images_seen,
        "seconds": report.seconds,
        "images_per_second": report.images_per_second,
        "flops_per_image": work.model,
        "encoder_flops_per_image": work.apart,
        "utilisation": utilisation(report.images_per_second, work.model, rate.flops_per_second),
        "product_rate": rate.flops_per_second,
        "product_rate_of": rate.name,
        "peak_memory_bytes": report.peak_memory_bytes,
        "parameters": sum(p.numel() for p in network.parameters()),
        "losses": report.losses,
        "skipped_updates": report.skipped,
    }
