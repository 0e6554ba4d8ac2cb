"""Time to read random batches of 256 images of 256 px on this machine (nothing here is pretended: compare the ratios)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import numpy as np
import torch
from common import HOME, arguments, leave, say

from svgbench.images.store import ImageSet
from svgbench.metrics.samples import to_uint8

args = arguments(__doc__, images=2000)
path = HOME / f"random-{args.images}.npy"
if not path.exists():
    store = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(args.images, 3, 256, 256))
    for start in range(0, args.images, 500):
        store[start : start + 500] = np.random.default_rng(start).integers(0, 256, store[start : start + 500].shape, dtype=np.uint8)
    store.flush()
mapped = torch.from_numpy(np.load(path, mmap_mode="r"))
images = ImageSet(mapped, torch.zeros(args.images, dtype=torch.int64), None)
order = torch.randperm(args.images, generator=torch.Generator().manual_seed(0))
out = torch.empty(256, 3, 256, 256, dtype=torch.uint8)


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """The least CPU time of some calls, in ms."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


say(f"ImageSet.batch: {best(lambda: images.batch(order[:256])):.1f} ms; "
    f"index_select into a buffer: {best(lambda: torch.index_select(mapped, 0, order[:256], out=out)):.1f} ms")  # fmt: skip
floats = torch.rand(64, 3, 256, 256)
say(f"to_uint8 on the CPU: {best(lambda: to_uint8(floats)) / 64:.2f} ms an image")
content = bytes(100 << 20)
say(f"sha256: {100 / 1024 / best(lambda: hashlib.sha256(content).digest(), 2) * 1e3:.2f} GiB/s")
leave()
