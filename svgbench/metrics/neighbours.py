"""k-nearest-neighbour classification of frozen latents.

Protocol (DINO, arXiv 2104.14294, and facebookresearch/dinov3 eval/knn.py): cosine similarity of pooled latents, the k nearest training
images (20) each vote for their class with weight exp(similarity / 0.07), and the class with the largest weight wins. Nothing is trained or
selected. All pairs are compared block by block, so memory does not grow with the number of images. Limit: it ignores directions of small
variance, which a trained head can use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from svgbench.errors import BadData
from svgbench.machine.checkpoints import Steps
from svgbench.metrics import vectors

TEMPERATURE = 0.07


@torch.no_grad()
def knn(
    train_x: Tensor,
    train_y: Tensor,
    val_x: Tensor,
    val_y: Tensor,
    neighbours: int = 20,
    *,
    classes: int | None = None,
    device: torch.device | None = None,
    block: int = 1024,
    train_block: int = vectors.BLOCK,
    steps: Steps = Steps(None),
) -> Tensor:
    """Whether the weighted vote of the nearest training vectors predicts each validation image's class: [M] bool on the CPU.

    ``block`` validation and ``train_block`` training images are compared at once; ``device``: where they are compared, by default that of
    ``train_x``; ``steps``: where the nearest neighbours so far are saved, so that a stopped pass resumes.
    """
    device = device or train_x.device
    classes = vectors.check(train_x, train_y, val_x, val_y, classes, device)
    if neighbours > len(train_x):
        raise BadData(f"{neighbours} neighbours cannot be found among {len(train_x)} training images; lower scores.probe.neighbours.")
    near: list[tuple[Tensor, Tensor]] = []
    start, known = 0, steps.last()
    if known is not None:
        start, saved = known.images_seen, (known.parts["tensors"][name].to(device) for name in ("similarity", "index"))
        near = list(zip(*(whole.split(block) for whole in saved), strict=True))
    for train in vectors.blocks(train_x[start:], device, train_block) if start < len(train_x) else ():
        unit = F.normalize(train, dim=1).T
        for number, x in enumerate(vectors.blocks(val_x, device, block)):
            cosines, index = (F.normalize(x, dim=1) @ unit).topk(min(neighbours, len(train)), 1)
            index += start
            if start == 0:
                near.append((cosines, index))
            else:
                near[number] = _nearest(near[number], (cosines, index), neighbours)
        start += len(train)
        steps.save(start, lambda: (dict(zip(("similarity", "index"), map(torch.cat, zip(*near, strict=True)), strict=True)), {}))
    labels, truth = train_y.to(device), val_y.to(device)
    right = []
    for (similarity, index), y in zip(near, truth.split(block), strict=True):
        votes = torch.zeros(len(y), classes, device=device).scatter_add_(1, labels[index], ((similarity - 1) / TEMPERATURE).exp())
        right.append(votes.argmax(1) == y)
    return torch.cat(right).cpu()


def _nearest(known: tuple[Tensor, Tensor], more: tuple[Tensor, Tensor], neighbours: int) -> tuple[Tensor, Tensor]:
    """The nearest neighbours from two sets of (similarities, indices), each [B, up to k]."""
    similarity, index = (torch.cat(pair, 1) for pair in zip(known, more, strict=True))
    best, place = similarity.topk(min(neighbours, similarity.shape[1]), 1)
    return best, index.gather(1, place)
