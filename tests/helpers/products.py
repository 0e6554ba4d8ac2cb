"""Counts the products of an update by precision."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Products(TorchDispatchMode):
    """Lists the products (of matrices, convolutions, attention) with an fp32 factor, and counts those in bf16."""

    NAMES = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward", "mv", "dot", "linear", "matmul")

    def __init__(self):
        super().__init__()
        self.fp32, self.bf16 = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        attention = name.startswith("_scaled_dot_product")
        if name in self.NAMES or attention:
            least = 4 if attention else 2  # biases, and attention's fp32 log-sums, are no factors
            kinds = {t.dtype for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.ndim >= least}
            self.bf16 += torch.bfloat16 in kinds
            if torch.float32 in kinds:
                self.fp32.append((name, [tuple(t.shape) for t in tree_leaves(args) if isinstance(t, torch.Tensor)]))
        return function(*args, **(kwargs or {}))
