"""``eval``: scores of images that were made by other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from svgbench.cli.console import Format, tables_of
from svgbench.errors import BadInput
from svgbench.tables.standings import SINGULAR
from svgbench.tables.table import Table


def evaluate(
    images: Annotated[Path, typer.Argument(help="A folder, .zip or .tar of images, an .npz with uint8 arr_0 [N, H, W, 3], or an .npy.")],
    reference: Annotated[
        Path,
        typer.Option(
            "--reference",
            metavar="PATH",
            help="As above, an ADM .npz (mu, sigma, arr_0), or an artifact (images or references) of a store.",
        ),
    ],
    extractor: Annotated[
        str,
        typer.Option(
            "--extractor",
            metavar="NAME",
            help="inception or dinov2-vit-l-14 (both need their weights file), or shapes-cnn or scenes-cnn (shipped).",
        ),
    ] = "inception",
    extractor_weights: Annotated[Path | None, typer.Option("--extractor-weights", metavar="FILE", help="Weights of the extractor.")] = None,
    second_extractor: Annotated[
        str | None,
        typer.Option(
            "--second-extractor", metavar="NAME", help="Add the Frechet distance on the features of another network: dinov2-vit-l-14."
        ),
    ] = None,
    second_extractor_weights: Annotated[
        Path | None, typer.Option("--second-extractor-weights", metavar="FILE", help="Weights of the second extractor.")
    ] = None,
    fdr6: Annotated[
        Path | None,
        typer.Option(
            "--fdr6",
            metavar="DIR",
            help="Add FDr6, the mean Frechet ratio over six feature spaces (arXiv 2604.28190): a folder with the weights of the five "
            "beside Inception and, as NAME.npz, statistics that replace the reference in a space.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", help="A trial on N images, drawn evenly over the classes; the protocol records it.", min=1),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option("--resize", metavar="N", help="Crop and resize both sets to N pixels a side (ADM); the protocol records it.", min=1),
    ] = None,
    allow_doubles: Annotated[
        bool, typer.Option("--allow-doubles", help="Accept a set with identical images; the protocol records it.")
    ] = False,
    format: Annotated[
        Format,
        typer.Option(
            "--format", metavar="FORMAT", help="auto (a table on a terminal, markdown in a pipe), markdown, csv, json, latex or html."
        ),
    ] = Format.auto,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Score images made by other programs: gFID (also at infinitely many samples), sFID, IS, KID, precision and recall, each with protocol,
    sample count and interval."""
    from svgbench.config.scoring import SPACES
    from svgbench.machine.runtime import Runtime
    from svgbench.metrics.elsewhere import elsewhere_scores
    from svgbench.metrics.features import load_extractor
    from svgbench.metrics.judges import is_familiar, unfamiliar, weights_file
    from svgbench.metrics.six_spaces import statistics_in, weights_in
    from svgbench.tables.judge_notes import drawn_source

    if second_extractor == extractor:
        raise BadInput(f"--second-extractor {extractor} is the first one; name another or leave it out.")
    if second_extractor is None and second_extractor_weights is not None:
        raise BadInput("--second-extractor-weights needs --second-extractor; name the network that these weights belong to.")
    extractors = [(extractor, extractor_weights, "--extractor-weights")]
    extractors += [(second_extractor, second_extractor_weights, "--second-extractor-weights")] if second_extractor else []
    if fdr6 is not None:
        spaces = weights_in(fdr6)
        if extractor != SPACES[0]:
            raise BadInput(f"--fdr6 needs --extractor {SPACES[0]}, the first of its six spaces, not {extractor}; leave --extractor out.")
        extractors += [(name, file, "--fdr6") for name, file in spaces.items() if name != second_extractor]
    for name, file, setting in extractors:
        weights_file("features", name, file, setting=setting)
    published = {name: statistics_in(fdr6, name) for name, *_ in extractors} if fdr6 is not None else {}
    statistics = {name: path for name, path in published.items() if path is not None}
    runtime = Runtime(device=device).start()
    networks = [load_extractor(name, file, runtime.torch_device) for name, file, _ in extractors]
    with ExitStack() as bars:

        def progress(label: str, count: int) -> Callable[[int], None]:
            bars.close()  # the previous bar has ended
            return bars.enter_context(runtime.progress(label, count)).advance

        scores = elsewhere_scores(
            images, reference, networks[0], further=networks[1:], statistics=statistics, limit=limit, resize=resize,
            allow_doubles=allow_doubles, progress=progress,
        )  # fmt: skip
    drawn = drawn_source(str(reference))
    strangers = [name for name, *_ in extractors if not is_familiar("features", name, drawn)]
    if strangers:
        note = unfamiliar(strangers)
        scores = [score.model_copy(update={"detail": {**score.detail, "judges": note}}) for score in scores]
    if format is Format.json:
        sys.stdout.write(json.dumps([score.model_dump(mode="json") for score in scores], indent=1) + "\n")
        return
    rows = [[s.metric, _text(s.value, s.low, s.high), str(s.count), s.protocol.text] for s in scores]
    intervals: dict[str, list[str]] = {}
    for score in scores:
        intervals.setdefault(score.detail["interval"], []).append(score.metric)
    notes = [f"value (low, high) of {', '.join(metrics)}: {interval}" for interval, metrics in intervals.items()]
    if doubles := max(score.detail.get("doubles", 0) for score in scores):
        notes.append(f"{doubles:,} of {scores[0].count:,} images equal an earlier one in every byte")
    few = [score.metric for score in scores if score.detail.get("singular")]
    if few:
        notes.append(f"{', '.join(few)}: {SINGULAR}")
    notes += dict.fromkeys(score.detail["judges"] for score in scores if "judges" in score.detail)
    table = Table(f"{images} against {reference}", ["metric", "value", "images", "protocol"], rows, notes)
    tables_of([table], format)


def _text(value: float, low: float | None, high: float | None) -> str:
    """A value with its interval, if it has one."""
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} ({low:.4g}, {high:.4g})"
