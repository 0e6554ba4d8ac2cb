"""The ADM centre crop: from the bytes of an image file to a square of pixels. No torch."""

from __future__ import annotations

from contextlib import nullcontext
from threading import Lock

import numpy as np
from PIL import Image

from svgbench.images.decode import UNREADABLE, check_size, open_image, reason, to_rgb

LARGE = 2**25
"""Images with more pixels are decoded one at a time, so that memory holds one of them instead of one per thread."""
_ONE_AT_A_TIME = Lock()


def centre_crop(image: Image.Image, resolution: int) -> np.ndarray:
    """ADM's centre crop, uint8 [resolution, resolution, 3], of an RGB image.

    The image is halved by box filtering while its short side is at least twice ``resolution``, resized bicubically, and cut in the middle.
    This is the protocol of guided-diffusion, DiT and SiT. They do not apply EXIF rotation, so it is not applied here either.
    """
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), resample=Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), resample=Image.Resampling.BICUBIC)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    return np.asarray(image.crop((left, top, left + resolution, top + resolution)))


def read_image(content: bytes, resolution: int) -> np.ndarray | str:
    """The cropped image, uint8 [3, resolution, resolution], or the reason (a string) why its bytes cannot be read."""
    if not content:
        return "is empty"
    try:
        with open_image(content) as image, _ONE_AT_A_TIME if image.width * image.height > LARGE else nullcontext():
            check_size(image.size, resolution)
            return np.ascontiguousarray(centre_crop(to_rgb(image), resolution).transpose(2, 0, 1))
    except UNREADABLE as error:
        return reason(error)
