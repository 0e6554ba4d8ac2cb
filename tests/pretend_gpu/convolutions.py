"""Convolutions of the pretended device: outputs of cuDNN's shapes and layouts without its workspace, FLOPs by precision and layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

flops: Counter[tuple[str, str, str]] = Counter()
"""(forward, data or weight gradient; precision; layout) -> FLOPs."""
calls: Counter[str] = Counter()
_listeners: list[Callable[[str, float], None]] = []


def listen(note: Callable[[str, float], None]) -> None:
    """Reports convolutions in fp32 and TF32 to ``note``."""
    _listeners.append(note)


def reset() -> None:
    """Forgets all counts."""
    flops.clear()
    calls.clear()


def _precision(x: Tensor) -> str:
    if x.dtype != torch.float32:
        return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}[x.dtype]
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "fp32"


def _layout(x: Tensor) -> str:
    return "NHWC" if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous() else "NCHW"


def _format(x: Tensor, weight: Tensor) -> torch.memory_format:
    last = "NHWC" in (_layout(x), _layout(weight)) if x.dim() == 4 else False
    return torch.channels_last if last else torch.contiguous_format


def _count(what: str, x: Tensor, amount: float) -> None:
    kind = _precision(x)
    flops[what, kind, _layout(x)] += amount
    calls[what] += 1
    if kind in ("fp32", "tf32"):
        for note in _listeners:
            note(f"convolution {kind}", amount)


def _side(size: int, kernel: int, stride: int, padding: int, dilation: int, transposed: bool, more: int) -> int:
    """Length of the output along one side."""
    if transposed:
        return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _each(values: list[int], sides: int) -> list[int]:
    return list(values) * sides if len(values) == 1 else list(values)


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    sides = x.dim() - 2
    settings = [_each(values, sides) for values in (stride, padding, dilation, output_padding)]
    shape = [_side(x.shape[2 + i], weight.shape[2 + i], *(v[i] for v in settings[:3]), transposed, settings[3][i]) for i in range(sides)]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    out = torch.empty(len(x), channels, *shape, device=x.device, dtype=x.dtype, memory_format=_format(x, weight))
    _count("forward", x, 2 * prod(x.shape[2:] if transposed else shape) * len(x) * weight.numel())
    return out


def _backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    amount = 2 * len(x) * prod(x.shape[2:] if transposed else gradient.shape[2:]) * weight.numel()
    data = weights = biases = None
    if mask[0]:
        data = torch.empty_like(x, memory_format=_format(x, weight))
        _count("data gradient", x, amount)
    if mask[1]:
        weights = torch.empty_like(weight, memory_format=_format(x, weight))
        _count("weight gradient", x, amount)
    if mask[2]:
        biases = gradient.sum((0, *range(2, gradient.dim())))
    return data, weights, biases


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("convolution", _forward, "CUDA")
_LIBRARY.impl("convolution_backward", _backward, "CUDA")
