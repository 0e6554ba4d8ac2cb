"""The part of a configuration that defines how a run is scored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from svgbench.config.paper_heads import PaperHeads
from svgbench.config.part import Count, NotNegative, Part, Positive, Share

SPACES = ("inception", "convnextv2-b", "dinov2-l-256", "mae-l", "siglip2-so400m", "clip-l-256")
"""The extractors of FDr6's six feature spaces, by their names in ``extractors.yaml``."""


class Probe(Part):
    """Linear probe, kNN and logistic regression on mean-pooled frozen latents."""

    epochs: Count = 30
    """Passes over the training images of the linear probe."""
    batch: Count = 256
    """Images per update of the linear probe (SGD with momentum, cosine schedule)."""
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """Initial learning rates of linear probes trained side by side; the best on a held-out tenth of the training images is scored on the
    validation images."""
    neighbours: Count = 20
    """k of the k-nearest-neighbour classifier."""
    train_images: Count | None = None
    """Use only the first training images, up to this number; all when empty."""
    logreg_c: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-3, 1e-2, 1e-1, 1.0)
    """Inverse regularisation strengths C of logistic regression as in scikit-learn; the best on the held-out tenth is fitted again on all
    training images."""
    logreg_iterations: Count = 1000
    """Maximum number of L-BFGS iterations for each C."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision in which pooled latents are stored; sums and moments are float64 in both."""


class HeadTraining(Part):
    """Training of a linear head on crops of a separate data set: AdamW, linear warm-up, then cosine decay to zero."""

    total_images: Count
    """Crops seen in training, counted with repetition."""
    batch: Count = 16
    """Crops per update."""
    lr: Positive
    """AdamW's learning rate after the warm-up."""
    beta2: Share
    """AdamW's decay rate of the second moment; that of the first is 0.9."""
    weight_decay: NotNegative
    """Decoupled weight decay, multiplied by the learning rate at each update."""
    lr_warmup_images: Annotated[int, Field(ge=0)]
    """Crops over which the learning rate rises linearly from zero."""
    max_gradient_norm: NotNegative = 0.0
    """Gradients of a head with a larger norm are scaled down to this norm; 0 never scales."""
    checkpoint_images: Count = 16_000
    """Crops between two checkpoints."""


