"""Float32 sine, cosine, arc tangent, interpolation and mean with the same bits on every processor. No torch.

numpy computes these by other instructions on other processors, BLAS by other kernels, and the results differ in their last bits. Here every
step is one rounded addition, multiplication or division, which IEEE 754 fixes. The polynomials and the order of the steps are those that
numpy 2 and OpenBLAS take on x86-64 with AVX-512, so that the embedded images keep the bytes that the measured numbers belong to.
"""

from __future__ import annotations

import numpy as np

_BLOCK = 1 << 15
"""Numbers in the processor's cache at a time."""
_ODD = (-0.01557307, -0.07444412, -0.14197528, -0.33333042)
_EVEN = (0.0027187318, 0.041934505, 0.10614863, 0.19991921, 1.0)
"""Of arctan(q) / q in q^2, its odd and its even coefficients, from the highest."""


def sine(x: np.ndarray) -> np.ndarray:
    """sin of float32 radians below 70,000 in size, float32."""
    return _blockwise(lambda part: _wave(part, 0), x)


def cosine(x: np.ndarray) -> np.ndarray:
    """cos of float32 radians below 70,000 in size, float32."""
    return _blockwise(lambda part: _wave(part, 1), x)


def arctangent(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The angle of the points (x, y), float32 radians in [-pi, pi]; 0 at the origin."""
    return _blockwise(_angle, y, x)


def interpolated(lattice: np.ndarray, side: np.ndarray) -> np.ndarray:
    """A lattice float32 [n, k, k] read bilinearly at ``side`` x ``side``, float32 places [m] from 0 to k - 1: float32 [n, m, m]."""
    first = np.floor(side).astype(np.int64).clip(0, lattice.shape[1] - 2)
    low, high = (np.maximum(0, 1 - np.abs(side - place)).astype(np.float32) for place in (first, first + 1))
    down = _fused(lattice[:, first + 1], high[:, None], lattice[:, first] * low[:, None])
    return _blockwise(_fused, down[:, :, first + 1], np.broadcast_to(high, (len(lattice), len(side), len(side))), down[:, :, first] * low)


def mean(x: np.ndarray) -> np.ndarray:
    """The mean of each row of float32 [n, m], float32 [n]."""
    return _sum(x) / np.float32(x.shape[1])


def _sum(x: np.ndarray) -> np.ndarray:
    """Sums of rows [n, m]: halves down to 128 numbers or fewer, and these by eight running sums."""
    count = x.shape[1]
    if count > 128:
        half = count // 2 - count // 2 % 8
        return _sum(x[:, :half]) + _sum(x[:, half:])
    whole = count - count % 8
    if whole:
        running = x[:, :8]
        for start in range(8, whole, 8):
            running = running + x[:, start : start + 8]
        pairs = running[:, ::2] + running[:, 1::2]
        pairs = pairs[:, ::2] + pairs[:, 1::2]
        total = pairs[:, 0] + pairs[:, 1]
    else:
        total = np.zeros(len(x), np.float32)
    for place in range(whole, count):
        total = total + x[:, place]
    return total


def _blockwise(function, *arrays: np.ndarray) -> np.ndarray:
    """A function of float32 arrays of one shape, applied to a part at a time."""
    flat = [np.ravel(array) for array in arrays]
    found = np.empty(flat[0].shape, np.float32)
    for start in range(0, len(found), _BLOCK):
        part = slice(start, start + _BLOCK)
        found[part] = function(*(array[part] for array in flat))
    return found.reshape(arrays[0].shape)


def _fused(a, b, c) -> np.ndarray:
    """a b + c of float32 numbers, rounded once. The product is exact in float64; where the float64 sum was rounded to the middle of two
    float32 numbers, it is moved to the side on which the true sum is, so that the second rounding is right too."""
    product, addend = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    total = product + addend
    middle = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
    if middle.any():
        rest = total - product
        lost = (product - (total - rest)) + (addend - rest)
        total = np.where(middle & (lost != 0), np.nextafter(total, np.copysign(np.inf, lost)), total)
    return total.astype(np.float32)


def _wave(x: np.ndarray, quarters: int) -> np.ndarray:
    """sin(x + quarters pi / 2): x less a multiple of pi / 2 in three steps, then a polynomial of sine or of cosine."""
    magic = np.float32(1.5 * 2**23)  # added and taken away again, it rounds to a whole number
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
    """The angle of points: of the smaller over the larger coordinate, then moved to its quadrant."""
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
    found = np.float32(coefficients[0])
    for coefficient in coefficients[1:]:
        found = _fused(found, x, np.float32(coefficient))
    return found
