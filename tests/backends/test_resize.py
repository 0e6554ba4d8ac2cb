"""How an encoder's pixels are resized is the card's word."""

import torch
import torch.nn.functional as F

from svgbench.backends.open import open_encoder
from svgbench.config import cards


def _seen(antialias):
    """What the network sees of an image with an edge, by a small DINOv2 at 14/16."""
    card = cards.find("dinov2-tiny", "tiny")
    pixels = card.pixels.model_copy(update={"scale": "1/2", "antialias": antialias})
    encoder = open_encoder(card.model_copy(update={"stride": 16, "pixels": pixels}), random_weights_seed=0)
    caught = []
    encoder.network.encode = lambda x: (caught.append(x), torch.zeros(len(x), 96, 4, 4))[1]
    image = torch.zeros(1, 3, 64, 64)
    image[..., 30:] = 1
    encoder.encode(image)
    return image, caught[0][:1] * encoder.std + encoder.mean


def test_rae_s_resize_neither_smooths_nor_clips():
    image, seen = _seen(False)
    plain = F.interpolate(image, size=(32, 32), mode="bicubic", align_corners=False)
    assert torch.allclose(seen, plain, atol=1e-6) and (seen.max() > 1.01 or seen.min() < -0.01)


def test_the_others_do_both():
    image, seen = _seen(True)
    smooth = F.interpolate(image, size=(32, 32), mode="bicubic", antialias=True, align_corners=False)
    assert torch.allclose(seen, smooth.clamp(0, 1), atol=1e-6)
    assert seen.min() >= -1e-6 and seen.max() <= 1 + 1e-6
