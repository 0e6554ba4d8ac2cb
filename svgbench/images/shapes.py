"""The drawn images: ten classes of shapes, each with its own palette and texture, with labels, masks and captions.

Image i of a split is a function of (seed, split, i) alone: every random number is a hash of the position, so any subset can be drawn in any
order. A class is a shape with two colours and a texture. Nearly every colour belongs to two or three classes and every texture to two, so
that no single cue identifies a class; one image in eight has a random palette and one in eight a random texture. Background, position,
size, rotation and brightness are independent of the class. Edges are antialiased with signed distances, so that the same image can be drawn
at any resolution. The bytes are the same on every processor: operations other than addition, multiplication, division and square root are
in ``exact``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from svgbench.images.drawing import DISTANCES, checked, key_of, uniform, wide
from svgbench.images.exact import cosine, interpolated, mean, sine

TEXTURES = ("plain", "striped", "checked", "dotted", "ringed")
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "white", "black")
_RGB = np.array(
    [
        [0.86, 0.16, 0.15],
        [0.96, 0.55, 0.11],
        [0.95, 0.86, 0.22],
        [0.24, 0.66, 0.24],
        [0.12, 0.64, 0.64],
        [0.17, 0.30, 0.82],
        [0.54, 0.22, 0.70],
        [0.95, 0.52, 0.70],
        [0.95, 0.95, 0.95],
        [0.08, 0.08, 0.08],
    ],
    dtype=np.float32,
)


class ShapeClass(NamedTuple):
    """One class: its name, the names of its two colours and of its texture."""

    name: str
    colours: tuple[str, str]
    texture: str


KINDS = (
    ShapeClass("disc", ("red", "white"), "dotted"),
    ShapeClass("square", ("blue", "yellow"), "checked"),
    ShapeClass("triangle", ("orange", "black"), "striped"),
    ShapeClass("star", ("yellow", "purple"), "plain"),
    ShapeClass("ring", ("teal", "white"), "striped"),
    ShapeClass("cross", ("green", "white"), "plain"),
    ShapeClass("heart", ("pink", "red"), "ringed"),
    ShapeClass("crescent", ("purple", "teal"), "dotted"),
    ShapeClass("flower", ("pink", "blue"), "ringed"),
    ShapeClass("arrow", ("black", "green"), "checked"),
)
CLASSES = tuple(kind.name for kind in KINDS)
SPLITS = ("train", "val")
WORDS = tuple(
    sorted(
        {"a", "and", "at", "the", "on", "small", "medium", "large", "left", "right", "middle", "top", "bottom", "centre"}
        | {*CLASSES, *TEXTURES, *COLOURS}
    )
)
"""Every word that a caption can contain, in alphabetical order."""
_CHUNK = 256
_NUMBERS = 48


class ShapeBatch(NamedTuple):
    """Images uint8 [n, 3, H, W], labels int64 [n], masks uint8 [n, H, W] (0 background, 1 + label on the object), captions or None."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    captions: list[str] | None


def draw(indices: Sequence[int] | np.ndarray, *, seed: int, resolution: int, split: str, captions: bool = False) -> ShapeBatch:
    """Draws the images ``indices`` [n] of a split, ``resolution`` pixels wide. The classes alternate, so that ten consecutive images have
    all ten. Raises BadData for an unknown split, a resolution outside 16 to 1024, or a negative index."""
    indices = checked(indices, source="shapes", splits=SPLITS, split=split, resolution=resolution)
    key = key_of("shapes", seed, split)
    images = np.empty((len(indices), 3, resolution, resolution), np.uint8)
    masks = np.empty((len(indices), resolution, resolution), np.uint8)
    labels = indices % len(KINDS)
    words: list[str] = []
    for start in range(0, len(indices), _CHUNK):
        part = slice(start, start + _CHUNK)
        scene = _scene(indices[part], labels[part], key)
        images[part], masks[part] = _render(scene, resolution, key)
        if captions:
            words += [_caption(scene, row) for row in range(len(scene.labels))]
    return ShapeBatch(images, labels, masks, words if captions else None)


