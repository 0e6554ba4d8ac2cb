"""What a checkpoint and the next update do, by thread: copies to the host, files opened by Python for writing. A narrow transformer."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from common import HOME, Pretended, arguments, count, leave, runtime_options, say

args = arguments(__doc__, batch=8, depth=2, warm=3)
written: Counter[tuple[str, str]] = Counter()


def opened(event: str, details: tuple[Any, ...]) -> None:
    """Notes a file of the stage that a thread opens for writing."""
    if event == "open" and str(details[0]).startswith(str(HOME / "out-")) and details[2] & (os.O_WRONLY | os.O_RDWR):
        written[threading.current_thread().name, Path(str(details[0])).suffix] += 1


words = [f"diffusion.training.batch={args.batch}", f"diffusion.training.checkpoint_images={args.batch}"]
words += [f"diffusion.transformer.depth={args.depth}"]
sys.addaudithook(opened)
counted = count(
    "diffusion", Pretended(*words, *args.set), label="SiT", warm=args.warm, options=runtime_options(args), at_warm=written.clear
)  # fmt: skip
counted.show(f"stage 2 with {args.depth} blocks, a checkpoint and the next update", args.kernels)
say("files opened for writing, by thread and ending:", dict(written))
leave()
