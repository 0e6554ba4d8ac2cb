"""mIoU by the SVG paper's protocol (arXiv 2510.15301v4, appendix B): mmsegmentation's FPNHead on the latent as its only scale.

The settings follow VPD (Zhao et al., ICCV 2023; wl-zhao/VPD, segmentation/configs):

- Head: a 3x3 convolution to 256 channels, batch norm over the full batch, ReLU, a tenth of the channels dropped, a 1x1 convolution to the
  classes.
- Training: crops of 512 px from images resized to 0.5 to 2 times 512, mirrored half of the time, with mmsegmentation's photometric
  distortion. Cross-entropy at the crop's size, divided by the number of all pixels. AdamW: learning rate 8e-5, weight decay 1e-3 on all
  parameters, 8,000 updates of 16 images, polynomial decay (power 0.9) to 1e-6 times a linear warm-up over 1,500 updates.
- Validation as in ``stages.segmentation``: windows of 512 px every 341 px, logits averaged.

The appendix does not state batch, width, dropout and colour augmentation; they are VPD's. Using no neck is our choice. Scores are never
ranked with those of the linear head of ``scores.protocol: dinov3``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from svgbench.config.networks import Optimiser, Training
from svgbench.config.paper_heads import PaperSegmentation
from svgbench.images.crops import photometric_distortion
from svgbench.machine.runtime import Runtime
from svgbench.nets.paper_heads import FpnHead
from svgbench.stages.dense import DeepHeadsTask, HowTrained
from svgbench.stages.segmentation import Frame, pixel_cross_entropy, score_folder

WARMUP_RATIO = 1e-6
"""The warm-up starts at this share of the learning rate (VPD)."""
HUE = 0.1
"""Largest change of the hue in training, as a share of the colour circle (mmsegmentation: 18 of 180)."""


def folder(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """mIoU and mAcc on a folder of images with masks: features, residual, both. Runs on all ranks; writes the heads."""
    part, seed = slice_["scores"], slice_["seed"]
    head, classes = PaperSegmentation.model_validate(part["paper"]["fpn"]), part["segmentation"]["head"]["classes"]
    optimiser = Optimiser(lr=head.lr, weight_decay=head.weight_decay)
    training = Training(
        total_images=head.total_images, batch=head.batch, checkpoint_images=head.checkpoint_images, optimiser=optimiser
    )  # fmt: skip
    return score_folder(
        slice_, inputs, out, runtime, Frame(classes, head.crop, head.window_stride, head.resize),
        HowTrained(training, head.dropout, partial(rate, head), DeepHeadsTask),
        make=lambda channels, stride: FpnHead(channels, classes, width=head.width, seed=seed), measure="paper-seg-fpn-slide",
        used=head.model_dump(mode="json", exclude={"checkpoint_images"}), distort=partial(photometric_distortion, turn=HUE),
        loss=partial(pixel_cross_entropy, every=True),
    )  # fmt: skip


def rate(head: PaperSegmentation, images_seen: int) -> float:
    """The learning rate of the update that ends at ``images_seen``: mmcv's ``poly`` schedule by iterations, times its linear warm-up."""
    before = max(images_seen - head.batch, 0)
    poly = head.least_lr + (head.lr - head.least_lr) * (1 - before / head.total_images) ** head.power
    if before >= head.lr_warmup_images:
        return poly
    return poly * (1 - (1 - before / head.lr_warmup_images) * (1 - WARMUP_RATIO))
