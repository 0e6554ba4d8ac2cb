"""One update of the autoencoder stage at the sizes of the preset ``paper``: batch, precision, GAN term, micro-batches."""

from __future__ import annotations

from common import ONLINE_IMAGES, Pretended, arguments, count, leave, runtime_options, say, show_graphs

args = arguments(__doc__, batch=64, precision="bf16", gan=False, warm=3, micro_batch=None)
words = [f"autoencoder.training.batch={args.batch}", f"autoencoder.training.precision={args.precision}"]
words += [f"autoencoder.loss.adversarial_start_images={0 if args.gan else 1_280_000}"]
pretended = Pretended(*words, *args.set, images=ONLINE_IMAGES)
counted = count("autoencoder", pretended, label="autoencoder", warm=args.warm, options=runtime_options(args))
title = f"stage 1, batch {args.batch}, {args.precision}, GAN {args.gan}, micro-batch {args.micro_batch}, compile {args.compile}"
counted.show(title, args.kernels)
say(f"GF an image in products: {counted.counts.flops() / counted.images / 1e9:,.1f}")
show_graphs()
leave()
