"""Scores as DataFrames: those of runs, published ones, and those of images made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svgbench.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

SCORE_COLUMNS = {
    "run": "string", "encoder": "string", "family": "string", "align": "string", "residual_channels": "Int64", "preset": "string",
    "seed": "Int64", "metric": "string", "value": "Float64", "low": "Float64", "high": "Float64", "count": "Int64", "steps": "Int64",
    "guidance": "Float64", "images_seen": "Int64", "seconds": "Float64", "latents": "string", "interval": "string", "judges": "string",
    "protocol": "string", "key": "string",
}  # fmt: skip
"""Columns of ``results`` and their types; ``latents``, ``interval`` and ``judges`` are entries of a score's ``detail``."""
PUBLISHED_COLUMNS = {
    "system": "string", "tokenizer": "string", "dataset": "string", "resolution": "Int64", "model": "string", "params_m": "Int64",
    "epochs": "Int64", "sampler": "string", "steps": "Int64", "guidance": "string", "guided": "boolean", "metric": "string",
    "value": "Float64", "bound": "string", "digitised": "boolean", "source": "string", "line": "Int64",
}  # fmt: skip
EVALUATION_COLUMNS = {
    "metric": "string", "value": "Float64", "low": "Float64", "high": "Float64", "count": "Int64", "interval": "string",
    "protocol": "string",
}  # fmt: skip


def results(out: str | Path = "runs", names: Sequence[str] | None = None) -> pd.DataFrame:
    """The scores of all runs under ``out``, or of those in ``names``: a row for each score.

    Columns: run, encoder, family, align, residual_channels, preset, seed, metric, value, low and high (95 % interval), count (images),
    steps, guidance, images_seen, seconds, latents (of probes), interval (how it was made), judges (a note when the judging networks were
    not trained for these images), protocol (rows of different protocols are not comparable), key. Missing entries are ``pandas.NA``.
    Raises UnknownName for an unknown run, BrokenArtifact for a damaged record.
    """
    from svgbench.tables.collect import collect
    from svgbench.tables.judge_notes import noted_scores

    records = collect(Path(out), None if names is None else list(names))
    rows = [{**row["detail"], **row} for record in records for row in noted_scores(record)]
    return frame(rows, SCORE_COLUMNS)


def published(path: str | Path | None = None) -> pd.DataFrame:
    """The published numbers that come with svgbench, or those of a file with the same columns: a row for each number, with its source.

    ``metric`` is svgbench's name of the metric if it has one; ``bound`` is ``>`` when the source prints only a lower bound; ``guided`` is
    ``pandas.NA`` when the source does not state it.
    """
    from svgbench.tables.published import published as rows_of

    rows = rows_of(Path(path) if path else None)
    return frame([{name: getattr(row, name) for name in PUBLISHED_COLUMNS} for row in rows], PUBLISHED_COLUMNS)


def frechet_distance(features: Tensor, reference: Tensor | tuple[Tensor, Tensor]) -> float:
    """The Frechet distance (FID where the features are Inception's) of features [N, D] from features [M, D], or from their (mean [D],
    covariance [D, D]). Float64 sums, unbiased covariances; not below 0. BadData for fewer than 2 rows, BadInput for other shapes."""
    import torch

    from svgbench.metrics.frechet import Gaussian, Moments
    from svgbench.metrics.frechet import frechet_distance as distance_of

    def gaussian(part: Tensor | tuple[Tensor, Tensor]) -> Gaussian:
        if isinstance(part, tuple):
            mean, covariance = (torch.as_tensor(one, dtype=torch.float64) for one in part)
            if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
                raise BadInput(f"statistics of shapes {list(mean.shape)} and {list(covariance.shape)}; give (mean [D], covariance [D, D]).")
            return Gaussian(mean, covariance)
        part = torch.as_tensor(part)
        if part.ndim != 2:
            raise BadInput(f"features of shape {list(part.shape)}; give [N, D], a row for each image.")
        return Moments.empty(part.shape[1], part.device).add(part).gaussian()

    return distance_of(gaussian(features), gaussian(reference))


def generation_scores(
    images: str | Path | Tensor | np.ndarray,
    reference: str | Path | Tensor | np.ndarray,
    *,
    extractor: str = "inception",
    weights: str | Path | None = None,
    limit: int | None = None,
    resize: int | None = None,
    allow_doubles: bool = False,
    device: str = "auto",
) -> pd.DataFrame:
    """gFID (also at infinitely many samples), sFID, IS, KID, precision and recall of images against reference images, as ``svgbench eval``
    computes them, one row per score.

    ``images``: a folder, .zip, .tar, .npz or .npy, or uint8 [N, 3, H, W]; ``reference``: the same, an ADM .npz of statistics or an artifact
    of a store. ``extractor``: inception or dinov2-vit-l-14 (both need a ``weights`` file), or shapes-cnn, which comes with svgbench and was
    trained only on the embedded drawn images. ``limit``: a trial on this number of images, drawn evenly over the classes; ``resize``: side
    in pixels to which both sets are resized. Columns: metric, value, low, high, count, interval, protocol. BadData for images that cannot
    be scored, BadWeights without weights.
    """
    from svgbench.machine.runtime import Runtime
    from svgbench.metrics.elsewhere import elsewhere_scores
    from svgbench.metrics.features import load_extractor
    from svgbench.metrics.image_sets import ImagesInMemory

    def given(source: Any) -> Any:
        if isinstance(source, (str, Path)):
            return Path(source)
        if resize is not None:
            raise BadInput("resize is for files; give images in memory at the size at which they are scored.")
        return ImagesInMemory(source)

    network = load_extractor(extractor, weights, Runtime(device=device, quiet=True).start().torch_device)
    scores = elsewhere_scores(given(images), given(reference), network, limit=limit, resize=resize, allow_doubles=allow_doubles)
    rows = [{**score.detail, **score.model_dump(), "protocol": score.protocol.text} for score in scores]
    return frame(rows, EVALUATION_COLUMNS)


def frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A DataFrame of typed columns; what a row lacks is missing."""
    import pandas as pd

    return pd.DataFrame({name: pd.array([row.get(name) for row in rows], dtype=kind) for name, kind in columns.items()})
