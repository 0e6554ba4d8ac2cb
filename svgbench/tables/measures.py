"""What the tables know of each metric: its title, its better end, its digits, and the stage that gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from svgbench.stages import graph


@dataclass(frozen=True)
class Measure:
    """One metric, as a table needs it."""

    title: str
    better: Literal["lower", "higher"]
    stages: tuple[str, ...]
    """The rows of the stage table whose ``scores.json`` may hold it."""
    digits: int = 2

    @property
    def of_samples(self) -> bool:
        """Whether it judges samples, which have steps and guidance."""
        return "samples" in upstream(self.stages)

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return "↓" if self.better == "lower" else "↑"


def _rows(*stages: str, **measures: tuple[str, Literal["lower", "higher"], int]) -> dict[str, Measure]:
    return {name: Measure(title, better, stages, digits) for name, (title, better, digits) in measures.items()}


MEASURES: dict[str, Measure] = {
    **_rows("reconstruction-scores", rfid=("rFID", "lower", 2), psnr=("PSNR", "higher", 2), ssim=("SSIM", "higher", 3),
            lpips=("LPIPS", "lower", 3), rfd_dinov2=("rFD-DINOv2", "lower", 2)),
    **_rows("generation-scores", gfid=("gFID", "lower", 2), sfid=("sFID", "lower", 2),
            kid=("KID", "lower", 4), precision=("precision", "higher", 3), recall=("recall", "higher", 3),
            **{"is": ("IS", "higher", 2)}),
    **_rows("second-generation-scores", fd_dinov2=("FD-DINOv2", "lower", 2)),
    **_rows("probe-scores", probe_top1=("top-1", "higher", 2), probe_top5=("top-5", "higher", 2), knn_top1=("kNN top-1", "higher", 2),
            logreg_top1=("logistic top-1", "higher", 2)),
    **_rows("segmentation-scores", "dense-segmentation-scores", miou=("mIoU", "higher", 2), macc=("mAcc", "higher", 2)),
    **_rows("depth-scores", depth_rmse=("RMSE", "lower", 3), depth_arel=("A.Rel", "lower", 3)),
}  # fmt: skip


def upstream(stages: tuple[str, ...]) -> set[str]:
    """Stages and all that they stand on: a failure of any of them leaves its scores unmade."""
    reached, open_ = set(), list(stages)
    while open_:
        name = open_.pop()
        if name not in reached:
            reached.add(name)
            open_ += [row.name for row in graph.STAGES for need in _needs(name) if need in (row.name, row.provides)]
    return reached


def _needs(stage: str) -> tuple[str, ...]:
    return next((row.needs for row in graph.STAGES if row.name == stage), ())
