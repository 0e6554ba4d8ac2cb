"""What drawn images are made of: random numbers of a position, and signed distances of shapes.

The bytes are the same on every processor: every step is a rounded addition, multiplication, division or square root, or in ``exact``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np

from svgbench.errors import BadData
from svgbench.images.exact import arctangent, cosine, sine


def checked(indices: Sequence[int] | np.ndarray, *, source: str, splits: Sequence[str], split: str, resolution: int) -> np.ndarray:
    """The indices int64 [n]. Raises BadData for an unknown split, a resolution outside 16 to 1024, or a negative index."""
    if split not in splits:
        raise BadData(f"{source} has no split '{split}'; use {', '.join(splits[:-1])} or {splits[-1]}.")
    if not 16 <= resolution <= 1024:
        raise BadData(f"{source} can be drawn at 16 to 1024 px, not at {resolution}.")
    numbers = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(numbers) and numbers.min() < 0:
        raise BadData(f"{source} has no image {numbers.min()}; count from 0.")
    return numbers


def key_of(source: str, seed: int, split: str) -> int:
    """The key of all random numbers of a split."""
    return int.from_bytes(hashlib.sha256(f"{source}/{seed}/{split}".encode()).digest()[:8], "little")


def uniform(key: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Float32 [n, count] in [0, 1): two rounds of splitmix64 over (key, index, place)."""
    with np.errstate(over="ignore"):
        row = _mix(indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key & 0xFFFFFFFFFFFFFFFF))
        grid = _mix(row[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03))
    return (grid >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def wide(column: np.ndarray) -> np.ndarray:
    """[n] -> [n, 1, 1] float32."""
    return np.asarray(column, np.float32)[:, None, None]


# Signed distances (negative inside) in the object's frame, y down; exact or nearly exact near the edge, where antialiasing needs them.


def _polygon(*corners: tuple[float, float]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Signed distance of a simple polygon: distance to the nearest edge, sign by crossing number."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        nearest = np.full_like(u, np.inf)
        inside = np.zeros(u.shape, bool)
        for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
            ex, ey = bx - ax, by - ay
            wx, wy = u - np.float32(ax), v - np.float32(ay)
            along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (wx - along * ex) ** 2 + (wy - along * ey) ** 2)
            if ey:
                inside ^= ((v < ay) != (v < by)) & (wx < wy * (ex / ey))
        return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest)

    return distance


def _around(radii: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """Corners at equal angles, the first one up."""
    angles = (2 * math.pi * number / len(radii) for number in range(len(radii)))
    corners = ((radius * math.sin(a), -radius * math.cos(a)) for radius, a in zip(radii, angles, strict=True))
    return tuple((round(x, 12), round(y, 12)) for x, y in corners)  # removes differences between C libraries in the last bit


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - np.float32(0.85)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(u * u + v * v) - np.float32(0.66)) - np.float32(0.27)


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.sqrt((u + 0.15) ** 2 + v * v) - np.float32(0.92), np.float32(0.66) - np.sqrt((u - 0.42) ** 2 + v * v))


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Two discs over a wedge."""
    side = np.abs(u)
    lobes = np.sqrt((side - 0.42) ** 2 + (v + 0.32) ** 2) - np.float32(0.48)
    # The wedge is bounded by the tangents of the lobes that meet at the lower tip, and by the line through the tangent points.
    wedge = np.maximum(side * 0.770 + (v - 0.94) * 0.638, side * 0.134 - v - 0.12)
    return np.minimum(lobes, wedge)


def _flower(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five petals: the radius of the edge oscillates with the angle; divided by the edge's slope, so that the edge stays one pixel wide."""
    radius, angle = np.sqrt(u * u + v * v), arctangent(u, -v)
    edge = np.float32(0.70) + np.float32(0.24) * cosine(5 * angle)
    return (radius - edge) / np.sqrt(1 + (np.float32(1.2) * sine(5 * angle) / np.maximum(radius, 0.3)) ** 2)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, down = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(across - 0.92, down - 0.30), np.maximum(across - 0.30, down - 0.92)).astype(np.float32)


DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "square": _polygon((-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)),
    "triangle": _polygon(*_around((1.05,) * 3)),
    "star": _polygon(*_around((1.08, 0.46) * 5)),
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "flower": _flower,
    "arrow": _polygon((0.0, -1.02), (0.8, -0.18), (0.32, -0.18), (0.32, 0.95), (-0.32, 0.95), (-0.32, -0.18), (-0.8, -0.18)),
}
