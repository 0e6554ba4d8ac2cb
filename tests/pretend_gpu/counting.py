"""Reads the counts of the pretended device, and notes which Python line made the host wait, copied, or asked for a product in fp32."""

from __future__ import annotations

import ctypes
import os
import threading
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import convolutions

HOME = Path(os.environ["PRETEND_GPU"])
LIBRARY = ctypes.CDLL(str(HOME / "runtime.so"))
WAITS = "wait: "
PAGEABLE = ("copy to the device, pageable", "copy to the host, pageable")


@dataclass
class Counts:
    """What happened between two calls of ``begin`` and ``end``."""

    amounts: dict[str, float] = field(default_factory=dict)
    """What -> number or amount."""
    kernels: dict[str, float] = field(default_factory=dict)
    """Kernel -> launches outside of captures."""
    sites: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(What, thread, Python line) -> how often."""
    sizes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """The same -> bytes or FLOPs."""
    convolutions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(Direction, precision, layout) -> FLOPs."""

    @property
    def launches(self) -> int:
        """Kernels that the host launched; a captured graph is one launch of ``graph launches``."""
        return int(self.amounts.get("launches", 0))

    @property
    def waits(self) -> int:
        """How often the main thread or autograd waited for the device: synchronisations, and copies after which PyTorch waits."""
        return sum(n for (what, thread, _), n in self.sites.items() if what.startswith(WAITS) and thread in MAIN)

    @property
    def pageable(self) -> int:
        """Copies of the same threads between the device and pageable memory. The driver stages them, which holds up the host; PyTorch waits
        for most of them, so that they are also among ``waits``."""
        return sum(n for (what, thread, _), n in self.sites.items() if what in PAGEABLE and thread in MAIN)

    def flops(self, *precisions: str) -> float:
        """FLOPs of matrix products and convolutions in these precisions (all without arguments); fused attention is not among them."""
        products = sum(v for k, v in self.amounts.items() if k.endswith(", FLOP") and _among(k.split()[1].strip(","), precisions))
        return products + sum(v for (_, kind, _), v in self.convolutions.items() if _among(kind, precisions))

    def lines(self, kernels: int = 0) -> list[str]:
        """The counts for people; ``kernels``: how many kernels to name."""
        found = [f"  {name}: {amount:,.0f}" for name, amount in self.amounts.items() if not name.endswith("FLOP")]
        found += [f"  {name}: {amount / 1e12:,.3f} T" for name, amount in self.amounts.items() if name.endswith("FLOP")]
        found += [f"  convolution {' '.join(kind)}: {flops / 1e12:,.3f} TFLOP" for kind, flops in sorted(self.convolutions.items())]
        for site, number in self.sites.most_common(40):
            what, thread, where = site
            found.append(f"  at {where} [{thread}]: {number} x {what}, {self.sizes[site]:,.0f}")
        return found + [f"  kernel {n:,.0f} x {name[:150]}" for name, n in Counter(self.kernels).most_common(kernels)]


MAIN = ("MainThread", "autograd")
"""Threads that hold up an update."""

_sites: Counter[tuple[str, str, str]] = Counter()
_sizes: Counter[tuple[str, str, str]] = Counter()
_on = False


def _among(kind: str, precisions: tuple[str, ...]) -> bool:
    return not precisions or kind in precisions


def note(what: str, amount: float) -> None:
    """Adds one event at the project's line that is running."""
    if not _on:
        return
    stack = traceback.extract_stack()[:-1]
    ours = [f for f in stack if f"{os.sep}svgbench{os.sep}" in f.filename and "site-packages" not in f.filename]
    thread = threading.current_thread().name
    if ours:
        where = " < ".join(f"{f.filename.rpartition(f'svgbench{os.sep}')[2]}:{f.lineno}" for f in reversed(ours[-3:]))
    else:
        where = "backward" if thread.startswith("Dummy") else "other: " + " < ".join(f.name for f in reversed(stack[-4:]))
    site = (what, "autograd" if thread.startswith("Dummy") else thread, where)
    _sites[site] += 1
    _sizes[site] += amount


_listener = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_double)(lambda what, amount: note(what.decode(), amount))
LIBRARY.pretend_listen(_listener)
convolutions.listen(note)


def begin() -> None:
    """Starts to count from zero."""
    global _on
    LIBRARY.pretend_reset()
    convolutions.reset()
    _sites.clear()
    _sizes.clear()
    _on = True


def end() -> Counts:
    """Stops, and gives the counts."""
    global _on
    _on = False
    file = HOME / f"counts.{os.getpid()}.txt"
    LIBRARY.pretend_write(str(file).encode())
    counts = Counts(sites=_sites.copy(), sizes=_sizes.copy(), convolutions=convolutions.flops.copy())
    for line in file.read_text().splitlines():
        kind, name, amount = line.split("\t")
        (counts.amounts if kind == "count" else counts.kernels)[name] = float(amount)
    file.unlink()
    counts.amounts["convolution launches"] = sum(convolutions.calls.values())
    return counts
