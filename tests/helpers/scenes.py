"""Small dense sets drawn for tests: coloured blocks whose colour is their class, or their distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = np.array([[230, 30, 30], [30, 200, 30], [40, 40, 230], [220, 220, 40]], np.uint8)


def blocks(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Classes 0 to 3 [H, W] in blocks of 12 px."""
    cells = generator.integers(0, 4, (height // 12 + 1, width // 12 + 1))
    return np.kron(cells, np.ones((12, 12), np.int64))[:height, :width]


def picture(classes: np.ndarray, generator: np.random.Generator) -> Image.Image:
    return Image.fromarray((COLOURS[classes] * 0.8 + generator.integers(0, 40, (*classes.shape, 3))).astype(np.uint8))


def ade20k(root: Path, *, training: int = 6, validation: int = 4, sides: tuple[int, int] = (40, 70)) -> Path:
    """A folder as ADE20K lies on disk, four classes, a stripe of unlabelled pixels on top."""
    generator = np.random.default_rng(0)
    for split, count in (("training", training), ("validation", validation)):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations" / split).mkdir(parents=True)
        for number in range(count):
            height, width = generator.integers(*sides, 2)
            classes = blocks(generator, height, width)
            picture(classes, generator).save(root / "images" / split / f"ADE_{split}_{number:08d}.jpg", quality=95)
            mask = (classes + 1).astype(np.uint8)
            mask[:3] = 0
            Image.fromarray(mask).save(root / "annotations" / split / f"ADE_{split}_{number:08d}.png")
    return root


def nyu(root: Path, *, training: int = 6, validation: int = 4, height: int = 48, width: int = 64) -> Path:
    """A folder of images with depth maps in millimetres, a column of unknown depths on the left."""
    generator = np.random.default_rng(1)
    for split, count in (("training", training), ("validation", validation)):
        (root / "images" / split).mkdir(parents=True)
        (root / "depth" / split).mkdir(parents=True)
        for number in range(count):
            classes = blocks(generator, height, width)
            picture(classes, generator).save(root / "images" / split / f"{number:04d}.png")
            depth = ((classes + 1) * 1500 + generator.integers(0, 100, classes.shape)).astype(np.uint16)
            depth[:, 0] = 0
            Image.fromarray(depth).save(root / "depth" / split / f"{number:04d}.png")
    return root
