"""``node``: the command that engines start; it runs nodes of a plan written by ``ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from svgbench.lab.worker import Bench, serve


def node(
    plan: Annotated[Path, typer.Argument(help="A plan file.")],
    keys: Annotated[list[str] | None, typer.Argument(help="Nodes; read from standard input when not given.")] = None,
    out: Annotated[Path, typer.Option("--out")] = Path("runs"),
    device: Annotated[str, typer.Option("--device")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1)] = None,
    micro_batch: Annotated[int | None, typer.Option("--micro-batch", min=1)] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile")] = None,
    shard: Annotated[bool, typer.Option("--shard")] = False,
    ranks: Annotated[int, typer.Option("--ranks", min=1)] = 1,
    machines: Annotated[int, typer.Option("--machines", min=1)] = 1,
    patience: Annotated[float, typer.Option("--patience", min=0)] = 0.0,
    checkpoint_activations: Annotated[bool, typer.Option("--checkpoint-activations")] = False,
    capture: Annotated[bool, typer.Option("--capture")] = False,
) -> int:
    """Work on nodes of a plan and report each beside it (the engines of ``ablate`` call this)."""
    bench = Bench(
        out=str(out), device=device, threads=threads, micro_batch=micro_batch, compile=compile_, ranks=ranks, machines=machines,
        patience=patience, checkpoint_activations=checkpoint_activations, shard=shard, capture=capture,
    )  # fmt: skip
    return serve(plan, bench, keys or [])
