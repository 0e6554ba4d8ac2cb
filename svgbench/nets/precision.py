"""The precision of matrix products and convolutions, independent of the code around them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16"]


def products_in(precision: Precision | None, device: torch.device) -> AbstractContextManager[Any]:
    """Context in which matrix products and convolutions run in this precision, whatever autocast surrounds it; norms, softmax and sums stay
    float32. None: the surrounding autocast applies."""
    if precision is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
