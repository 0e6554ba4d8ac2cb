"""PSNR and SSIM against torchmetrics, LPIPS against the package lpips."""

from __future__ import annotations

import math

import pytest
import torch

from svgbench.errors import BadData, BadWeights
from svgbench.metrics.perceptual import load_perceptual, perceptual_distance
from svgbench.metrics.pixels import COPY_DB, psnr, ssim


def pair(count: int = 4, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=generator)
    original = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    noisy = original + 0.05 * torch.randn(original.shape, generator=generator)
    return tuple((x.clamp(0, 1) * 255).round().byte() for x in (noisy, original))


def test_psnr_equals_torchmetrics_and_the_closed_form():
    from torchmetrics.functional.image import peak_signal_noise_ratio

    images, originals = pair()
    expected = peak_signal_noise_ratio(images / 255, originals / 255, data_range=1.0, dim=(1, 2, 3), reduction="none")
    torch.testing.assert_close(psnr(images, originals).float(), expected, rtol=1e-5, atol=1e-5)
    grey = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    assert psnr(grey, grey + 5).item() == pytest.approx(20 * math.log10(255 / 5))


def test_an_exact_copy_has_the_stated_ceiling():
    images, _ = pair()
    assert psnr(images, images).tolist() == [COPY_DB] * 4
    assert ssim(images, images).tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("size", [16, 32])
def test_ssim_equals_torchmetrics(size):
    from torchmetrics.functional.image import structural_similarity_index_measure

    images, originals = pair(size=size)
    expected = structural_similarity_index_measure(images / 255, originals / 255, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(images, originals).float(), expected, rtol=1e-4, atol=1e-5)


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


def test_lpips_equals_the_package_on_the_same_weights(tmp_path):
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    oracle = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    trunk = {}
    for name, value in oracle.net.state_dict().items():
        trunk[f"features.{name.split('.', 1)[1]}"] = value
    trunk["classifier.0.weight"] = torch.zeros(2, 2)
    torch.save(trunk, tmp_path / "vgg.pth")
    images, originals = pair(count=2)
    with torch.no_grad():
        expected = oracle(images / 127.5 - 1, originals / 127.5 - 1).flatten()
    found = load_perceptual("lpips", tmp_path / "vgg.pth")(images, originals)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-7)


def test_lpips_without_its_file_says_which_and_from_where():
    with pytest.raises(BadWeights, match=r"vgg16-397923af.pth \(from https://.*licence BSD-3-Clause\)"):
        load_perceptual("lpips")


def test_perceptual_distance_of_orthogonal_directions_is_two_a_layer():
    a, b = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    a[:, 0], b[:, 1] = 4.0, 0.5
    assert perceptual_distance([a, a], [b, a]).item() == pytest.approx(2.0)
    assert perceptual_distance([a], [b], [torch.tensor([0.5, 0.25])]).item() == pytest.approx(0.75)
