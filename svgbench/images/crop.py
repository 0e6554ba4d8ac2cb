"""From the bytes of a picture to a square of pixels: the ADM centre crop. No torch."""

from __future__ import annotations

from contextlib import nullcontext
from threading import Lock

import numpy as np
from PIL import Image

from svgbench.images.decode import UNREADABLE, check_size, opened, reason, to_rgb

LARGE = 2**25
"""Pixels of a picture above which threads decode one after the other, so that memory holds one such picture and not one a thread."""
_ONE_AT_A_TIME = Lock()


def centre_crop(image: Image.Image, resolution: int) -> np.ndarray:
    """ADM's crop, uint8 [H, W, 3]: halve by boxes while the short side is twice too long, bicubic to ``resolution``, cut the middle.

    The protocol of guided-diffusion, DiT and SiT; EXIF rotation is not applied there, so it is not here.
    """
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), resample=Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), resample=Image.Resampling.BICUBIC)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    return np.asarray(image.crop((left, top, left + resolution, top + resolution)))


def read_image(content: bytes, resolution: int) -> np.ndarray | str:
    """The cropped picture uint8 [3, H, W], or in words why its bytes cannot be read."""
    if not content:
        return "is empty"
    try:
        with opened(content) as image, _ONE_AT_A_TIME if image.width * image.height > LARGE else nullcontext():
            check_size(image.size, resolution)
            return np.ascontiguousarray(centre_crop(to_rgb(image), resolution).transpose(2, 0, 1))
    except UNREADABLE as error:
        return reason(error)
