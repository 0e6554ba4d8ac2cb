"""The images ``scenes``: one to three objects of one class on a varied background, with labels, masks, depth and captions.

A class is a shape and a pattern of light and dark: eight shapes times three patterns. Hue is independent of the class: every part of an
image has its own random hue, at a luminance that the pattern gives. So an encoder that is invariant to hue, as self-supervised encoders
are, keeps the class and loses colour. Number, position, size, rotation and depth of the objects and the background are independent of the
class too.

Image i of a split is a function of (seed, split, i) alone: every random number is a hash of the position. The splits ``pretrain`` (encoders
and codecs), ``train`` (generators), ``val`` and ``judge`` (judges) share no image. The bytes are the same on every processor: operations on
pixels are rounded additions, multiplications, divisions and square roots; sines and cosines of angles are in ``exact``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from svgbench.images.drawing import DISTANCES, checked, key_of, uniform, wide
from svgbench.images.exact import cosine, sine

SHAPES = ("disc", "square", "triangle", "star", "ring", "cross", "heart", "crescent")
PATTERNS = ("light", "dark", "split")
CLASSES = tuple(f"{pattern} {shape}" for shape in SHAPES for pattern in PATTERNS)
SPLITS = ("pretrain", "train", "val", "judge")
HUES = ("orange", "yellow", "green", "teal", "blue", "purple", "pink", "red")
COUNTS = ("one", "two", "three")
WORDS = tuple(sorted({"on", *SHAPES, *PATTERNS, *HUES, *COUNTS}))
"""Every word that a caption can contain, in alphabetical order."""
MOST = len(COUNTS)
"""The largest number of objects in an image."""
_HEART = 1.55
"""Size of the heart, relative to that of its formula."""
_CHROMA = np.array([[0.956, 0.621], [-0.272, -0.647], [-1.106, 1.703]], np.float32)
"""RGB of the two chroma axes of YIQ. Neither changes the luminance 0.299 R + 0.587 G + 0.114 B."""
_CHUNK = 256
_OF_IMAGE, _OF_OBJECT = 32, 16


class SceneBatch(NamedTuple):
    """Images uint8 [n, 3, H, W], labels int64 [n], masks uint8 [n, H, W] (0 background, 1 + label on an object), depth float32 [n, H, W]
    in (0, 1] (1 is far), captions or None."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    depth: np.ndarray
    captions: list[str] | None


def draw(indices: Sequence[int] | np.ndarray, *, seed: int, resolution: int, split: str, captions: bool = False) -> SceneBatch:
    """Draws the images ``indices`` [n] of a split, ``resolution`` pixels wide. The classes alternate, so that 24 consecutive images have
    all 24. Raises BadData for an unknown split, a resolution outside 16 to 1024, or a negative index."""
    indices = checked(indices, source="scenes", splits=SPLITS, split=split, resolution=resolution)
    key = key_of("scenes", seed, split)
    count = len(indices)
    images = np.empty((count, 3, resolution, resolution), np.uint8)
    masks, depth = np.empty((count, resolution, resolution), np.uint8), np.empty((count, resolution, resolution), np.float32)
    labels = indices % len(CLASSES)
    words: list[str] = []
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        scene = _scene(indices[part], labels[part], key)
        images[part], masks[part], depth[part] = _render(scene, resolution, key)
        if captions:
            words += [_caption(scene, row) for row in range(len(scene.labels))]
    return SceneBatch(images, labels, masks, depth, words if captions else None)


class _Scene(NamedTuple):
    """Parameters of n images with up to k = 3 objects; lengths are in half image sides, angles in radians, luminance in [0, 1]."""

    indices: np.ndarray
    labels: np.ndarray
    number: np.ndarray  # objects in the image
    x: np.ndarray  # [n, k]; objects are ordered from far to near
    y: np.ndarray
    size: np.ndarray
    turn: np.ndarray
    far: np.ndarray  # [n, k] depth of the objects
    hue: np.ndarray  # [n, k, 2] in [0, 1): fill and rim
    strength: np.ndarray  # [n, k, 2] length of the chroma
    light: np.ndarray  # [n, k, 2] luminance of the light and of the dark part
    horizon: np.ndarray
    slope: np.ndarray
    ground_light: np.ndarray  # [n, 2, 2] luminance of sky and ground, each at its two ends
    ground_hue: np.ndarray  # [n, 2] of sky and ground
    ground_strength: np.ndarray  # [n, 2]
    speckle: np.ndarray  # [n, 2] amplitude of the noise in luminance and in chroma
    noise: np.ndarray


