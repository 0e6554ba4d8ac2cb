"""One update of the diffusion stage: SiT-XL of the preset ``paper``, with latents in memory or encoded online."""

from __future__ import annotations

from common import CACHED_IMAGES, ONLINE_IMAGES, Pretended, arguments, count, leave, runtime_options, say, show_graphs

args = arguments(__doc__, batch=256, online=False, warm=3, micro_batch=None, capture=False)
pretended = Pretended(f"diffusion.training.batch={args.batch}", *args.set, images=ONLINE_IMAGES if args.online else CACHED_IMAGES)
counted = count("diffusion", pretended, label="SiT", warm=args.warm, options=runtime_options(args))
counted.show(f"stage 2, batch {args.batch}, {'online' if args.online else 'cached'}, compile {args.compile}", args.kernels)
say(f"GF an image in products: {counted.counts.flops() / counted.images / 1e9:,.1f}")
show_graphs()
leave()
