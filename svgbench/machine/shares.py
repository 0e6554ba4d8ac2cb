"""Numbers that the ranks compute in shares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svgbench.machine.runtime import Runtime


def shared(count: int, measure: Callable[[int], float | Tensor], runtime: Runtime | None, *, width: int = 1) -> Tensor:
    """``measure`` (``width`` numbers) of each of ``range(count)``: float64 [count, width] on the CPU. The ranks share the work, and each
    gets all numbers, with the bits of one process, because one rank computes each. When one rank fails, all raise. ``runtime`` None: a
    single process."""
    table, error = torch.zeros(count, width, dtype=torch.float64), None
    try:
        for number in range(count) if runtime is None else runtime.shard(count):
            table[number] = torch.as_tensor(measure(number), dtype=torch.float64)
    except Exception as caught:
        error = caught
    if runtime is not None:
        runtime.raise_together(error, "numbers could not be computed")
    elif error is not None:
        raise error
    return table if runtime is None else runtime.all_reduce_(table)
