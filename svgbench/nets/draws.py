"""Randomness as a function of position: the same draw on any device, at any batch size and on any number of ranks.

A draw is determined by (stream, index, element). ``index`` is a sample's global position: ``images_seen + place in the global batch`` in
training, the sample's number in sampling. Bits come from splitmix64 (Steele, Lea, Flood 2014) as a counter-based generator: two mixing
rounds make a row's key from (stream, index), a third makes the bits of each element. Integer overflow wraps identically everywhere, and
transcendental functions run in float64 before rounding, so that the float32 result does not depend on vector widths and devices.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer: splitmix64's increment
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


@lru_cache(maxsize=4096)
def stream(seed: int, purpose: str) -> int:
    """A 63-bit stream number for a seed and a purpose; draws of different streams are independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser, in place."""
    x ^= _shifted(x, 30)
    x *= _MIX_1
    x ^= _shifted(x, 27)
    x *= _MIX_2
    x ^= _shifted(x, 31)
    return x


def _bits(stream: int, indices: Tensor, count: int) -> Tensor:
    """``count`` words of 64 random bits for each index: [B, count] int64."""
    if indices.dtype != torch.int64 or indices.ndim != 1:
        raise ValueError(f"draws need int64 indices of shape [B], not {indices.dtype} {tuple(indices.shape)}")
    rows = _mix(_mix(indices * _GOLDEN + stream) + stream)
    cells = torch.arange(1, count + 1, device=indices.device) * _GOLDEN
    return _mix(rows[:, None] + cells)


def uniform(stream: int, indices: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform draws strictly inside (0, 1): float32 [B, *shape] for indices [B], on a grid of 2^-23."""
    words = _bits(stream, indices, math.prod(shape))
    return _shifted(words, 41).float().add_(0.5).mul_(2.0**-23).reshape(-1, *shape)


def normal(stream: int, indices: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal draws: float32 [B, *shape] for indices [B], by Box and Muller (1958), two from each 64-bit word."""
    count = math.prod(shape)
    words = _bits(stream, indices, (count + 1) // 2)
    radius = _shifted(words, 32).double().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = words.bitwise_and_(0xFFFFFFFF).double().mul_(2.0 * math.pi * 2.0**-32)
    pairs = torch.cat([(radius * angle.cos()).float(), radius.mul_(angle.sin_()).float()], dim=1)
    return pairs[:, :count].reshape(-1, *shape)


def chance(stream: int, indices: Tensor, shape: tuple[int, ...], probability: float) -> Tensor:
    """True with the given probability (to 2^-16): bool [B, *shape] for indices [B]; four draws from each 64-bit word, for dropout masks."""
    count, threshold = math.prod(shape), _threshold(probability)
    if threshold == 32768:  # not an int16
        return torch.ones(len(indices), *shape, dtype=torch.bool, device=indices.device)
    lanes = _bits(stream, indices, (count + 3) // 4).view(torch.int16)[:, :count]
    return (lanes < threshold).reshape(-1, *shape)


def chances(streams: Tensor, indices: Tensor, shapes: Sequence[tuple[int, ...]], probabilities: Sequence[float]) -> list[Tensor]:
    """``chance`` of several streams [S] int64 (on the device of the indices): bool [B, *shape] for each."""
    if indices.device.type == "cpu":  # there, draws of the size of a cache are faster
        rows = zip(streams.tolist(), shapes, probabilities, strict=True)
        return [chance(number, indices, shape, probability) for number, shape, probability in rows]
    return chances_at_once(streams, indices, shapes, probabilities)


def chances_at_once(streams: Tensor, indices: Tensor, shapes: Sequence[tuple[int, ...]], probabilities: Sequence[float]) -> list[Tensor]:
    """The same bool [B, *shape], from one draw in a number of operations that does not depend on the number of streams: on a GPU each
    operation is a launch."""
    counts = [math.prod(shape) for shape in shapes]
    lengths = [(count + 3) // 4 for count in counts]
    keys = _mix(_mix((indices * _GOLDEN)[:, None] + streams) + streams)
    cells = torch.arange(1, max(lengths) + 1, device=indices.device) * _GOLDEN
    words = torch.cat([key.expand(-1, length) for key, length in zip(keys.split(1, dim=1), lengths, strict=True)], dim=1)
    lanes = _mix(words.add_(torch.cat([cells[:length] for length in lengths]))).view(torch.int16)
    below = {threshold: lanes < threshold for threshold in {_threshold(p) for p in probabilities} - {32768}}
    found, start = [], 0
    for shape, count, length, probability in zip(shapes, counts, lengths, probabilities, strict=True):
        if (threshold := _threshold(probability)) == 32768:
            found.append(torch.ones(len(indices), *shape, dtype=torch.bool, device=indices.device))
        else:
            found.append(below[threshold][:, start : start + count].unflatten(1, shape))
        start += 4 * length
    return found


def _threshold(probability: float) -> int:
    """The number below which an int16 counts as a hit; 32768, which is not an int16, for all of them."""
    return round(probability * 65536) - 32768


def integers(stream: int, indices: Tensor, high: int) -> Tensor:
    """Uniform integers in [0, high): int64 [B] for indices [B]; ``high`` must be far below 2^63, so that the bias of the remainder is
    negligible."""
    return _shifted(_bits(stream, indices, 1)[:, 0], 1).remainder_(high)
