"""The parts of a configuration that say how a run is judged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from svgbench.config.part import Count, NotNegative, Part, Positive, Share


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


class HeadTraining(Part):
    """How a linear head is trained on crops of a data set of its own: AdamW, linear warm-up, then a cosine to zero."""

    total_images: Count
    """Crops seen in training."""
    batch: Count = 16
    lr: Positive
    beta2: Share
    weight_decay: NotNegative
    lr_warmup_images: Annotated[int, Field(ge=0)]
    max_gradient_norm: NotNegative = 0.0
    """Of each head; 0 never scales."""
    checkpoint_images: Count = 16_000


class SegmentationHead(HeadTraining):
    """BN + 1x1 on crops by DINOv3's linear protocol (facebookresearch/dinov3, config-ade20k-linear-training.yaml)."""

    classes: Annotated[int, Field(ge=2, le=254)] = 150
    """Masks hold 0 for unlabelled (ignored) and 1 to this number."""
    crop: Count = 512
    """Side in pixels of training crops and of evaluation's windows, and the short side of an image whose scale is 1."""
    stride: Count = 341
    """Pixels between two windows."""
    scales: tuple[Positive, Positive] = (0.5, 2.0)
    """Range of the random scale in training."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of latent channels left out in training."""
    total_images: Count = 640_000
    lr: Positive = 1e-3
    beta2: Share = 0.999
    weight_decay: NotNegative = 1e-3
    lr_warmup_images: Annotated[int, Field(ge=0)] = 24_000

    @model_validator(mode="after")
    def _windows_meet(self) -> SegmentationHead:
        if self.stride > self.crop:
            raise ValueError(f"stride {self.stride} leaves gaps between windows of crop {self.crop}")
        if self.scales[0] > self.scales[1]:
            raise ValueError(f"scales {list(self.scales)} must rise")
        return self


class Segmentation(Part):
    """Linear head (BN + 1x1) on frozen latents."""

    enabled: bool = True
    source: str | None = None
    """A folder as ADE20K lies on disk (images/ and annotations/, each with training/ and validation/); when empty the run's own images,
    where they have masks."""
    epochs: Count = 10
    """This and the next three: of the run's own images."""
    batch: Count = 32
    lr: Positive = 1e-2
    train_images: Count | None = None
    head: SegmentationHead = SegmentationHead()
    """Of a folder."""
    identity: str = ""
    """Digest of the folder's files; filled in when a run is planned."""

    @model_serializer(mode="wrap")
    def _of_one_source(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What the source at hand does not use is in no file and in no key."""
        unused = ("source", "head", "identity") if self.source is None else ("epochs", "batch", "lr", "train_images")
        return {name: value for name, value in plain(self).items() if name not in unused}


class DepthHead(HeadTraining):
    """BN + 1x1 to depth bins by DINOv3's linear protocol (facebookresearch/dinov3, eval/depth/configs/config-nyu.yaml)."""

    bins: Annotated[int, Field(ge=2, le=4096)] = 256
    nearest: Positive = 0.001
    """Metres; depths outside (nearest, farthest) are not counted."""
    farthest: Positive = 10.0
    crop: tuple[Count, Count] = (416, 544)
    """Height and width in pixels of training crops."""
    border: Literal["nyu", "none"] = "nyu"
    """nyu: training images lose NYU's white border, errors are counted in Eigen's crop, both as shares of the image's sides."""
    total_images: Count = 614_400
    lr: Positive = 3e-4
    beta2: Share = 0.99
    weight_decay: NotNegative = 1e-4
    lr_warmup_images: Annotated[int, Field(ge=0)] = 204_800
    max_gradient_norm: NotNegative = 35.0

    @model_validator(mode="after")
    def _a_range(self) -> DepthHead:
        if self.nearest >= self.farthest:
            raise ValueError(f"nearest {self.nearest} is not below farthest {self.farthest}")
        return self


class Depth(Part):
    """Depth from frozen latents by a linear head, on a folder of images with depth maps."""

    source: str | None = None
    """images/ and depth/ (16-bit PNG, millimetres), each with training/ and validation/; or a folder with nyu_train.txt and nyu_test.txt,
    whose lines name an image and a depth map below it. Left out when empty."""
    head: DepthHead = DepthHead()
    identity: str = ""
    """Digest of the folder's files; filled in when a run is planned."""


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
    depth: Depth = Depth()

    @model_validator(mode="after")
    def _two_extractors(self) -> Scores:
        if self.second_extractor == self.extractor:
            raise ValueError(f"second_extractor '{self.extractor}' is the first one; name another or leave it empty")
        if self.second_extractor is None and self.second_extractor_weights is not None:
            raise ValueError("second_extractor_weights needs second_extractor; name the network that the file is of")
        return self
