"""From the bytes of a picture to a square of pixels: PIL's decoding, RGB, and the ADM centre crop. No torch."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, MemoryError, Image.DecompressionBombError
)  # fmt: skip
"""What PIL raises on bad bytes."""


def centre_crop(image: Image.Image, resolution: int) -> np.ndarray:
    """ADM's crop, uint8 [H, W, 3]: halve by boxes while the short side is twice too long, bicubic to ``resolution``, cut the middle.

    The protocol of guided-diffusion, DiT and SiT; EXIF rotation is not applied there, so it is not here.
    """
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), resample=Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), resample=Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - resolution) // 2, (pixels.shape[1] - resolution) // 2
    return pixels[top : top + resolution, left : left + resolution]


def read_image(content: bytes, resolution: int) -> np.ndarray | str:
    """The cropped picture uint8 [3, H, W], or in words why its bytes cannot be read."""
    if not content:
        return "is empty"
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.ascontiguousarray(centre_crop(to_rgb(image), resolution).transpose(2, 0, 1))
    except UNREADABLE as error:
        return reason(error)


def to_rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits; 16-bit grey by its upper byte, where PIL's own conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    grey = np.asarray(image).astype(np.int64)
    return Image.fromarray((grey >> 8 if grey.max() > 255 else grey).clip(0, 255).astype(np.uint8)).convert("RGB")


def reason(error: Exception) -> str:
    """An error's first line without the places in memory that PIL puts into it; its kind where it says nothing."""
    if isinstance(error, Image.DecompressionBombError):
        return "has more pixels than any photograph"
    said = re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error)).strip()
    return said.splitlines()[0][:120] if said else type(error).__name__
