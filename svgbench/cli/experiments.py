"""``run`` and ``ablate``: from options to RunConfigs, to a plan, to its execution, to tables."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from svgbench.cli.completion import complete_encoders, complete_experiments
from svgbench.cli.reports import show
from svgbench.cli.selection import directory, trial
from svgbench.cli.view import DISPLAY
from svgbench.config.build import build
from svgbench.config.choices import ALIGNMENTS, listed
from svgbench.config.experiments import experiment_at, parts_of_cells
from svgbench.config.names import run_name
from svgbench.config.parse import merge, nested, override
from svgbench.errors import BadConfig, BadInput, CellsFailed, notify, unknown
from svgbench.lab.configs import DEFAULT_PRESET, cells_of, is_experiment
from svgbench.lab.contrasts import declare
from svgbench.lab.engines import Choice
from svgbench.lab.plan import Plan, make_plan, resolve
from svgbench.lab.record import owned
from svgbench.lab.run_plan import gc_paused, is_main, run_plan
from svgbench.lab.worker import Bench
from svgbench.tables.labels import cell_labels

Out = Annotated[Path, typer.Option("--out", callback=directory, metavar="DIR", help="The output directory: runs and their store.")]
Preset = Annotated[
    str, typer.Option("--preset", metavar="PRESET", help="tiny, mini (2 CPU cores, minutes), small (one GPU) or paper (8 GPUs).")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Set a configuration field, such as sampling.shift=0.5; repeatable. 'svgbench fields' lists them.",
        metavar="FIELD=VALUE",
    ),
]
Shelf = Annotated[Path | None, typer.Option("--shelf", metavar="DIR", help="A folder of your own encoder cards and experiments.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Images: class folders, webdataset shards, a Hugging Face dataset, a packed set, 'shapes' or 'scenes' (drawn).",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", help="A trial on at most N images of each split and N samples; trainings keep their length.", min=1
    ),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="A short trial: --limit 64, few updates of each training, few sampling steps and resamples.")
]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", help="CPU threads. Default: PyTorch's choice.", min=1)]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the networks with torch.compile. Default: on CUDA.")]
NoCompile = Annotated[bool, typer.Option("--no-compile", help="Compile nothing, also on CUDA.")]  # with "/" every help text gets narrow
CheckpointActivations = Annotated[
    bool,
    typer.Option(
        "--checkpoint-activations",
        help="Compute activations again in the backward pass: less memory, same numbers, about a third more work.",
    ),
]
Shard = Annotated[
    bool,
    typer.Option("--shard", help="Divide stage 2's transformer among the processes (FSDP2), for one beyond a GPU's memory; same numbers."),
]
Capture = Annotated[bool, typer.Option("--capture", help="Capture the transformer's updates in a CUDA graph: fewer launches; for one GPU.")]
Gpus = Annotated[
    int | None,
    typer.Option("--gpus", metavar="N", help="Estimate the hours on N H200 GPUs, or on this CPU (0). Default: the preset's.", min=0),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        "--micro-batch",
        metavar="N",
        help="Images in memory at once; gradients are accumulated, so the batch stays the same. Default: on CUDA, what fits.",
        min=1,
    ),
]


def run(
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="NAME",
            help="A family (dinov3, dinov2, mae, siglip, sd-vae, va-vae), a card, or BACKEND:NAME.",
            autocompletion=complete_encoders,
        ),
    ] = None,
    align: Annotated[
        str | None,
        typer.Option("--align", metavar="MODE", help=f"Alignment of the residual: {listed(tuple(ALIGNMENTS))}."),
    ] = None,
    no_align: Annotated[bool, typer.Option("--no-align", help="The same as --align none.")] = False,
    no_residual: Annotated[bool, typer.Option("--no-residual", help="Use the encoder's features alone.")] = False,
    no_generation: Annotated[
        bool, typer.Option("--no-generation", help="Train no transformer: reconstruction and perception only.")
    ] = False,
    preset: Preset = DEFAULT_PRESET,
    data: Data = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="The encoder's weights: a file or directory of an official release.")
    ] = None,
    out: Out = Path("runs"),
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of every random draw.")] = 0,
    sets: Set = None,
    limit: Limit = None,
    quick: Quick = False,
    shelf: Shelf = None,
    device: Device = "auto",
    threads: Threads = None,
    micro_batch: MicroBatch = None,
    compile_: Compile = False,
    no_compile: NoCompile = False,
    checkpoint_activations: CheckpointActivations = False,
    shard: Shard = False,
    capture: Capture = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration as YAML and end; nothing runs.")
    ] = False,
) -> None:
    """Train one model and score reconstruction, generation and perception. The same command again resumes, or prints the stored scores."""
    if align and no_align:
        raise BadConfig("--align and --no-align contradict each other; give one.")
    settings: dict[str, Any] = nested("seed", seed)
    words = {
        "encoder.card": encoder, "encoder.weights": str(weights) if weights else None, "data.source": data,
        "autoencoder.align": "none" if no_align else align, "autoencoder.residual.channels": 0 if no_residual else None,
        "generation": False if no_generation else None,
    }  # fmt: skip
    for path, value in words.items():
        if value is not None:
            settings = merge(settings, nested(path, value))
    settings = merge(settings, override(trial(sets, limit, quick)))
    drafted = build(settings, preset=preset, extra=shelf)
    if print_config:
        text = yaml.safe_dump(drafted.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        sys.stdout.write(f"# run {run_name(drafted, shelf)}\n{text}")
        return
    config = resolve(drafted, shelf)
    name = run_name(config, shelf)
    plan_ = make_plan({name: config}, shelf)
    bench = Bench(
        out=str(out), device=device, threads=threads, micro_batch=micro_batch, compile=_compiles(compile_, no_compile),
        checkpoint_activations=checkpoint_activations, shard=shard, capture=capture,
    )  # fmt: skip
    with owned(out, plan_.runs[0]) if is_main() else contextlib.nullcontext():
        run_plan(plan_, out, bench, keep_going=False, shelf=shelf, display=DISPLAY)
    if is_main():
        show(out, [name], recorded={name: config})


def ablate(
    experiment: Annotated[str, typer.Argument(help="An experiment's name, or a YAML file.", autocompletion=complete_experiments)],
    out: Out = Path("runs"),
    preset: Preset = DEFAULT_PRESET,
    data: Data = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="Run only the cells with this part in their name, such as seed-0, or with one of several: seed-0,seed-1; repeatable, for "
            "another axis. Contrasts are still those of the whole experiment.",
            metavar="PART",
        ),
    ] = None,
    sets: Set = None,
    limit: Limit = None,
    quick: Quick = False,
    shelf: Shelf = None,
    device: Device = "auto",
    threads: Threads = None,
    micro_batch: MicroBatch = None,
    compile_: Compile = False,
    no_compile: NoCompile = False,
    checkpoint_activations: CheckpointActivations = False,
    shard: Shard = False,
    capture: Capture = False,
    engine: Annotated[str, typer.Option("--engine", metavar="ENGINE", help="Where nodes run: local, ray or slurm.")] = "local",
    slots: Annotated[
        int | None, typer.Option("--slots", metavar="N", help="Nodes to run in parallel. Default: one for every visible GPU.", min=1)
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", metavar="N", help="Processes (GPUs) for each node, started by torchrun.", min=1)] = 1,
    sbatch: Annotated[
        list[str] | None, typer.Option("--sbatch", help="An option for sbatch, such as partition=gpu; repeatable.", metavar="NAME=VALUE")
    ] = None,
    leave: Annotated[
        bool, typer.Option("--leave", help="With slurm: submit the jobs and exit. The same command later shows their state and the report.")
    ] = False,
) -> None:
    """Run every cell of an experiment; shared work is done once. Several processes may share the work: start the same command in each."""
    choice = Choice(engine=engine, slots=slots, leave=leave, sbatch=_sbatch(sbatch or []))
    choice.check(ranks)
    plan_, labels, run_cells = planned(experiment, preset, trial(sets, limit, quick), shelf, data)
    loaded = experiment_at(experiment, preset, shelf) if is_experiment(experiment, shelf) else None
    bench = Bench(
        out=str(out), device=device, threads=threads, micro_batch=micro_batch, compile=_compiles(compile_, no_compile), ranks=ranks,
        checkpoint_activations=checkpoint_activations, shard=shard, capture=capture,
    )  # fmt: skip
    chosen = plan_.of(chosen_runs(run_cells, parts_of_cells(loaded) if loaded is not None else {}, only or []))
    if loaded is not None and is_main():
        declare(loaded, plan_, run_cells, out)
    plan_ = chosen
    outcome = run_plan(plan_, out, bench, keep_going=True, shelf=shelf, choice=choice, display=DISPLAY)
    if outcome.left:
        notify(f"{len(outcome.left)} of {len(plan_.nodes)} nodes were given to SLURM; the same command shows their progress.")
    if is_main():
        with gc_paused(), contextlib.suppress(*([BadInput] if outcome.left else [])):  # nothing is scored yet
            recorded = {r.name: r.config for r in plan_.runs}
            show(out, list(recorded), grid=experiment, labels=labels, cells=run_cells, experiment=loaded, recorded=recorded)
    if outcome.failed:
        bad = [r.name for r in plan_.runs if any(k in outcome.failed or k in outcome.skipped for k in r.nodes)]
        if len(bad) == len(plan_.runs):
            raise next(iter(outcome.failed.values()))
        raise CellsFailed(f"{len(bad)} of {len(plan_.runs)} cells failed ({', '.join(bad[:5])}): {next(iter(outcome.failed.values()))}")


def chosen_runs(cells: Mapping[str, str], parts: Mapping[str, Sequence[str]], only: Sequence[str]) -> list[str]:
    """The runs whose cell has, for every entry of ``only``, one of its comma-separated parts. ``cells``: name of a run -> its cell;
    ``parts``: cell -> the names of its values. Raises UnknownName for a part that no cell has, BadInput if no cell has all of them."""
    every = sorted({part for cell in cells.values() for part in parts.get(cell, ())})
    if only and not every:
        raise BadInput("--only chooses among the cells of an experiment with axes, and there are none here; leave it out.")
    wanted = [[word.strip() for word in entry.split(",")] for entry in only]
    for word in (word for entry in wanted for word in entry):
        if word not in every:
            raise unknown("part of a cell", word, every)
    found = [name for name, cell in cells.items() if all(set(parts.get(cell, ())) & set(entry) for entry in wanted)]
    if not found:
        raise BadInput(f"no cell has {' and '.join(f'--only {entry}' for entry in only)} together; leave one of them out.")
    return found


def _compiles(compile_: bool, no_compile: bool) -> bool | None:
    """The user's choice; None if there is none."""
    if compile_ and no_compile:
        raise BadConfig("--compile and --no-compile contradict each other; give one.")
    return True if compile_ else False if no_compile else None


