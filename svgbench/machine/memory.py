"""How many images one forward and backward pass takes: as ``--micro-batch`` says, else on CUDA as many as the device's memory holds.

Two updates of a few images, without a step of the optimiser, are run before a training; torch's allocator counts their peaks. Their
difference is what an image needs, in this precision and with these kernels, and the rest is what needs memory at any batch. So nothing is
tried until it fails. The number of pieces of a batch changes a result only by rounding, as ``--micro-batch`` does.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from svgbench.config.choices import MEMORY_SHARE, equal_pieces
from svgbench.machine.runtime import Runtime
from svgbench.machine.sharding import is_sharded, local

PROBES = (28, 36)
"""Images of the two counted updates: enough for their activations to outweigh what does not grow with the batch, and for torch.compile to
choose the kernels of large batches (Inductor fuses some sums from 5 Mi elements on, 27 images of SiT-B) and not to compile again."""
STATE_BYTES = 16
"""Bytes that a training later keeps for each trained parameter: two fp32 moments of Adam, the moving average, a bucket for reduction."""
WHOLE_BYTES = 4
"""Bytes of a gradient that a sharded training keeps whole, for each parameter, between the passes of an update (``sharding.passes``)."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The images that fit."""

    micro_batch: int | None = None
    """Images in a pass as asked for (``--micro-batch``)."""
    fits: int | None = None
    """Images in a pass that fit the device's memory; None: not counted, and the batch is not cut."""
    image: int = 0
    """Counted bytes of an image in a pass."""
    room: int = 0
    """Planned bytes for the images of all passes."""

    def limit(self, count: int, most: int | None = None) -> int | None:
        """Images in a micro-batch when this rank has ``count`` (None: all of them at once): the one asked for, or equal pieces that fit, of
        at most ``most``."""
        if self.micro_batch is not None or self.fits is None or count <= self.fits:
            return self.micro_batch
        return equal_pieces(count, min(self.fits, most or self.fits))

    def held(self, micro_batch: int | None) -> int:
        """How many micro-batches may keep their activations while another one is computed, if this was counted."""
        if self.micro_batch is not None or self.fits is None or micro_batch is None:
            return 0
        return max(self.room // (self.image * micro_batch) - 1, 0)


def counted(runtime: Runtime, probe: Callable[[int], object], networks: Iterable[nn.Module]) -> Memory:
    """What fits, on CUDA and without ``--micro-batch``. ``probe(images)`` computes gradients of that many images and frees them; the
    optimiser's state of ``networks`` is still to be allocated."""
    device = runtime.torch_device
    if runtime.micro_batch is not None or device.type != "cuda":
        return Memory(micro_batch=runtime.micro_batch)

    def peak(images: int) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        probe(images)
        return torch.cuda.max_memory_allocated(device)

    gc.collect()  # networks of earlier stages, which refer to themselves once they are compiled
    probe(PROBES[0])  # compiles, and fills caches
    made = planned([peak(images) for images in PROBES], total_memory(device), later_bytes(networks))
    return agreed(made, runtime)


def later_bytes(networks: Iterable[nn.Module]) -> int:
    """Bytes that a training allocates besides those of a probe, on this rank."""
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    return sum(STATE_BYTES * local(p).numel() + WHOLE_BYTES * (p.numel() if is_sharded(p) else 0) for p in trained)


def total_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory."""
    return torch.cuda.get_device_properties(device).total_memory


def agreed(memory: Memory, runtime: Runtime) -> Memory:
    """What fits every rank, so that all make equally many passes over equal shares."""
    smallest = runtime.all_reduce_(torch.tensor([memory.fits, memory.room, -memory.image]), "min").tolist()
    return replace(memory, fits=smallest[0], room=smallest[1], image=-smallest[2])


def planned(peaks: list[int], total: int, later: int) -> Memory:
    """What fits a device of ``total`` bytes, ``later`` of which a training allocates besides (``later_bytes``), by the peaks of ``PROBES``
    images; at least one image, whatever the memory."""
    image = max(math.ceil((peaks[1] - peaks[0]) / (PROBES[1] - PROBES[0])), 1)
    room = int(MEMORY_SHARE * total) - (peaks[0] - image * PROBES[0]) - later
    return Memory(fits=max(room // image, 1), image=image, room=max(room, 0))
