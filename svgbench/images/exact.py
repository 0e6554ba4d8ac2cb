"""Float32 sine, cosine, arc tangent, interpolation and mean with the same bits on every processor. No torch.

numpy and BLAS choose instructions and kernels by the processor, so their results differ in the last bits. Here every step is one rounded
addition, multiplication or division, which IEEE 754 defines exactly. The polynomials and the order of the steps are those of numpy 2 and
OpenBLAS on x86-64 with AVX-512, so that the drawn images keep the bytes on which the published numbers were measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Numbers: TypeAlias = np.ndarray | np.floating

_BLOCK = 1 << 15
"""Elements processed at a time, so that they fit into the processor's cache."""
_ODD = (-0.01557307, -0.07444412, -0.14197528, -0.33333042)
_EVEN = (0.0027187318, 0.041934505, 0.10614863, 0.19991921, 1.0)
"""Odd and even coefficients of the polynomial arctan(q) / q in q^2, the highest first."""


def sine(x: np.ndarray) -> np.ndarray:
    """sin(x), float32, of float32 radians with an absolute value below 70,000."""
    return _blockwise(lambda part: _wave(part, 0), x)


def cosine(x: np.ndarray) -> np.ndarray:
    """cos(x), float32, of float32 radians with an absolute value below 70,000."""
    return _blockwise(lambda part: _wave(part, 1), x)


def arctangent(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The angle of the points (x, y), float32 radians in [-pi, pi]; 0 at the origin."""
    return _blockwise(_angle, y, x)


def interpolated(lattice: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Bilinear interpolation, float32 [n, m, m], of lattices [n, k, k] at the points ``side`` x ``side``; ``side``: float32 [m] from 0 to
    k - 1."""
    first = np.floor(side).astype(np.int64).clip(0, lattice.shape[1] - 2)
    low, high = (np.maximum(0, 1 - np.abs(side - place)).astype(np.float32) for place in (first, first + 1))
    down = _fused(lattice[:, first + 1], high[:, None], lattice[:, first] * low[:, None])
    return _blockwise(_fused, down[:, :, first + 1], np.broadcast_to(high, (len(lattice), len(side), len(side))), down[:, :, first] * low)


def mean(x: np.ndarray) -> np.ndarray:
    """The mean of each row of float32 [n, m], float32 [n]."""
    return _sum(x) / np.float32(x.shape[1])


def _sum(x: np.ndarray) -> np.ndarray:
    """Sums of rows [n, m] by halving down to 128 numbers or fewer, which are added in eight running sums."""
    count = x.shape[1]
    if count > 128:
        half = count // 2 - count // 2 % 8
        return _sum(x[:, :half]) + _sum(x[:, half:])
    even_part = count - count % 8
    if even_part:
        running = x[:, :8]
        for start in range(8, even_part, 8):
            running = running + x[:, start : start + 8]
        pairs = running[:, ::2] + running[:, 1::2]
        pairs = pairs[:, ::2] + pairs[:, 1::2]
        total = pairs[:, 0] + pairs[:, 1]
    else:
        total = np.zeros(len(x), np.float32)
    for place in range(even_part, count):
        total = total + x[:, place]
    return total


def _blockwise(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """A function of float32 arrays of one shape, applied to a part at a time."""
    flat = [np.ravel(array) for array in arrays]
    result = np.empty(flat[0].shape, np.float32)
    for start in range(0, len(result), _BLOCK):
        part = slice(start, start + _BLOCK)
        result[part] = function(*(array[part] for array in flat))
    return result.reshape(arrays[0].shape)


def _fused(a: Numbers, b: Numbers, c: Numbers) -> np.ndarray:
    """a b + c of float32 numbers, rounded once. The product is exact in float64. A float64 sum that was rounded to the midpoint of two
    float32 numbers is moved towards the exact sum, so that rounding it to float32 is correct too."""
    product, addend = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    total = product + addend
    middle = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
    if middle.any():
        rest = total - product
        lost = (product - (total - rest)) + (addend - rest)
        total = np.where(middle & (lost != 0), np.nextafter(total, np.copysign(np.inf, lost)), total)
    return total.astype(np.float32)


def _wave(x: np.ndarray, quarters: int) -> np.ndarray:
    """sin(x + quarters pi / 2): subtracts a multiple of pi / 2 from x in three steps, then evaluates a polynomial of sine or cosine."""
    magic = np.float32(1.5 * 2**23)  # adding and subtracting it rounds to an integer
    turns = _fused(x, np.float32(2 / np.pi), magic) - magic
    rest = x
    for part in (-1.570796, -3.1391647e-07, -5.3903025e-15):
        rest = _fused(turns, np.float32(part), rest)
    square = rest * rest
    even = _polynomial((2.4372266e-05, -0.001388652, 0.04166662, -0.5, 1.0), square)
    odd = _polynomial((2.8404097e-06, -0.00019856491, 0.008333397, -0.16666667), square)
    odd = _fused(odd * square, rest, rest)
    turn = turns.astype(np.int64) + quarters
    return np.where(turn & 2, np.float32(-1), np.float32(1)) * np.where(turn & 1, even, odd)


def _angle(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The angle of points, from the ratio of the smaller to the larger coordinate, then moved to its quadrant."""
    across, up = np.abs(x), np.abs(y)
    flat = up < across
    larger = np.where(flat, across, up)
    ratio = np.where(flat, up, -across) / np.where(larger > 0, larger, np.float32(1))
    square = ratio * ratio
    fourth = square * square
    slope = _fused(_polynomial(_ODD, fourth), square, _polynomial(_EVEN, fourth))
    angle = _fused(slope, ratio, np.where(flat | (larger == 0), np.float32(0), np.float32(np.pi / 2)))
    angle = np.where(x < 0, np.float32(np.pi) - angle, angle)
    return np.where(y < 0, -angle, angle)


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Horner's rule, the highest coefficient first."""
    result = np.asarray(coefficients[0], np.float32)
    for coefficient in coefficients[1:]:
        result = _fused(result, x, np.float32(coefficient))
    return result
