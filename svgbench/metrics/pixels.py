"""Pixel-wise similarity of a reconstruction and its original: PSNR in dB and SSIM.

Protocol: uint8 images of the validation set at the benchmark's size against their reconstructions, computed per image and then averaged.
PSNR: 10 log10(255^2 / mean squared error over all channels); an exact copy counts as 120 dB, since the true value is infinite. SSIM (Wang
et al. 2004): Gaussian window of 11 px and standard deviation 1.5, K = (0.01, 0.03), each RGB channel by itself, edges reflected; equal to
torchmetrics' defaults. ``signed_ssim`` is the same formula on pixels in [-1, 1], clamped but not shifted to [0, 1], with a range of 2 in
its constants, as in the published SSIM of VA-VAE and SVG (torchmetrics with ``data_range=(-1.0, 1.0)`` in LightningDiT's
``evaluate_tokenizer.py``, on the decoder's floats instead of rounded pixels). In this range a mean near 0 is mid-grey, so a small colour
error costs more: the two measures differ. Limits: neither measures perceptual quality. Blur raises PSNR; the mean of PSNRs is not the PSNR
of the mean error.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from svgbench.errors import BadData

COPY_DB = 120.0
WINDOW, SPREAD = 11, 1.5


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """PSNR in dB of each image [B] float64, from two uint8 [B, 3, H, W]."""
    _check_pair(images, originals)
    difference = images.long() - originals.long()
    error = (difference * difference).flatten(1).double().mean(1)
    return torch.where(error > 0, 10 * torch.log10(255.0**2 / error), torch.full_like(error, COPY_DB)).clamp_max(COPY_DB)


def ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity of each image [B] float64 in [-1, 1], from two uint8 [B, 3, H, W] scaled to [0, 1]."""
    return _similarity(images, originals, low=0.0, span=1.0)


def signed_ssim(images: Tensor, originals: Tensor) -> Tensor:
    """The same for pixels scaled to [-1, 1]: [B] float64 in [-1, 1], from two uint8 [B, 3, H, W]."""
    return _similarity(images, originals, low=-1.0, span=2.0)


def _similarity(images: Tensor, originals: Tensor, *, low: float, span: float) -> Tensor:
    """Structural similarity of pixels from ``low`` to ``low + span``."""
    _check_pair(images, originals)
    if min(images.shape[2:]) <= WINDOW // 2:
        raise BadData(f"SSIM's window of {WINDOW} px needs images above {WINDOW // 2} px, not {images.shape[2]} x {images.shape[3]}.")
    x, y = (z.float() / 255 * span + low for z in (images, originals))
    x, y = (F.pad(z, (WINDOW // 2,) * 4, mode="reflect") for z in (x, y))
    stack = _blur(torch.cat([x, y, x * x, y * y, x * y]))
    mean_x, mean_y, square_x, square_y, product = stack.chunk(5)
    variance_x, variance_y = (square_x - mean_x**2).clamp_min(0), (square_y - mean_y**2).clamp_min(0)
    covariance = product - mean_x * mean_y
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (top / bottom).flatten(1).double().mean(1)


def _blur(images: Tensor) -> Tensor:
    """Gaussian blur of [B, C, H, W] without padding, one axis after the other."""
    offsets = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    window = torch.exp(-((offsets / SPREAD) ** 2) / 2)
    window = (window / window.sum()).repeat(images.shape[1], 1, 1, 1)
    images = F.conv2d(images, window.transpose(2, 3), groups=images.shape[1])
    return F.conv2d(images, window, groups=images.shape[1])


def _check_pair(images: Tensor, originals: Tensor) -> None:
    """Raises BadData unless both are uint8 batches of the same shape."""
    if images.shape != originals.shape or images.ndim != 4:
        raise BadData(f"images {list(images.shape)} and originals {list(originals.shape)} do not pair; both must be [B, 3, H, W].")
    if images.dtype != torch.uint8 or originals.dtype != torch.uint8:
        raise BadData(f"pixels are compared as uint8, not {images.dtype} and {originals.dtype}; round them first.")
