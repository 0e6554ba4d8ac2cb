"""``bench``: measures this machine for this program."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from svgbench.cli.console import Format, tables_of
from svgbench.cli.experiments import Device, Set, Shelf, Threads
from svgbench.cli.output import Formatted
from svgbench.cli.selection import directory
from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.errors import Interrupted, notify, unknown
from svgbench.lab.forecast.sizes import counts_of, sizes_of
from svgbench.lab.measured import NAME, ratios, read_bench, write_bench
from svgbench.tables.benchmarks import bench_tables, duration_note, ratio_table


def bench(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", callback=directory, help="The result goes to DIR/bench.json.")] = Path(
        "runs"
    ),
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="PRESET", help="Sizes to measure: tiny, mini, small or paper. Default: paper on CUDA, else tiny."),
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            metavar="STAGE",
            help="Measure only this: products, copies, images, encoding, autoencoder, diffusion, attention, samples or scores; repeatable.",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", min=1, help="Images in one call. Default: on CUDA 64 and 256, else the preset's.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="M", min=0.01, help="Time to spend at most. Default: 8 on CUDA, else 3.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="FILE", help="Measure nothing: compare DIR/bench.json with this file by ratios.")
    ] = None,
    sets: Set = None,
    shelf: Shelf = None,
    device: Device = "auto",
    threads: Threads = None,
    format: Formatted = Format.auto,
) -> None:
    """Measure this machine for this program: matrix products, copies, and each stage's work at a preset's size, with random weights and
    images. Prints times, images/s, share of the matrix-product rate, peak memory and first call; plan and doctor take their pace from the
    result. Ctrl-C keeps what was measured."""
    if against is not None:
        new, old = read_bench(out / NAME), read_bench(against)
        found = ratios(new, old)
        if format is Format.json:
            sys.stdout.write(json.dumps([one.model_dump(mode="json") for one in found], indent=1) + "\n")
        else:
            tables_of([ratio_table(found, new, old)], format)
        return
    from svgbench.bench.measurement import MINUTES, PRESETS, measure
    from svgbench.bench.pieces import STAGES
    from svgbench.machine.runtime import Runtime

    if other := [stage for stage in stages or () if stage not in STAGES]:
        raise unknown("stage", other[0], STAGES)
    runtime = Runtime(device=device, threads=threads).start()
    kind = runtime.torch_device.type
    config = build(override(sets or []), preset=preset or PRESETS.get(kind, "tiny"), extra=shelf)
    sizes = sizes_of(config, counts_of(config), shelf)
    made, signal = measure(
        config, sizes, runtime, stages=tuple(stages or STAGES), batch=batch, minutes=MINUTES.get(kind, 3.0) if minutes is None else minutes
    )
    place = write_bench(out, made)
    if format is Format.json:
        sys.stdout.write(json.dumps(made.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
    else:
        tables_of(bench_tables(made), format)
    notify(f"{duration_note(made)}; written: {place}")
    if signal:
        raise Interrupted(f"stopped by {signal}; {place} holds what was measured.")
