"""The perception heads of the SVG paper (arXiv 2510.15301v4, appendix B): ``scores.paper``, used if ``scores.protocol`` is ``paper``.

Numbers that the appendix does not print are taken from the sources that it cites, or are our choices; ``docs/protocols.md`` lists them.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field, model_validator

from svgbench.config.part import Count, NotNegative, Part, Positive


class PaperProbe(Part):
    """A linear layer on the mean of each latent, trained on random resized crops of the training images."""

    epochs: Count = 30
    """Epochs; each epoch draws a new crop of every image."""
    batch: Count = 3072
    """Crops per update."""
    lr: Positive = 5e-4
    """AdamW's initial learning rate, with cosine decay to zero."""
    weight_decay: NotNegative = 1e-2
    """Decoupled weight decay, multiplied by the learning rate at each update."""
    area: tuple[Positive, Positive] = (0.08, 1.0)
    """Range of a crop's area as a share of the image."""
    checkpoint_images: Count = 1_000_000
    """Crops between two checkpoints."""

    @model_validator(mode="after")
    def _a_range(self) -> PaperProbe:
        if not self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area {list(self.area)} must be in ascending order and at most 1")
        return self


P = TypeVar("P", bound=Part)


def windows_meet(part: P) -> P:
    """The part, unchanged. Raises ValueError if its ``window_stride`` is larger than its ``crop``."""
    fields = dict(part)
    if fields["window_stride"] > fields["crop"]:
        raise ValueError(f"window_stride {fields['window_stride']} leaves gaps between windows of crop {fields['crop']}")
    return part


class PaperSegmentation(Part):
    """mmsegmentation's FPNHead with the latent as its only scale, trained with VPD's short schedule (Zhao et al., ICCV 2023)."""

    total_images: Count = 128_000
    """Crops seen in training, counted with repetition: 8,000 updates of 16."""
    batch: Count = 16
    """Crops per update."""
    lr: Positive = 8e-5
    """AdamW's learning rate after the warm-up; a polynomial schedule then lowers it."""
    least_lr: NotNegative = 1e-6
    """Learning rate at the end."""
    power: Positive = 0.9
    """Exponent of the polynomial."""
    lr_warmup_images: Annotated[int, Field(ge=0)] = 24_000
    """Crops over which the learning rate rises linearly: 1,500 updates of 16."""
    weight_decay: NotNegative = 1e-3
    """Decoupled weight decay, multiplied by the learning rate at each update."""
    crop: Count = 512
    """Side in pixels of training crops and of evaluation windows, and the short side of an image at scale 1."""
    window_stride: Count = 341
    """Pixels between two evaluation windows."""
    resize: tuple[Positive, Positive] = (0.5, 2.0)
    """Range of the random image scale in training."""
    width: Count = 256
    """Channels of the head's hidden layer."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Probability that a hidden channel is set to zero in training."""
    checkpoint_images: Count = 16_000
    """Crops between two checkpoints."""

    _windows_meet = model_validator(mode="after")(windows_meet)

    @model_validator(mode="after")
    def _a_range(self) -> PaperSegmentation:
        if self.resize[0] > self.resize[1]:
            raise ValueError(f"resize {list(self.resize)} must be in ascending order")
        return self


class PaperDepth(Part):
    """The depth head of Xie et al. (arXiv 2205.13543): transposed convolutions, then convolutions at the size of the image."""

    epochs: Count = 25
    """Epochs; each epoch draws a new crop of every image."""
    batch: Count = 24
    """Crops per update."""
    lr: Positive = 5e-4
    """AdamW's largest learning rate, reached half way through the training."""
    least_lr: NotNegative = 3e-5
    """Learning rate at the beginning and at the end."""
    power: Positive = 0.9
    """Exponent with which the learning rate rises and falls."""
    weight_decay: NotNegative = 5e-2
    """Decoupled weight decay of weights (not of biases and norms), multiplied by the learning rate at each update."""
    crop: Count = 480
    """Side in pixels of training crops and of evaluation windows."""
    window_stride: Count = 160
    """Pixels between two evaluation windows."""
    filters: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)] = (32, 32, 32)
    """Channels of each transposed convolution, which doubles the sides; fewer are built if the encoder's stride has fewer factors of 2."""
    width: Count = 128
    """Channels of the convolutions after them."""
    checkpoint_images: Count = 24_000
    """Crops between two checkpoints."""

    _windows_meet = model_validator(mode="after")(windows_meet)


class PaperHeads(Part):
    """The paper's perception heads; used if ``scores.protocol`` is ``paper``."""

    linear: PaperProbe = PaperProbe()
    """Classification of the run's own images."""
    fpn: PaperSegmentation = PaperSegmentation()
    """Segmentation on the folder ``scores.segmentation.source``; the number of classes is ``scores.segmentation.head.classes``."""
    deconv: PaperDepth = PaperDepth()
    """Depth on the folder ``scores.depth.source``; range and border are those of ``scores.depth.head``."""
