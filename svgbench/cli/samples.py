"""``sample``: pictures from a trained run. ``pretrain``: the weights of a tiny encoder."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from svgbench.cli.selection import directory
from svgbench.config.choices import LEAST_SHIFT, MOST_GUIDANCE, MOST_STEPS, SCHEDULE_HELP, sampler_help, usual_steps
from svgbench.config.sampling import SamplingProtocol
from svgbench.errors import BadInput, printable
from svgbench.lab.store import Store
from svgbench.machine.files import guarded, regular
from svgbench.shelf import read_yaml
from svgbench.stages.graph import by_name
from svgbench.tables.collect import collect

NEEDED = ("autoencoder", "statistics", "diffusion")
"""The stages from which samples are drawn."""
TAKEN = (*NEEDED, "shift-choice")
"""The same stages, and the one that chooses a tuned shift."""


class StoredSamples(NamedTuple):
    """Selects one of a run's sets of stored samples."""

    steps: int
    guidance: float
    trained: float
    """The share of the training after which they were drawn."""

    @property
    def words(self) -> str:
        """The options that select them; the end of the training is the default."""
        share = "" if self.trained == 1 else f" --trained {self.trained:g}"
        return f"--steps {self.steps} --guidance {self.guidance:g}{share}"


def sample(
    run: Annotated[str, typer.Argument(help="A run's name under --out.")],
    to: Annotated[
        Path,
        typer.Option("--to", metavar="FILE", help="A .png to draw new samples, or an .npz to export the stored samples that were scored."),
    ],
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="LABELS", help="Class numbers, separated by commas. Default: every class once.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            min=1,
            max=MOST_STEPS,
            help="Steps of the sampler. Default: 25; for the objective mar, the most rounds of the run.",
        ),
    ] = None,
    guidance: Annotated[
        float, typer.Option("--guidance", metavar="SCALE", min=0.0, max=MOST_GUIDANCE, help="Guidance scale; 1 is unguided.")
    ] = 1.0,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler",
            metavar="NAME",
            help=f"{sampler_help()}. Default: the run's.",
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", metavar="NAME", help=f"Guidance over time: {SCHEDULE_HELP}. Default: the run's."),
    ] = None,
    shift: Annotated[
        float | None, typer.Option("--shift", metavar="X", min=LEAST_SHIFT, help="Shift of the sampling times. Default: the run's.")
    ] = None,
    zero_init: Annotated[
        int | None,
        typer.Option("--zero-init", metavar="N", min=0, help="The first N steps take velocity zero. Default: the run's."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Seed of the noise. Default: 0.")] = None,
    trained: Annotated[
        float | None,
        typer.Option("--trained", metavar="SHARE", help="For an .npz: samples drawn after this share of the training; 1 is its end."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", callback=directory, help="The output directory of the runs.")] = Path("runs"),
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Draw samples of a finished run as one PNG, in the order of the labels, or export the samples that were scored (.npz)."""
    regular(to, instead="give the path of a .png or .npz file")
    if to.suffix.lower() == ".npz":
        given = {
            "--labels": labels, "--seed": seed, "--sampler": sampler, "--schedule": schedule, "--shift": shift, "--zero-init": zero_init,
        }  # fmt: skip
        if unused := [option for option, value in given.items() if value is not None]:
            raise BadInput(f"an .npz holds the samples that the run was scored by; leave out {', '.join(unused)}, or draw to a .png.")
        _export(out, run, to, StoredSamples(steps or _usual_steps(out, run), guidance, 1.0 if trained is None else trained))
        return
    if to.suffix.lower() != ".png":
        raise BadInput(f"--to {to} must end in .png, or in .npz for the stored samples.")
    if trained is not None:
        raise BadInput("--trained chooses among stored samples; give it with an .npz, a .png is drawn from the end of the training.")
    try:
        numbers = [int(word) for word in labels.split(",")] if labels else None
    except ValueError:
        raise BadInput(f"--labels {labels}: write class numbers with commas between, for example 207,360.") from None
    record = collect(out, [run])[0]
    store, inputs = Store(out / "store"), {}
    for stage in record.about["stages"]:
        provided = by_name(stage["stage"]).provides or stage["stage"]
        if provided in TAKEN:
            store.sweep([store.verify(stage["stage"], stage["key"])])
            inputs[provided] = store.place(stage["stage"], stage["key"])
    missing = [name for name in NEEDED if name not in inputs]
    if missing and not record.config().get("generation", True):
        raise BadInput(f"run '{run}' was made with --no-generation and has no samples; run its command again without it.")
    if missing:
        raise BadInput(f"run '{run}' has no finished {missing[0]} stage; run its command again first.")
    from svgbench.machine.runtime import Runtime
    from svgbench.stages.pictures import sample_sheet

    recorded = read_yaml(record.place / "config.yaml")["sampling"]
    options = {
        "steps": steps or _usual_steps(out, run),
        "guidance": guidance,
        "sampler": sampler,
        "schedule": schedule,
        "shift": shift,
        "zero_init": zero_init,
    }
    settings = {**recorded, **{name: value for name, value in options.items() if value is not None}}
    sampling = {name: settings[name] for name in SamplingProtocol.model_fields if name in settings}
    slice_ = {"sampling": sampling, "seed": seed or 0}
    sample_sheet(slice_, inputs, to, Runtime(device=device).start(), labels=numbers)
    sys.stdout.write(f"{printable(to)}\n")


def _usual_steps(out: Path, run: str) -> int:
    """Number of steps where the user names none."""
    config = read_yaml(collect(out, [run])[0].place / "config.yaml")
    return usual_steps(config["diffusion"].get("objective", "flow"), config["sampling"]["steps"])


def _export(out: Path, run: str, to: Path, wanted: StoredSamples) -> None:
    """The stored samples of one cell as the ``.npz`` that the ADM evaluator reads."""
    stored = {}
    for stage in collect(out, [run])[0].about["stages"]:
        if stage["stage"] == "samples":
            cell = stage["cell"]
            stored[StoredSamples(cell["sampling.steps"], cell["sampling.guidance"], cell.get("sampling.trained", 1.0))] = stage["key"]
    if wanted not in stored:
        known = ", ".join(drawn.words for drawn in stored) or "none"
        raise BadInput(f"run '{run}' has no samples of {wanted.words}; it has: {known}.")
    store, key = Store(out / "store"), stored[wanted]
    store.verify("samples", key)
    import numpy as np

    from svgbench.metrics.npz import save_npz

    with guarded(to):
        save_npz(to, np.load(store.place("samples", key) / "samples.npy", mmap_mode="r"))
    sys.stdout.write(f"{printable(to)}\n")


def pretrain(
    name: Annotated[
        str, typer.Argument(help="A shipped network: a card such as dinov3-mini, or a judge such as scenes-cnn or scenes-simclr.")
    ],
    out: Annotated[
        Path, typer.Option("--out", callback=directory, metavar="DIR", help="Where the weights and the log are written.")
    ] = Path("pretrained"),
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads. Default: PyTorch's choice.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the pretraining; 0: the shipped one.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Train nothing; measure the shipped weights again.")] = False,
) -> None:
    """Train the weights of a shipped encoder or judge on the drawn images, with its family's own objective, and measure them. Needs the
    extra [pretrain]; --check does not."""
    absent = [name for name in ("lightly", "open_clip") if importlib.util.find_spec(name) is None]
    if absent and not check:
        raise BadInput(f"pretraining needs {' and '.join(absent)}; install them: pip install 'svgbench[pretrain]'.")
    if check and seed:
        raise BadInput("--check measures the shipped weights, which are of seed 0; leave out --seed.")
    from svgbench.machine.runtime import Runtime
    from svgbench.pretraining import pretrain as train
    from svgbench.pretraining.figures import figures
    from svgbench.pretraining.recipes import known

    runtime, name = Runtime(device=device, threads=threads).start(), known(name)
    result = {"name": name} if check else train(name, out, runtime, seed=seed)
    measured = figures(name, runtime, weights=None if check else Path(result["file"]))
    result["figures"] = {what: round(value, 2) for what, value in measured.items()}
    sys.stdout.write(json.dumps(result, indent=1, default=str) + "\n")