def _scene(indices: np.ndarray, labels: np.ndarray, key: int) -> _Scene:
    u = uniform(key, indices, _OF_IMAGE)
    v = uniform(key ^ 0x0B1EC7, indices, MOST * _OF_OBJECT).reshape(-1, MOST, _OF_OBJECT)
    count = 1 + np.floor(u[:, 0] * MOST).astype(np.int64)
    # objects stand at equal angles around a point near the centre; a single object stands at that point
    start = u[:, 1, None] * np.float32(2 * np.pi)
    angles = (start + np.arange(MOST, dtype=np.float32) * (np.float32(2 * np.pi) / count[:, None].astype(np.float32))).astype(np.float32)
    spread = np.array([0.0, 0.46, 0.54], np.float32)[count - 1, None]
    size = np.array([0.68, 0.50, 0.42], np.float32)[count - 1, None] * (0.85 + 0.3 * v[..., 0])
    far = -np.sort(-v[..., 1], axis=1)
    size = size * (np.float32(1.15) - np.float32(0.3) * far)
    room = 1 - size * 0.8 - spread
    shift = (2 * u[:, None, 2:4] - 1) * np.clip(room, 0.05, 0.4)[..., None]
    jitter = (2 * v[..., 2:4] - 1) * 0.06
    return _Scene(
        indices=indices,
        labels=labels,
        number=count,
        x=spread * cosine(angles) + shift[..., 0] + jitter[..., 0],
        y=spread * sine(angles) + shift[..., 1] + jitter[..., 1],
        size=size,
        turn=(v[..., 4] - 0.5) * np.float32(np.pi * 2 / 3),
        far=0.2 + 0.5 * far,
        hue=v[..., 5:7],
        strength=0.10 + 0.12 * v[..., 7:9],
        light=np.stack([0.74 + 0.12 * v[..., 9], 0.16 + 0.12 * v[..., 10]], -1),
        horizon=-0.3 + 0.6 * u[:, 4],
        slope=(u[:, 5] - 0.5) * 0.6,
        ground_light=0.34 + 0.32 * u[:, 6:10].reshape(-1, 2, 2),
        ground_hue=u[:, 10:12],
        ground_strength=0.04 + 0.14 * u[:, 12:14],
        speckle=u[:, 14:16] * np.array([0.12, 0.10], np.float32),
        noise=0.02 * u[:, 16],
    )


