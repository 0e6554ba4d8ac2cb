"""Figures of the neighbours of latents: how many share the class, and how distances in latents and in pixels agree.

Protocol: Euclidean distances of whole standardised latents, float64, all pairs; an image is not its own neighbour.

- Neighbours of the own class (latent neighbour consistency, arXiv 2606.03578, which first keeps the foreground by masks; here the whole
  latent counts): the share of an image's k nearest neighbours that have its class, the mean over images.
- Local continuity: for each image, the distance to its nearest neighbour in latents and the distance of the same two images in pixels;
  their rank correlation (Spearman 1904) over images. It asks whether a short step in latents is a short step in pixels.

Limit: distances of many dimensions concentrate, so both depend on the number of images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svgbench.errors import BadData

BLOCK = 512
"""Rows of distances that are computed at once."""


def distances(vectors: Tensor) -> Tensor:
    """Euclidean distances [N, N] float64 between vectors [N, D]; infinite on the diagonal. Raises BadData for fewer than two vectors, or
    values that are not finite."""
    if len(vectors) < 2:
        raise BadData(f"{len(vectors)} latent has no neighbour; give two images or more.")
    if not bool(vectors.isfinite().all()):
        raise BadData("latents hold NaN or infinity, so they have no neighbours; encode the images again.")
    flat = vectors.double()
    squares = flat.square().sum(1)
    rows = [squares[i : i + BLOCK, None] + squares[None] - 2 * flat[i : i + BLOCK] @ flat.T for i in range(0, len(flat), BLOCK)]
    return torch.cat(rows).clamp_min_(0).sqrt_().fill_diagonal_(float("inf"))


def nearest(apart: Tensor, count: int) -> Tensor:
    """Indices [N, count] of the nearest others, by distances [N, N]; of equal distances the lower index comes first."""
    if not 0 < count < len(apart):
        raise BadData(f"{count} neighbours cannot be found among {len(apart)} images; give more images.")
    return apart.argsort(dim=1, stable=True)[:, :count]


def neighbour_shares(apart: Tensor, labels: Tensor, count: int) -> Tensor:
    """For each image the share [N] of its nearest neighbours, by distances [N, N], that have its label [N]. Raises BadData for one
    class."""
    if len(labels.unique()) < 2:
        raise BadData("all images have one class, so neighbours cannot differ; give two classes or more.")
    return (labels[nearest(apart, count)] == labels[:, None]).double().mean(1)


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's correlation of x [N] and y [N]; equal values share their mean rank. Raises BadData if one of them is constant."""
    first, second = (_ranks(values) for values in (x, y))
    first, second = first - first.mean(), second - second.mean()
    size = (first.square().sum() * second.square().sum()).sqrt()
    if not size > 0:
        raise BadData("all distances are equal, so they have no order to compare; give other images.")
    return (first @ second / size).item()


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks [N] float64 of values [N]."""
    _, inverse, counts = values.double().unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[inverse]


def steps(apart: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the distance [N] to its nearest neighbour, by distances [N, N], and the root mean square difference [N] of the two
    images, from pixels [N, 3, H, W] uint8 scaled to [0, 1]."""
    if len(pixels) != len(apart):
        raise BadData(f"{len(pixels)} images do not pair with {len(apart)} latents; give each image its latent.")
    index = nearest(apart, 1)[:, 0]
    parts = zip(pixels.split(BLOCK), index.split(BLOCK), strict=True)
    far = [(part.double() - pixels[near].double()).flatten(1).square().mean(1).sqrt() / 255 for part, near in parts]
    return apart.gather(1, index[:, None])[:, 0], torch.cat(far)