class _Scene(NamedTuple):
    """Parameters of n images; lengths are in half image sides, angles in radians."""

    indices: np.ndarray
    labels: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    turn: np.ndarray
    palette: np.ndarray  # class whose colours are used
    texture: np.ndarray  # index into TEXTURES
    colours: np.ndarray  # [n, 2, 3] of the object
    period: np.ndarray
    phase: np.ndarray  # [n, 2]
    grain: np.ndarray  # direction of the texture, relative to the object
    ground_name: np.ndarray  # index into COLOURS, the nearest to the background
    ground: np.ndarray  # [n, 2, 3] ends of the background's gradient
    ground_turn: np.ndarray
    ground_wave: np.ndarray  # [n, 3] amplitude, period, phase of the background's ripple
    speckle: np.ndarray  # amplitude of the background's value noise
    light: np.ndarray  # brightness of the image
    noise: np.ndarray  # amplitude of the pixel noise


def _scene(indices: np.ndarray, labels: np.ndarray, key: int) -> _Scene:
    u = uniform(key, indices, _NUMBERS)
    palettes = np.array([[COLOURS.index(c) for c in kind.colours] for kind in KINDS])
    textures = np.array([TEXTURES.index(kind.texture) for kind in KINDS])
    other = np.floor(u[:, 0] * len(KINDS)).astype(int)
    palette = np.where(u[:, 1] < 1 / 8, other, labels)
    texture = np.where(u[:, 2] < 1 / 8, np.floor(u[:, 3] * len(TEXTURES)).astype(int), textures[labels])
    colours = _RGB[palettes[palette]] + (u[:, 4:10].reshape(-1, 2, 3) - 0.5) * 0.24
    # Each background is a gradient between two neighbouring hues, each with random saturation and value.
    hue = u[:, 10] * 6
    first = _hsv(hue, 0.15 + 0.6 * u[:, 11], 0.25 + 0.6 * u[:, 12])
    second = _hsv(hue + (u[:, 13] - 0.5) * 2, 0.15 + 0.6 * u[:, 14], 0.25 + 0.6 * u[:, 15])
    middle = (first + second) / 2
    size = 0.42 + 0.30 * u[:, 16]
    reach = 1.0 - 0.85 * size
    return _Scene(
        indices=indices,
        labels=labels,
        x=(2 * u[:, 17] - 1) * reach,
        y=(2 * u[:, 18] - 1) * reach,
        size=size,
        turn=(u[:, 19] - 0.5) * (np.pi * 2 / 3),
        palette=palette,
        texture=texture,
        colours=colours.clip(0, 1).astype(np.float32),
        period=0.26 + 0.12 * u[:, 20],
        phase=u[:, 21:23],
        grain=(u[:, 23] - 0.5) * 1.0,
        ground_name=_squared(middle[:, None] - _RGB[None]).argmin(-1),
        ground=np.stack([first, second], 1),
        ground_turn=u[:, 24] * 2 * np.pi,
        ground_wave=np.stack([np.where(u[:, 25] < 0.5, 0.0, 0.10 * u[:, 26]), 0.3 + 0.7 * u[:, 27], u[:, 28]], 1),
        speckle=0.16 * u[:, 29],
        light=0.85 + 0.3 * u[:, 30],
        noise=0.02 * u[:, 31],
    )


