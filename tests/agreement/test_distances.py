"""Distances on the same features or the same pairs of images, by scipy, torchmetrics and the package lpips.

Bounds. Frechet against scipy's matrix square root: 1e-8 where covariances have full rank; 1e-6 of the covariances' traces where there are
fewer images than features, for the square root of a singular matrix is good to half of the digits. PSNR and SSIM: 1e-5 and 1e-4, float32
there. LPIPS: 1e-4, both in float32 with sums in another order.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measured import agrees

from svgbench.metrics.frechet import Gaussian, Moments, frechet_distance
from svgbench.metrics.perceptual import load_perceptual
from svgbench.metrics.pixels import psnr, signed_ssim, ssim
from svgbench.nets.draws import normal


def features(count: int, width: int, seed: int) -> torch.Tensor:
    """Correlated features with a mean, [count, width]."""
    mix = normal(7, torch.arange(width), (width,)) / width**0.5
    return normal(seed, torch.arange(count), (width,)) @ mix + 0.1 * seed


def gaussian(x: torch.Tensor) -> Gaussian:
    return Moments.empty(x.shape[1]).add(x).gaussian()


def by_scipy(x: torch.Tensor, y: torch.Tensor) -> float:
    """The distance as its equation is written, with a square root of the product of covariances."""
    from scipy.linalg import sqrtm

    x, y = x.double().numpy(), y.double().numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    overlap = np.trace(sqrtm(first @ second)).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * overlap)


@pytest.mark.parametrize("width", [8, 128, 400])
def test_the_frechet_distance_is_that_of_scipys_matrix_square_root(width):
    x, y = features(3 * width, width, 1), 1.2 * features(2 * width, width, 2)
    agrees("frechet", frechet_distance(gaussian(x), gaussian(y)), by_scipy(x, y), against="scipy sqrtm", rel=1e-8)


def test_the_frechet_distance_of_fewer_images_than_features_is_that_of_scipys_matrix_square_root():
    x, y = features(40, 100, 1), 1.2 * features(60, 100, 2)
    one, two = gaussian(x), gaussian(y)
    off = 1e-6 * (one.covariance.trace() + two.covariance.trace()).item()
    agrees("frechet", frechet_distance(one, two), by_scipy(x, y), against="scipy sqrtm", off=off)


def pairs(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images beside their originals, uint8 [N, 3, size, size]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=generator)
    original = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    noisy = original + 0.05 * torch.randn(original.shape, generator=generator)
    return tuple((x.clamp(0, 1) * 255).round().byte() for x in (noisy, original))


def each(metric: str, ours: torch.Tensor, theirs: torch.Tensor, *, against: str, rel: float) -> None:
    """Holds the numbers of all images to another implementation's, and notes their means."""
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=rel, atol=0)
    agrees(metric, ours.double().mean().item(), theirs.double().mean().item(), against=against, rel=rel)


@pytest.mark.parametrize("size", [16, 32, 100])
def test_psnr_and_ssim_are_torchmetrics(size):
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    images, originals = pairs(4, size)
    wanted = peak_signal_noise_ratio(images / 255, originals / 255, data_range=1.0, dim=(1, 2, 3), reduction="none")
    each("psnr", psnr(images, originals), wanted, against="torchmetrics", rel=1e-5)
    wanted = structural_similarity_index_measure(images / 255, originals / 255, data_range=1.0, reduction="none")
    each("ssim", ssim(images, originals), wanted, against="torchmetrics", rel=1e-4)
    wide = [x / 127.5 - 1 for x in (images, originals)]
    wanted = structural_similarity_index_measure(*wide, data_range=(-1.0, 1.0), reduction="none")
    each("ssim_signed", signed_ssim(images, originals), wanted, against="torchmetrics", rel=1e-4)


@pytest.mark.parametrize("size", [32, 64])
def test_lpips_is_the_package_s_on_the_same_weights(tmp_path, size):
    import lpips

    torch.manual_seed(0)
    oracle = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    trunk = {f"features.{name.split('.', 1)[1]}": value for name, value in oracle.net.state_dict().items()}
    torch.save({**trunk, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg.pth")
    images, originals = pairs(2, size)
    with torch.no_grad():
        wanted = oracle(images / 127.5 - 1, originals / 127.5 - 1).flatten()
    found = load_perceptual("lpips", tmp_path / "vgg.pth")(images, originals)
    each("lpips", found, wanted, against="the package lpips", rel=1e-4)
