"""The parts of a configuration that say how a run is judged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from svgbench.config.part import Count, Part, Positive


class Probe(Part):
    """Linear probe, kNN and logistic regression on mean-pooled frozen latents."""

    epochs: Count = 30
    batch: Count = 256
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """Trained side by side; the best on a held-out tenth of the training images is reported on the validation images."""
    neighbours: Count = 20
    train_images: Count | None = None
    """The first so many training images; all when empty."""
    logreg_c: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-3, 1e-2, 1e-1, 1.0)
    """Strengths of logistic regression as scikit-learn counts them (larger fits closer); the best on the held-out tenth is fitted again."""
    logreg_iterations: Count = 1000
    """Most iterations of L-BFGS for each C."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """In which pooled latents are stored; sums and moments are float64 in both."""


class Segmentation(Part):
    """Linear head (BN + 1x1) on frozen latents."""

    enabled: bool = True
    epochs: Count = 10
    batch: Count = 32
    lr: Positive = 1e-2
    train_images: Count | None = None


class Scores(Part):
    """Metrics and their protocols."""

    extractor: str = "inception"
    """Features of FID, sFID, IS, KID, precision and recall: ``inception`` (needs its weights file), ``shapes-cnn``, ``dinov2-vit-l-14``."""
    extractor_weights: str | None = None
    second_extractor: str | None = None
    """Another network whose Frechet distance of the samples is scored beside: ``dinov2-vit-l-14`` gives ``fd_dinov2``; none when empty."""
    second_extractor_weights: str | None = None
    reference: str | None = None
    """What samples are held against in place of the training images: an ADM ``.npz`` of statistics, an ``.npz`` or a folder of images, an
    ``images`` artifact of our store. Statistics are of the first extractor; the second then stays with the training images."""
    perceptual: Literal["lpips", "shapes-lpips"] = "lpips"
    """Distance of reconstructions to originals: LPIPS (left out, with a dash, without its weights file) or that of the small network."""
    lpips_weights: str | None = None
    """VGG16 weights file of LPIPS."""
    neighbours: Count = 3
    """k of precision and recall."""
    resamples: Annotated[int, Field(ge=0, le=10_000)] = 50
    """Bootstrap resamples behind each interval."""
    probe: Probe = Probe()
    segmentation: Segmentation = Segmentation()

    @model_validator(mode="after")
    def _two_extractors(self) -> Scores:
        if self.second_extractor == self.extractor:
            raise ValueError(f"second_extractor '{self.extractor}' is the first one; name another or leave it empty")
        if self.second_extractor is None and self.second_extractor_weights is not None:
            raise ValueError("second_extractor_weights needs second_extractor; name the network that the file is of")
        return self
