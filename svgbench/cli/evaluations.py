"""``eval``: the scores of images that were made elsewhere, by no model of ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from svgbench.cli.console import Format, tables_of
from svgbench.tables.table import Table


def evaluate(
    images: Annotated[Path, typer.Argument(help="A folder of images, or an .npz with uint8 arr_0 [N, H, W, 3].")],
    reference: Annotated[Path, typer.Option("--reference", help="The same, or an ADM .npz with mu and sigma.")],
    extractor: Annotated[str, typer.Option("--extractor", help="inception (needs its weights file) or shapes-cnn.")] = "inception",
    extractor_weights: Annotated[Path | None, typer.Option("--extractor-weights", help="The extractor's weights file.")] = None,
    format: Annotated[Format, typer.Option("--format", help="auto is a table on a terminal, markdown in a pipe.")] = Format.auto,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Score images made elsewhere: gFID, IS, KID, precision, recall, each with its protocol, count and interval."""
    from svgbench.metrics.elsewhere import elsewhere_scores
    from svgbench.metrics.features import load_extractor
    from svgbench.metrics.judges import weights_file
    from svgbench.world.runtime import Runtime

    weights_file("features", extractor, extractor_weights, setting="--extractor-weights")
    runtime = Runtime(device=device).start()
    with ExitStack() as bars:

        def progress(label: str, count: int) -> Callable[[int], None]:
            return bars.enter_context(runtime.progress(label, count)).advance

        scores = elsewhere_scores(images, reference, load_extractor(extractor, extractor_weights, runtime.torch_device), progress=progress)
    if format is Format.json:
        sys.stdout.write(json.dumps([score.model_dump(mode="json") for score in scores], indent=1) + "\n")
        return
    rows = [[s.metric, f"{s.value:.4g} ({s.low:.4g}, {s.high:.4g})", str(s.count), s.protocol.text] for s in scores]
    notes = [f"value (low, high): {scores[0].detail['interval']}"]
    if any(score.detail.get("singular") for score in scores):
        notes.append(
            "fewer images than features: the covariance is singular, and the distance stands for nothing beside one of more images"
        )
    table = Table(f"{images} against {reference}", ["metric", "value", "images", "protocol"], rows, notes)
    tables_of([table], format)
