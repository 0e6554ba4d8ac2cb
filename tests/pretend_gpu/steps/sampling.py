"""One block of 256 samples of the preset ``paper``: 25 guided steps, decoded and written as uint8."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from common import Pretended, arguments, count, leave, runtime_options, say, show_graphs

from svgbench.metrics import samples

sent = samples.sent_to_host


def finite(tensors: Sequence[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """Copies as always; but what arrives are zeros, also of "is everything finite?", which is answered yes."""
    wait = sent(tensors)
    return lambda: [wait()[0], torch.tensor(True)]


samples.sent_to_host = finite
args = arguments(__doc__, steps=25, guidance=4.0, warm=1)
words = [f"sampling.steps=[{args.steps}]", f"sampling.guidance=[{args.guidance}]", "sampling.zero_init=0", "sampling.count=1024"]
pretended = Pretended(*words, *args.set)
counted = count("samples", pretended, label="samples", warm=args.warm, options=runtime_options(args))
counted.show(f"{counted.images} samples, {args.steps} steps, guidance {args.guidance:g}, compile {args.compile}", args.kernels)
say(f"GF an image in products: {counted.counts.flops() / counted.images / 1e9:,.1f}")
fused = {name[:90]: int(n) for name, n in counted.counts.kernels.items() if any(word in name for word in ("flash", "fmha", "attention"))}
say("attention kernels:", fused)
show_graphs()
leave()
