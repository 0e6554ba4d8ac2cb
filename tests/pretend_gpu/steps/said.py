"""FLOPs of an image that the trainings report, with a narrow network: with latents in memory and online, and at two micro-batches.

The transformer has two blocks and the training eight images, because this step runs the stages to their end.
"""

from __future__ import annotations

from common import CACHED_IMAGES, ONLINE_IMAGES, Pretended, Watching, arguments, leave, say

args = arguments(__doc__, skip_stage1=False)
for images in (CACHED_IMAGES, ONLINE_IMAGES):
    for micro in (None, 2):
        words = [
            "diffusion.training.batch=4", "diffusion.training.total_images=8", "diffusion.transformer.depth=2", "diffusion.training.ema=0",
        ]  # fmt: skip
        cost = Pretended(*words, *args.set, images=images).run("diffusion", Watching(micro_batch=micro).start())
        kept = "in memory" if images == CACHED_IMAGES else "online"
        say(f"stage 2, latents {kept}, micro-batch {micro}: {cost['flops_per_image'] / 1e9:,.2f} GF an image said; fields {sorted(cost)}")
if not args.skip_stage1:
    for micro in (None, 2):
        words = ["autoencoder.training.batch=4", "autoencoder.training.total_images=8"]
        cost = Pretended(*words, *args.set, images=ONLINE_IMAGES).run("autoencoder", Watching(micro_batch=micro).start())
        say(f"stage 1, micro-batch {micro}: {cost['flops_per_image'] / 1e9:,.2f} GF an image said")
leave()
