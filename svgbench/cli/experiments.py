"""``run``, ``ablate`` and ``plan``: from words to RunConfigs, to a plan, to an execution, to a table."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from svgbench.cli.reports import show
from svgbench.cli.selection import directory
from svgbench.cli.view import DISPLAY
from svgbench.config.build import build
from svgbench.config.choices import ALIGNMENTS, listed
from svgbench.config.experiments import load_experiment, preset_of
from svgbench.config.names import run_name
from svgbench.config.parse import merge, nested, override
from svgbench.errors import BadConfig, BadData, BadInput, BadWeights, CellsFailed, say
from svgbench.lab.configs import DEFAULT_PRESET, cells_of, is_experiment
from svgbench.lab.engines import Choice
from svgbench.lab.plan import Plan, make_plan, resolve
from svgbench.lab.record import owned
from svgbench.lab.run_plan import gc_paused, is_main, run_plan
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench
from svgbench.tables.labels import cell_labels

Out = Annotated[Path, typer.Option("--out", callback=directory, help="Where runs and their store are kept.")]
Preset = Annotated[str, typer.Option("--preset", help="tiny (2 CPU cores, minutes), small (one GPU) or paper.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any field of the configuration: a.b=c. Repeatable.", metavar="A.B=C")]
Shelf = Annotated[Path | None, typer.Option("--shelf", help="A folder of your own cards and experiments.")]
Data = Annotated[str | None, typer.Option("--data", help="A folder, shards, a Hugging Face or a packed set, or 'shapes'.")]
Limit = Annotated[
    int | None, typer.Option("--limit", help="A trial: at most so many images of each split, and samples; trainings stay as long.", min=1)
]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads; the machine's own choice when not given.", min=1)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
Compile = Annotated[bool, typer.Option("--compile", help="torch.compile of the transformer's block.")]
Gpus = Annotated[
    int | None, typer.Option("--gpus", help="H200s to plan hours for, 0 for this machine's processor; the preset's own when empty.", min=0)
]
MicroBatch = Annotated[
    int | None, typer.Option("--micro-batch", help="Images a process holds at once; gradients add up to the same batch.", min=1)
]


def run(
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="A family (dinov3, dinov2, mae, siglip, sd-vae, va-vae), a card, or BACKEND:NAME.")
    ] = None,
    align: Annotated[str | None, typer.Option("--align", help=f"{listed(tuple(ALIGNMENTS))}.")] = None,
    no_align: Annotated[bool, typer.Option("--no-align", help="The same as --align none.")] = False,
    no_residual: Annotated[bool, typer.Option("--no-residual", help="Features alone.")] = False,
    preset: Preset = DEFAULT_PRESET,
    data: Data = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="The encoder's weights, a file of an official release.")] = None,
    out: Out = Path("runs"),
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    sets: Set = None,
    limit: Limit = None,
    shelf: Shelf = None,
    device: Device = "auto",
    threads: Threads = None,
    micro_batch: MicroBatch = None,
    compile_: Compile = False,
) -> None:
    """Train and score one tokenizer: reconstruction, generation, perception. The same command again answers from the store."""
    if align and no_align:
        raise BadConfig("--align and --no-align contradict each other; give one.")
    settings: dict[str, Any] = nested("seed", seed)
    words = {
        "encoder.card": encoder, "encoder.weights": str(weights) if weights else None, "data.source": data,
        "autoencoder.align": "none" if no_align else align, "autoencoder.residual.channels": 0 if no_residual else None,
    }  # fmt: skip
    for path, value in words.items():
        if value is not None:
            settings = merge(settings, nested(path, value))
    settings = merge(settings, override(_limited(sets, limit)))
    config = resolve(build(settings, preset=preset, extra=shelf), shelf)
    name = run_name(config, shelf)
    plan_ = make_plan({name: config}, shelf)
    bench = Bench(out=str(out), device=device, threads=threads, micro_batch=micro_batch, compile=compile_)
    with owned(out, plan_.runs[0]) if is_main() else contextlib.nullcontext():
        run_plan(plan_, out, bench, keep_going=False, shelf=shelf, display=DISPLAY)
    if is_main():
        show(out, [name], recorded={name: config})


def ablate(
    experiment: Annotated[str, typer.Argument(help="An experiment's name on the shelf, or a YAML file.")],
    out: Out = Path("runs"),
    preset: Preset = DEFAULT_PRESET,
    data: Data = None,
    sets: Set = None,
    limit: Limit = None,
    shelf: Shelf = None,
    device: Device = "auto",
    threads: Threads = None,
    micro_batch: MicroBatch = None,
    compile_: Compile = False,
    engine: Annotated[str, typer.Option("--engine", help="Where nodes run: local, ray or slurm.")] = "local",
    slots: Annotated[
        int | None, typer.Option("--slots", help="Nodes side by side; one for every visible GPU when not given.", min=1)
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", help="Processes (GPUs) that share one node, by torchrun.", min=1)] = 1,
    sbatch: Annotated[
        list[str] | None, typer.Option("--sbatch", help="What sbatch is asked for: partition=gpu. Repeatable.", metavar="NAME=VALUE")
    ] = None,
    leave: Annotated[bool, typer.Option("--leave", help="With slurm: submit and end; the same command later shows and reports.")] = False,
) -> None:
    """Run every cell of an experiment; shared work is done once. Start it several times to share the cells between processes."""
    choice = Choice(engine=engine, slots=slots, leave=leave, sbatch=_sbatch(sbatch or []))
    choice.check(ranks)
    plan_, labels = _planned(experiment, preset, _limited(sets, limit), shelf, data)
    bench = Bench(out=str(out), device=device, threads=threads, micro_batch=micro_batch, compile=compile_, ranks=ranks)
    outcome = run_plan(plan_, out, bench, keep_going=True, shelf=shelf, choice=choice, display=DISPLAY)
    if outcome.left:
        say(f"{len(outcome.left)} of {len(plan_.nodes)} nodes are SLURM's; the same command shows how far they are.")
    if is_main():
        with gc_paused(), contextlib.suppress(*([BadInput] if outcome.left else [])):  # nothing is scored yet
            recorded = {r.name: r.config for r in plan_.runs}
            show(out, list(recorded), grid=experiment, labels=labels, recorded=recorded)
    if outcome.failed:
        bad = [r.name for r in plan_.runs if any(k in outcome.failed or k in outcome.skipped for k in r.nodes)]
        if len(bad) == len(plan_.runs):
            raise next(iter(outcome.failed.values()))
        raise CellsFailed(f"{len(bad)} of {len(plan_.runs)} cells failed ({', '.join(bad[:5])}): {next(iter(outcome.failed.values()))}")


def plan(
    experiment: Annotated[str, typer.Argument(help="An experiment's name on the shelf, a YAML file, or an encoder (as in run --encoder).")],
    out: Out = Path("runs"),
    preset: Preset = DEFAULT_PRESET,
    data: Data = None,
    sets: Set = None,
    limit: Limit = None,
    shelf: Shelf = None,
    gpus: Gpus = None,
) -> None:
    """Show what would run, what exists, what is shared, and what it will cost in time and disk. Touches nothing."""
    from svgbench.cli.console import table_of
    from svgbench.lab.forecast.estimate import estimates
    from svgbench.lab.forecast.speed import GPUS, pace_of
    from svgbench.tables.planned import plan_table

    store, about = Store(out / "store"), load_experiment(experiment, shelf) if is_experiment(experiment, shelf) else None
    try:
        plan_, _ = _planned(experiment, preset, _limited(sets, limit), shelf, data)
    except (BadData, BadWeights) as error:
        stood_on = (preset_of(about, shelf) if about else None) or preset
        if stood_on == "tiny":
            raise
        hint = f"'svgbench doctor --preset {stood_on}' shows work, hours and disk without it"
        raise type(error)(f"{str(error).removesuffix('.')}; {hint}.") from None
    made = {key: manifest for key, node in plan_.nodes.items() if (manifest := store.manifest(node.stage, key))}
    places = {GPUS.get(one.config.preset, 0) for one in plan_.runs}
    pace = pace_of(max(places) if gpus is None else gpus, store.root)
    table = plan_table(f"Plan of {experiment}", plan_, made, estimates(plan_, shelf), pace)
    table.notes += [f"{word}: {getattr(about, word)}" for word in ("asks", "compares", "costs") if about and getattr(about, word)]
    table_of(table)


def _planned(experiment: str, preset: str, sets: list[str], shelf: Path | None, data: str | None) -> tuple[Plan, dict[str, str]]:
    """The plan of an experiment, and the label of each run. Reports cells whose work is the same."""
    with gc_paused():
        found = cells_of(experiment, preset, sets, shelf, data=data)
        plan_ = make_plan({name: config for name, (_, config) in found.items()}, shelf)
    for name, other in plan_.repeated().items():
        say(f"run '{name}' uses nothing that '{other}' does not; their work is done once and their rows are equal.")
    labels = cell_labels(load_experiment(experiment, shelf)) if is_experiment(experiment, shelf) else {}
    return plan_, {name: labels[cell] for name, (cell, _) in found.items() if labels.get(cell)}


def _sbatch(words: list[str]) -> dict[str, str]:
    """``--sbatch NAME=VALUE`` words."""
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.strip("-"):
            raise BadInput(f"--sbatch {word}: write it as NAME=VALUE, such as partition=gpu.")
        found[name.lstrip("-")] = value
    return found


def _limited(sets: list[str] | None, limit: int | None) -> list[str]:
    """``--set`` with ``--limit`` among it."""
    return [*(sets or []), *([f"data.limit={limit}"] if limit else [])]