def _render(scene: _Scene, resolution: int, key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [n, 3, H, W], masks uint8 [n, H, W] and depth float32 [n, H, W]."""
    axis = ((np.arange(resolution, dtype=np.float32) + 0.5) * np.float32(2 / resolution) - 1).astype(np.float32)
    py, px = axis[:, None], axis[None, :]
    image, depth = _background(scene, px, py, key)  # luminance and two chromas [n, 3, H, W]
    mask = np.zeros(depth.shape, np.uint8)
    for place in range(MOST):
        rows = np.flatnonzero(scene.number > place)
        if len(rows) == 0:
            continue
        coverage, blend = _object(scene, rows, place, px, py, resolution)
        parts = _parts(scene, rows, place)  # [n, 2 parts, 3]
        inside = _tall(parts[:, 0]) + _tall(parts[:, 1] - parts[:, 0]) * blend[:, None]
        image[rows] += (inside - image[rows]) * coverage[:, None]
        solid = coverage >= 0.5
        mask[rows] = np.where(solid, wide(scene.labels[rows] + 1), mask[rows])
        depth[rows] = np.where(solid, wide(scene.far[rows, place]), depth[rows])
    rgb = image[:, :1] + image[:, 1, None] * _CHROMA[:, 0, None, None] + image[:, 2, None] * _CHROMA[:, 1, None, None]
    grain = uniform(key ^ 0x5EED, scene.indices, resolution * resolution).reshape(-1, 1, resolution, resolution) - np.float32(0.5)
    rgb += grain * (2 * wide(scene.noise)[:, None])
    return np.rint(rgb.clip(0, 1) * 255).astype(np.uint8), mask, depth


def _object(scene: _Scene, rows: np.ndarray, place: int, px: np.ndarray, py: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of the pixels by one object of each image, and the share of the object's dark part, both [n, H, W] in [0, 1]."""
    size = wide(scene.size[rows, place])
    c, s = wide(cosine(scene.turn[rows, place])), wide(sine(scene.turn[rows, place]))
    dx, dy = px[None] - wide(scene.x[rows, place]), py[None] - wide(scene.y[rows, place])
    u, v = (c * dx + s * dy) / size, (c * dy - s * dx) / size  # the object's frame: y down, the shape's radius about 1
    distance = np.empty_like(u)
    shape, pattern = scene.labels[rows] // len(PATTERNS), scene.labels[rows] % len(PATTERNS)
    for number in np.unique(shape):
        chosen = shape == number
        measured = _heart if SHAPES[number] == "heart" else DISTANCES[SHAPES[number]]
        distance[chosen] = measured(u[chosen], v[chosen])
    sharp = size * np.float32(resolution / 2)
    coverage = np.clip(0.5 - distance * sharp, 0, 1)
    rim = np.clip(0.5 + (distance + np.float32(0.25)) * sharp, 0, 1)
    blend = np.where(wide(pattern) == PATTERNS.index("light"), rim, 1 - rim)
    half = pattern == PATTERNS.index("split")
    blend[half] = np.clip(0.5 + u[half] * sharp[half], 0, 1)
    return coverage, blend


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Exact inside too, where the rim needs it: a square on its corner with half discs on its two upper sides."""
    x, y = np.abs(u) / np.float32(_HEART), (np.float32(0.85) - v) / np.float32(_HEART)
    lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - np.float32(0.35355338)
    along = np.maximum(x + y, 0) / 2
    square = np.sqrt(np.minimum(x * x + (y - 1) ** 2, (x - along) ** 2 + (y - along) ** 2)) * np.where(x > y, 1, -1).astype(np.float32)
    return np.float32(_HEART) * np.where(x + y > 1, lobe, square)


def _parts(scene: _Scene, rows: np.ndarray, place: int) -> np.ndarray:
    """Luminance and chroma of the light and of the dark part of one object of each image, float32 [n, 2, 3]."""
    angle = scene.hue[rows, place] * np.float32(2 * np.pi)
    strength = scene.strength[rows, place]
    return np.stack([scene.light[rows, place], strength * cosine(angle), strength * sine(angle)], -1).astype(np.float32)


def _background(scene: _Scene, px: np.ndarray, py: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Sky and ground, each with a gradient, and noise in luminance and chroma: float32 [n, 3, H, W]; depth [n, H, W]."""
    below = py[None] - wide(scene.horizon) - wide(scene.slope) * px[None]
    resolution = px.shape[1]
    ground = np.clip(0.5 + below * np.float32(resolution / 2), 0, 1)
    light = wide(scene.ground_light[:, 0, 0]) + wide(scene.ground_light[:, 0, 1] - scene.ground_light[:, 0, 0]) * ((px[None] + 1) / 2)
    floor = wide(scene.ground_light[:, 1, 0]) + wide(scene.ground_light[:, 1, 1] - scene.ground_light[:, 1, 0]) * ((py[None] + 1) / 2)
    angle = scene.ground_hue * np.float32(2 * np.pi)
    image = np.empty((len(scene.labels), 3, resolution, resolution), np.float32)
    image[:, 0] = light + (floor - light) * ground
    for axis, wave in ((1, cosine(angle)), (2, sine(angle))):
        chroma = scene.ground_strength * wave
        image[:, axis] = wide(chroma[:, 0]) + wide(chroma[:, 1] - chroma[:, 0]) * ground
    lattice = uniform(key ^ 0x1A77, scene.indices, 3 * 36).reshape(-1, 3, 6, 6) - np.float32(0.5)
    lattice *= 2 * scene.speckle[:, [0, 1, 1], None, None]
    image += _interpolated(lattice, (px[0] + 1) * np.float32(2.5))
    # the ground comes nearer towards the lower edge of the image
    return image, np.clip(1 - 0.45 * np.clip(below, 0, None), 0.1, 1).astype(np.float32)


def _interpolated(lattice: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Bilinear interpolation, float32 [n, c, m, m], of lattices [n, c, k, k] at ``side`` x ``side``, float32 [m] in [0, k - 1]."""
    first = np.floor(side).astype(np.int64).clip(0, lattice.shape[-1] - 2)
    high = side - first.astype(np.float32)
    down = lattice[:, :, first] + (lattice[:, :, first + 1] - lattice[:, :, first]) * high[:, None]
    return down[..., first] + (down[..., first + 1] - down[..., first]) * high


def _caption(scene: _Scene, row: int) -> str:
    """A description of one image: number, pattern, shape, the colour of the nearest object and of the ground."""
    pattern, shape = CLASSES[scene.labels[row]].split()
    nearest = scene.number[row] - 1
    part = 1 if pattern == "dark" else 0
    hue, floor = (HUES[int(h * len(HUES)) % len(HUES)] for h in (scene.hue[row, nearest, part], scene.ground_hue[row, 1]))
    return f"{COUNTS[scene.number[row] - 1]} {pattern} {hue} {shape} on {floor}"


def _tall(columns: np.ndarray) -> np.ndarray:
    """[n, c] -> [n, c, 1, 1] float32."""
    return np.asarray(columns, np.float32)[:, :, None, None]