def _render(scene: _Scene, resolution: int, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 3, H, W] and masks uint8 [n, H, W]."""
    axis = ((np.arange(resolution, dtype=np.float32) + 0.5) * (2 / resolution) - 1).astype(np.float32)
    py, px = np.meshgrid(axis, axis, indexing="ij")
    c, s = wide(cosine(scene.turn)), wide(sine(scene.turn))
    dx, dy = px[None] - wide(scene.x), py[None] - wide(scene.y)
    size = wide(scene.size)
    u, v = (c * dx + s * dy) / size, (c * dy - s * dx) / size  # the object's frame: y down, shape radius about 1
    distance = np.empty_like(u)
    for label in np.unique(scene.labels):
        rows = scene.labels == label
        distance[rows] = DISTANCES[CLASSES[label]](u[rows], v[rows])
    coverage = np.clip(0.5 - distance * size * (resolution / 2), 0, 1)
    blend = _texture(scene, u, v, resolution)
    inside = scene.colours[:, 0, :, None, None] * (1 - blend[:, None]) + scene.colours[:, 1, :, None, None] * blend[:, None]
    outside = _background(scene, px, py, key)
    image = outside + (inside - outside) * coverage[:, None]
    image *= wide(scene.light)[:, None]
    image += (uniform(key ^ 0x5EED, scene.indices, resolution * resolution).reshape(-1, 1, resolution, resolution) - 0.5) * (
        2 * wide(scene.noise)[:, None]
    )
    masks = np.where(coverage >= 0.5, wide(scene.labels + 1), 0).astype(np.uint8)
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8), masks


def _background(scene: _Scene, px: np.ndarray, py: np.ndarray, key: int) -> np.ndarray:
    """Gradient + ripple + value noise, [n, 3, H, W]."""
    along = wide(cosine(scene.ground_turn)) * px[None] + wide(sine(scene.ground_turn)) * py[None]
    mix = np.clip(0.5 + 0.4 * along, 0, 1)[:, None]
    ground = scene.ground[:, 0, :, None, None] * (1 - mix) + scene.ground[:, 1, :, None, None] * mix
    amplitude, period, phase = (wide(column) for column in scene.ground_wave.T)
    shade = amplitude * sine(2 * np.pi * (along / period + phase))
    cells = 7
    lattice = (uniform(key ^ 0x1A77, scene.indices, cells * cells).reshape(-1, cells, cells) - 0.5) * (2 * wide(scene.speckle))
    shade += interpolated(lattice, (py[:, 0] + 1) / 2 * (cells - 1))
    return ground + shade[:, None]


def _texture(scene: _Scene, u: np.ndarray, v: np.ndarray, resolution: int) -> np.ndarray:
    """Share of the second colour at each pixel, [n, H, W], with edges one pixel wide."""
    c, s = wide(cosine(scene.grain)), wide(sine(scene.grain))
    a, b = c * u + s * v, c * v - s * u
    period = wide(scene.period / scene.size)  # the period is relative to the image, so that it does not depend on the object's size
    a, b = a / period + wide(scene.phase[:, 0]), b / period + wide(scene.phase[:, 1])
    sharp = wide(scene.period) * resolution / (2 * np.pi)  # slope that turns a sine's zero crossing into a ramp one pixel wide
    radius = np.sqrt(u * u + v * v) / period + wide(scene.phase[:, 0])
    fields = {
        "striped": lambda r: sine(2 * np.pi * a[r]),
        "checked": lambda r: 1.4 * sine(np.pi * a[r]) * sine(np.pi * b[r]),
        "dotted": lambda r: cosine(2 * np.pi * a[r]) + cosine(2 * np.pi * b[r]) - 0.7,
        "ringed": lambda r: sine(2 * np.pi * radius[r]),
    }
    blend = np.empty_like(u)
    for index, name in enumerate(TEXTURES):
        rows = scene.texture == index
        if name == "plain":  # the second colour is a rim of light towards one side
            blend[rows] = np.clip(0.15 + 0.45 * (a[rows] - wide(mean(a[rows].reshape(-1, resolution**2)))) * period[rows], 0, 0.6)
        else:
            blend[rows] = np.clip(0.5 + fields[name](rows) * sharp[rows], 0, 1)
    return blend


def _caption(scene: _Scene, row: int) -> str:
    """A description of one image: size, texture, colours, shape, position and background."""
    kind = KINDS[scene.labels[row]]
    first, second = KINDS[scene.palette[row]].colours
    size = "small" if scene.size[row] < 0.52 else "large" if scene.size[row] > 0.62 else "medium"
    across = "left" if scene.x[row] < -0.15 else "right" if scene.x[row] > 0.15 else "middle"
    down = "top" if scene.y[row] < -0.15 else "bottom" if scene.y[row] > 0.15 else "centre"
    texture = TEXTURES[scene.texture[row]]
    return f"a {size} {texture} {first} and {second} {kind.name} at the {down} {across} on {COLOURS[scene.ground_name[row]]}"


def _hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """RGB [n, 3] of a hue in sixths of the circle, a saturation and a value."""
    ramps = np.abs((hue[:, None] + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return (value[:, None] * (1 - saturation[:, None] * (1 - np.clip(ramps, 0, 1)))).astype(np.float32)


def _squared(difference: np.ndarray) -> np.ndarray:
    """Squared lengths of [..., 3]."""
    red, green, blue = np.moveaxis(difference * difference, -1, 0)
    return red + green + blue