class SegmentationHead(HeadTraining):
    """BN + 1x1 on crops by DINOv3's linear protocol (facebookresearch/dinov3, config-ade20k-linear-training.yaml)."""

    classes: Annotated[int, Field(ge=2, le=254)] = 150
    """Number of classes; masks hold 0 for unlabelled pixels (ignored) and 1 to this number."""
    crop: Count = 512
    """Side in pixels of training crops and of evaluation windows, and the short side of an image at scale 1."""
    stride: Count = 341
    """Pixels between two evaluation windows."""
    scales: tuple[Positive, Positive] = (0.5, 2.0)
    """Range of the random image scale in training."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Probability that a latent channel is set to zero in training."""
    total_images: Count = 640_000
    """Crops seen in training, counted with repetition."""
    lr: Positive = 1e-3
    """AdamW's learning rate after the warm-up."""
    beta2: Share = 0.999
    """AdamW's decay rate of the second moment; that of the first is 0.9."""
    weight_decay: NotNegative = 1e-3
    """Decoupled weight decay, multiplied by the learning rate at each update."""
    lr_warmup_images: Annotated[int, Field(ge=0)] = 24_000
    """Crops over which the learning rate rises linearly from zero."""

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
    """Whether segmentation is scored."""
    source: str | None = None
    """A folder in ADE20K's layout (images/ and annotations/, each with training/ and validation/); when empty, the run's own images if they
    have masks."""
    epochs: Count = 10
    """Passes over the run's own training images; used without ``source``, as are ``batch``, ``lr`` and ``train_images``."""
    batch: Count = 32
    """Images per update of the head on the run's own images."""
    lr: Positive = 1e-2
    """AdamW's initial learning rate on the run's own images, with cosine decay to zero."""
    train_images: Count | None = None
    """Use only the first of the run's own training images, up to this number; all when empty."""
    head: SegmentationHead = SegmentationHead()
    """Training of the head on the folder ``source``."""
    identity: str = ""
    """Digest of the folder's files; filled in by the program when it plans a run."""

    @model_serializer(mode="wrap")
    def _of_one_source(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that the chosen source does not use are in no file and in no key."""
        unused = ("source", "head", "identity") if self.source is None else ("epochs", "batch", "lr", "train_images")
        return {name: value for name, value in plain(self).items() if name not in unused}


class DepthHead(HeadTraining):
    """BN + 1x1 to depth bins by DINOv3's linear protocol (facebookresearch/dinov3, eval/depth/configs/config-nyu.yaml)."""

    bins: Annotated[int, Field(ge=2, le=4096)] = 256
    """Number of depth bins over which the head predicts a distribution."""
    nearest: Positive = 0.001
    """Smallest depth in metres; pixels with depth outside (nearest, farthest) are ignored."""
    farthest: Positive = 10.0
    """Largest depth in metres."""
    crop: tuple[Count, Count] = (416, 544)
    """Height and width in pixels of training crops."""
    border: Literal["nyu", "none"] = "nyu"
    """nyu: training images lose NYU's white border and errors are counted in Eigen's crop, both as shares of the image's sides; none: whole
    images."""
    total_images: Count = 614_400
    """Crops seen in training, counted with repetition."""
    lr: Positive = 3e-4
    """AdamW's learning rate after the warm-up."""
    beta2: Share = 0.99
    """AdamW's decay rate of the second moment; that of the first is 0.9."""
    weight_decay: NotNegative = 1e-4
    """Decoupled weight decay, multiplied by the learning rate at each update."""
    lr_warmup_images: Annotated[int, Field(ge=0)] = 204_800
    """Crops over which the learning rate rises linearly from zero."""
    max_gradient_norm: NotNegative = 35.0
    """Gradients of a head with a larger norm are scaled down to this norm; 0 never scales."""

    @model_validator(mode="after")
    def _a_range(self) -> DepthHead:
        if self.nearest >= self.farthest:
            raise ValueError(f"nearest {self.nearest} is not below farthest {self.farthest}")
        return self


class Depth(Part):
    """Depth from frozen latents by a linear head, on a folder of images with depth maps."""

    source: str | None = None
    """A folder with images/ and depth/ (16-bit PNG, millimetres), each with training/ and validation/; or one with nyu_train.txt and
    nyu_test.txt, whose lines name an image and a depth map. Depth is not scored when empty."""
    head: DepthHead = DepthHead()
    """Training of the depth head."""
    identity: str = ""
    """Digest of the folder's files; filled in by the program when it plans a run."""


PerceptualName = Literal["lpips", "shapes-lpips", "scenes-lpips"]


class Scores(Part):
    """Metrics and their protocols."""

    extractor: str = "inception"
    """Features of FID, sFID, IS, KID, precision and recall: ``inception`` (needs its weights file), ``shapes-cnn``,
    ``scenes-cnn`` or ``dinov2-vit-l-14``."""
    extractor_weights: str | None = None
    """Path of the extractor's weights file; those of drawn images are shipped with theirs."""
    second_extractor: str | None = None
    """Another feature network for a second Frechet distance of the samples: ``dinov2-vit-l-14`` gives ``fd_dinov2``, ``scenes-simclr`` (for
    ``scenes``, trained without labels) ``fd_simclr``; none when empty."""
    second_extractor_weights: str | None = None
    """Path of the second extractor's weights file; those of drawn images are shipped with theirs."""
    fdr6: str | None = None
    """A folder with the weights of five feature networks, for the Frechet distance of the samples in each and FDr6, the mean ratio over
    these and Inception (arXiv 2604.28190); statistics of ``NAME.npz`` in it replace the training images for the network NAME; none when
    empty."""
    reference: str | None = None
    """What samples are compared with instead of the training images: an ADM ``.npz`` (its statistics for gFID, its images ``arr_0`` for
    KID, precision and recall), an ``.npz`` or folder of images, or an ``images`` artifact of a store. Statistics belong to the first
    extractor; the second one then still uses the training images."""
    perceptual: PerceptualName = "lpips"
    """Distance of reconstructions to originals: LPIPS (left out, shown as a dash, without its weights file) or that of the small network
    for ``shapes`` or ``scenes``."""
    lpips_weights: str | None = None
    """Path of the VGG16 weights file of LPIPS."""
    neighbours: Count = 3
    """k of precision and recall."""
    resamples: Annotated[int, Field(ge=0, le=10_000)] = 50
    """Bootstrap resamples of each interval; 0 gives no intervals."""
    probe: Probe = Probe()
    """Classification from frozen latents."""
    segmentation: Segmentation = Segmentation()
    """Segmentation from frozen latents."""
    depth: Depth = Depth()
    """Depth from frozen latents."""
    protocol: Literal["dinov3", "paper"] = "dinov3"
    """Protocol of the perception scores: dinov3 (linear heads, ``scores.probe``, ``scores.segmentation.head``, ``scores.depth.head``) or
    paper (the heads of SVG's appendix B, ``scores.paper``). The masks of the run's own images always use a linear head. Scores of the two
    are never ranked together."""
    paper: PaperHeads = PaperHeads()
    """Heads of the protocol ``paper``."""

    @model_serializer(mode="wrap")
    def _of_one_protocol(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """With DINOv3's protocol, files and keys contain neither ``protocol`` nor ``paper``; without FDr6, not ``fdr6``."""
        unused: tuple[str, ...] = ("protocol", "paper") if self.protocol == "dinov3" else ()
        unused += ("fdr6",) if self.fdr6 is None else ()
        return {name: value for name, value in plain(self).items() if name not in unused}

    @model_validator(mode="after")
    def _two_extractors(self) -> Scores:
        if self.second_extractor == self.extractor:
            raise ValueError(f"second_extractor '{self.extractor}' is the first one; name another or leave it empty")
        if self.second_extractor is None and self.second_extractor_weights is not None:
            raise ValueError("second_extractor_weights needs second_extractor; name the network that the file belongs to")
        if self.fdr6 is not None and self.extractor != SPACES[0]:
            raise ValueError(f"fdr6 needs extractor '{SPACES[0]}', the first of its six networks, not '{self.extractor}'")
        if self.fdr6 is not None and self.second_extractor in SPACES:
            raise ValueError(f"second_extractor '{self.second_extractor}' is one of fdr6's networks; leave it empty")
        return self
