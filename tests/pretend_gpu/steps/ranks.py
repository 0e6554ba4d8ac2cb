"""One of eight ranks in a fake process group: the collectives of an update of stage 2, when they begin and what they hold."""

# ruff: noqa: E402 (the group, and what watches its collectives, come before the modules that use them)

from __future__ import annotations

import os

os.environ.update(RANK="0", WORLD_SIZE="8", LOCAL_RANK="0")

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

seen: list[tuple[str, str, int, int]] = []
"""(Function, device, bytes, gradients that were accumulated before it)."""
ready = [0]


def logged(name: str) -> None:
    """Notes every call of a collective."""
    real = getattr(dist, name)

    def call(tensor: torch.Tensor, *rest: object, **options: object) -> object:
        seen.append((name, tensor.device.type, tensor.numel() * tensor.element_size(), ready[0]))
        return real(tensor, *rest, **options)

    setattr(dist, name, call)


for function in ("all_reduce", "broadcast", "reduce_scatter_tensor", "all_gather_into_tensor"):
    logged(function)
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)

import gc

from common import Pretended, arguments, count, leave, runtime_options, say, show_graphs

from svgbench.nets.sit import SiT

args = arguments(__doc__, batch=256, warm=3, micro_batch=None)
parameters = [0]


def at_warm() -> None:
    """Counts gradients from here on."""
    seen.clear()
    model = next(found for found in gc.get_objects() if type(found) is SiT)
    parameters[0] = len(list(model.parameters()))
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: ready.__setitem__(0, ready[0] + 1))


counted = count(
    "diffusion", Pretended(f"diffusion.training.batch={args.batch}", *args.set), label="SiT", warm=args.warm, options=runtime_options(args),
    at_warm=at_warm,
)  # fmt: skip
counted.show(f"stage 2, one of 8 ranks, {args.batch // 8} images a rank, compile {args.compile}", args.kernels)
device = [call for call in seen if call[1] != "cpu"]
sizes = [call[2] / 1e9 for call in device]
say(f"collectives on the device: {len(device)}, {sum(sizes):.3f} GB, largest {max(sizes):.3f} GB")
say(f"gradients accumulated before each, of {parameters[0]}:", [call[3] for call in device])
say(f"collectives on the CPU: {len(seen) - len(device)}")
concatenated = sum(n for name, n in counted.counts.kernels.items() if "CatArrayBatchedCopy" in name)
copies = counted.counts.amounts.get("copies on the device", 0)
say(f"launches that concatenate tensors: {concatenated:.0f}; copies on the device: {copies:.0f}")
show_graphs()
leave()
