"""PSNR, SSIM and LPIPS: closed forms, ceilings, what is refused. ``tests/agreement`` holds them to other implementations."""

from __future__ import annotations

import math

import pytest
import torch

from svgbench.errors import BadData, BadWeights
from svgbench.metrics.perceptual import load_perceptual, perceptual_distance
from svgbench.metrics.pixels import COPY_DB, psnr, signed_ssim, ssim


def pair(count: int = 4, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=generator)
    original = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    noisy = original + 0.05 * torch.randn(original.shape, generator=generator)
    return tuple((x.clamp(0, 1) * 255).round().byte() for x in (noisy, original))


def test_psnr_of_a_known_difference_is_the_closed_form():
    grey = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    assert psnr(grey, grey + 5).item() == pytest.approx(20 * math.log10(255 / 5))


def test_an_exact_copy_has_the_stated_ceiling():
    images, _ = pair()
    assert psnr(images, images).tolist() == [COPY_DB] * 4
    assert ssim(images, images).tolist() == pytest.approx([1.0] * 4)
    assert signed_ssim(images, images).tolist() == pytest.approx([1.0] * 4)


def test_the_two_ranges_of_ssim_are_two_measures():
    """Flat images of one value each, where SSIM is (2 a b + c) / (a^2 + b^2 + c) of the values: an error of 6 around mid-grey."""
    grey = [torch.full((1, 3, 16, 16), value, dtype=torch.uint8) for value in (122, 134)]
    for measure, low, span in ((ssim, 0.0, 1.0), (signed_ssim, -1.0, 2.0)):
        a, b = (value / 255 * span + low for value in (122, 134))
        c = (0.01 * span) ** 2
        assert measure(*grey).item() == pytest.approx((2 * a * b + c) / (a * a + b * b + c), abs=1e-3)
    assert ssim(*grey).item() > 0.99 and signed_ssim(*grey).item() < 0


def test_a_swap_of_colours_is_noticed():
    images, originals = pair()
    assert (psnr(images.flip(1), originals) < psnr(images, originals)).all()
    assert (ssim(images.flip(1), originals) < ssim(images, originals)).all()


def test_images_that_do_not_pair_are_refused():
    images, originals = pair()
    with pytest.raises(BadData, match="do not pair"):
        psnr(images[:2], originals)
    with pytest.raises(BadData, match="uint8"):
        psnr(images / 255, originals / 255)
    with pytest.raises(BadData, match="window"):
        ssim(images[..., :5, :5], originals[..., :5, :5])


def test_lpips_without_its_file_says_which_and_from_where():
    with pytest.raises(BadWeights, match=r"vgg16-397923af.pth \(from https://.*licence BSD-3-Clause\)"):
        load_perceptual("lpips")


def test_perceptual_distance_of_orthogonal_directions_is_two_a_layer():
    a, b = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    a[:, 0], b[:, 1] = 4.0, 0.5
    assert perceptual_distance([a, a], [b, a]).item() == pytest.approx(2.0)
    assert perceptual_distance([a], [b], [torch.tensor([0.5, 0.25])]).item() == pytest.approx(0.75)
