"""Every metric, declared once: tables, layouts and published rows read it from here. A new metric of an existing stage needs two places:
the function that computes its ``Score``, and its entry below. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]
Group = Literal["reconstruction", "generation", "perception", "cost"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric as tables show it."""

    name: str
    """Its name in ``scores.json``."""
    title: str
    """Column heading."""
    better: Better
    """Whether lower or higher values are better."""
    group: Group
    """The report's table that shows it. Metrics of generation score samples, so their scores have steps and guidance."""
    stages: tuple[str, ...]
    """The stages (rows of ``stages/graph.py``) whose ``scores.json`` may contain it."""
    digits: int = 2
    """Decimals in tables."""
    published: tuple[str, ...] = ()
    """Its names in the column ``metric`` of ``reports/published.csv``."""

    @property
    def of_samples(self) -> bool:
        """Whether it judges samples, which have steps and guidance."""
        return self.group == "generation"

    @property
    def arrow(self) -> str:
        """Arrow in the better direction."""
        return "↓" if self.better == "lower" else "↑"


def _declare(group: Group, stages: str, *rows: tuple[str, str, Better, int, str]) -> dict[str, Metric]:
    """Metrics of one group and the same stages. Each row: name, title, better direction, digits, published names separated by spaces."""
    return {
        name: Metric(
            name=name, title=title, better=better, group=group, stages=tuple(stages.split()), digits=digits, published=tuple(names.split())
        )
        for name, title, better, digits, names in rows
    }


METRICS: dict[str, Metric] = {
    **_declare(
        "reconstruction", "reconstruction-scores",
        ("rfid", "rFID", "lower", 2, "rFID"),
        ("rfd_dinov2", "rFD-DINOv2", "lower", 2, ""),
        ("rfd_simclr", "rFD-SimCLR", "lower", 2, ""),
        ("rfd_convnextv2", "rFD-ConvNeXtV2", "lower", 2, ""),
        ("rfd_mae", "rFD-MAE", "lower", 4, ""),
        ("rfd_dinov2_l", "rFD-DINOv2-L", "lower", 2, ""),
        ("rfd_clip", "rFD-CLIP", "lower", 2, ""),
        ("rfd_siglip2", "rFD-SigLIP2", "lower", 2, ""),
        ("psnr", "PSNR", "higher", 2, "PSNR"),
        ("ssim", "SSIM", "higher", 3, "SSIM"),
        ("ssim_signed", "SSIM [-1, 1]", "higher", 3, ""),
        ("lpips", "LPIPS", "lower", 3, "LPIPS"),
    ),
    **_declare(
        "generation", "generation-scores",
        ("gfid", "gFID", "lower", 2, "gFID"),
        ("gfid_infinity", "gFID∞", "lower", 2, ""),
        ("sfid", "sFID", "lower", 2, "sFID"),
    ),
    **_declare(
        "generation", "second-generation-scores fdr6-generation-scores",
        ("fd_dinov2", "FD-DINOv2", "lower", 2, ""),
        ("fd_dinov2_infinity", "FD-DINOv2∞", "lower", 2, ""),
        ("fd_simclr", "FD-SimCLR", "lower", 2, ""),
        ("fd_simclr_infinity", "FD-SimCLR∞", "lower", 2, ""),
        ("fd_convnextv2", "FD-ConvNeXtV2", "lower", 2, ""),
        ("fd_convnextv2_infinity", "FD-ConvNeXtV2∞", "lower", 2, ""),
        ("fd_mae", "FD-MAE", "lower", 4, ""),
        ("fd_mae_infinity", "FD-MAE∞", "lower", 4, ""),
        ("fd_dinov2_l", "FD-DINOv2-L", "lower", 2, ""),
        ("fd_dinov2_l_infinity", "FD-DINOv2-L∞", "lower", 2, ""),
        ("fd_clip", "FD-CLIP", "lower", 2, ""),
        ("fd_clip_infinity", "FD-CLIP∞", "lower", 2, ""),
        ("fd_siglip2", "FD-SigLIP2", "lower", 2, ""),
        ("fd_siglip2_infinity", "FD-SigLIP2∞", "lower", 2, ""),
    ),
    **_declare("generation", "fdr6-generation-scores", ("fdr6", "FDr6", "lower", 2, "")),
    **_declare(
        "generation", "generation-scores",
        ("is", "IS", "higher", 2, "IS"),
        ("kid", "KID", "lower", 4, ""),
        ("precision", "precision", "higher", 3, "precision"),
        ("recall", "recall", "higher", 3, "recall"),
    ),
    **_declare(
        "perception", "probe-scores paper-probe-scores",
        ("probe_top1", "top-1", "higher", 2, "linear_probe_top1"),
        ("probe_top5", "top-5", "higher", 2, "linear_probe_top5"),
    ),
    **_declare(
        "perception", "probe-scores",
        ("knn_top1", "kNN top-1", "higher", 2, ""),
        ("logreg_top1", "logistic top-1", "higher", 2, ""),
    ),
    **_declare(
        "perception", "segmentation-scores dense-segmentation-scores paper-segmentation-scores",
        ("miou", "mIoU", "higher", 2, "mIoU mIoU_linear"),
        ("macc", "mAcc", "higher", 2, "mAcc"),
    ),
    **_declare(
        "perception", "depth-scores paper-depth-scores",
        ("depth_rmse", "RMSE", "lower", 3, "RMSE"),
        ("depth_arel", "A.Rel", "lower", 3, "AbsRel"),
    ),
    **_declare(  # encoding, decoding and sampling of one image; measured by `svgbench cost`, not by a stage
        "cost", "",
        ("encoder_params_m", "encoder params (M)", "lower", 2, "encoder_params_m"),
        ("encoder_gflops", "encoder GFLOPs", "lower", 3, "encoder_gflops"),
        ("encoder_latency_ms", "encoder latency (ms)", "lower", 2, "encoder_latency_ms"),
        ("encoder_images_per_s", "encoder images/s", "higher", 2, "encoder_images_per_s"),
        ("encoder_peak_gb", "encoder peak memory (GB)", "lower", 2, ""),
        ("decoder_params_m", "decoder params (M)", "lower", 2, "decoder_params_m"),
        ("decoder_gflops", "decoder GFLOPs", "lower", 3, "decoder_gflops"),
        ("decoder_latency_ms", "decoder latency (ms)", "lower", 2, "decoder_latency_ms"),
        ("decoder_images_per_s", "decoder images/s", "higher", 2, "decoder_images_per_s"),
        ("decoder_peak_gb", "decoder peak memory (GB)", "lower", 2, ""),
        ("sampling_latency_ms", "sampling latency (ms)", "lower", 2, "sampling_latency_ms"),
        ("sampling_images_per_s", "sampled images/s", "higher", 2, "sampling_images_per_s"),
    ),
}  # fmt: skip
"""Name -> metric, in the order of the report's columns."""


def names(group: Group) -> tuple[str, ...]:
    """The metrics of a group, in the order of the report's columns."""
    return tuple(metric.name for metric in METRICS.values() if metric.group == group)


def published_names() -> dict[str, str]:
    """Name in ``reports/published.csv`` -> name of the metric."""
    return {published: metric.name for metric in METRICS.values() for published in metric.published}
