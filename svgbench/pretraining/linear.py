"""How much of an image's pixels a linear map finds in an encoder's features, alone and with the best few more numbers a token.

Protocol: ridge regression from the standardised features of all tokens of an image to its pixels in [0, 1], with a penalty of
``NOISE``^2 for each training image, which is the same as noise of that deviation on each standardised feature. Predictions are clipped to
[0, 1]. The best k linear numbers of a token are the k leading principal components of what the map leaves of a patch's pixels on the
training images: no other k linear numbers of the patch leave less. PSNR in dB is the mean over test images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE = 0.2


class LinearPsnr(NamedTuple):
    """PSNR in dB from the features alone, and with the best linear numbers of each patch added."""

    alone: float
    more: float


def linear_psnr(train: Tensor, train_images: Tensor, test: Tensor, test_images: Tensor, *, stride: int, more: int = 8) -> LinearPsnr:
    """``train``, ``test``: features [n, C, h, w] of the images uint8 [n, 3, H, W]; ``stride``: pixels of a patch's side."""
    mean, spread = train.flatten(1).mean(0), train.flatten(1).std(0) + 1e-6

    def rows(features: Tensor) -> Tensor:
        flat = (features.flatten(1) - mean) / spread
        return torch.cat([flat, torch.ones(len(flat), 1)], 1)

    def patches(images: Tensor) -> Tensor:
        return F.unfold(images.float() / 255, stride, stride=stride).transpose(1, 2)

    x, y, test_x, test_y = rows(train), patches(train_images), rows(test), patches(test_images)
    gram = x.T @ x + NOISE**2 * len(x) * torch.eye(x.shape[1])
    weights = torch.cholesky_solve(x.T @ y.flatten(1), torch.linalg.cholesky(gram))
    left = (y - (x @ weights).clamp(0, 1).view_as(y)).flatten(0, 1).double()
    directions = torch.linalg.eigh(left.T @ left).eigenvectors[:, -more:].float()
    rest = test_y - (test_x @ weights).clamp(0, 1).view_as(test_y)
    return LinearPsnr(_psnr(rest), _psnr(rest - (rest @ directions) @ directions.T))


def _psnr(errors: Tensor) -> float:
    """Mean PSNR of errors [n, patches, pixels]."""
    return -10 * errors.square().mean((1, 2)).log10().mean().item()