def planned(
    experiment: str, preset: str, sets: list[str], shelf: Path | None, data: str | None
) -> tuple[Plan, dict[str, str], dict[str, str]]:
    """The plan of an experiment, the label of each run, and its cell. Reports runs that need the same nodes."""
    with gc_paused():
        named = cells_of(experiment, preset, sets, shelf, data=data)
        plan_ = report_repeats(make_plan({name: config for name, (_, config) in named.items()}, shelf))
    labels = cell_labels(experiment_at(experiment, preset, shelf)) if is_experiment(experiment, shelf) else {}
    run_cells = {name: cell for name, (cell, _) in named.items()}
    return plan_, {name: labels[cell] for name, cell in run_cells.items() if labels.get(cell)}, run_cells


def report_repeats(plan_: Plan) -> Plan:
    """Reports every run that needs the same nodes as another one; returns the plan unchanged."""
    for name, other in plan_.repeated().items():
        notify(f"runs '{name}' and '{other}' need the same stages; their work is done once and their rows are equal.")
    return plan_


def _sbatch(words: list[str]) -> dict[str, str]:
    """``--sbatch NAME=VALUE`` words."""
    options = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.strip("-"):
            raise BadInput(f"--sbatch {word}: write it as NAME=VALUE, such as partition=gpu.")
        options[name.lstrip("-")] = value
    return options
