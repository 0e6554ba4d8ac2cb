"""Memory that the decoder keeps for its backward pass: forward of 64 latents in bf16 autocast, as in stage 1."""

from __future__ import annotations

import torch
from common import Pretended, arguments, leave, say, show_graphs

from svgbench.config.schema import Autoencoder
from svgbench.machine.runtime import Runtime
from svgbench.stages.tokenizers import build, open_frozen

args = arguments(__doc__, batch=64, precision="bf16")
pretended = Pretended(*args.set)
runtime = Runtime(device="cuda", quiet=True).start()
_, encoder = open_frozen(pretended.json["encoder"], runtime.torch_device)
settings = Autoencoder.model_validate(pretended.json["autoencoder"])
decoder = build(encoder, settings, pretended.side, runtime.torch_device).decoder
grid = pretended.side // pretended.card.stride
latents = torch.empty(args.batch, pretended.channels, grid, grid, device="cuda", requires_grad=True)
if args.compile != "off":
    decoder.compile_blocks()
for name in ("first", "second"):
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with runtime.autocast(args.precision):
        images = decoder.conv_out(decoder.before_last(latents))
    saved = (torch.cuda.memory_allocated() - before) / 1e9
    say(f"{name} forward of {args.batch}, {args.precision}, compile {args.compile}: saved {saved:.2f} GB")
    images.backward(torch.empty_like(images))
    say(f"  peak over the weights {(torch.cuda.max_memory_allocated() - before) / 1e9:.2f} GB")
    del images
show_graphs()
leave()
