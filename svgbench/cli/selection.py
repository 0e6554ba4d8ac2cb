"""The runs that an argument of ``report`` or ``figures`` names: one run, or those of an experiment with its options."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from svgbench.config.experiments import experiment_at
from svgbench.config.records import canonical
from svgbench.config.schema import DRAWN, RunConfig
from svgbench.errors import BadInput, SvgbenchError
from svgbench.lab.configs import DEFAULT_PRESET, cells_of, is_experiment
from svgbench.shelf import read_yaml
from svgbench.tables.labels import cell_labels

QUICK = {
    "data.limit": 64, "autoencoder.training.total_images": 96, "autoencoder.loss.adversarial_start_images": 32,
    "autoencoder.training.optimiser.decay_start_images": 0, "diffusion.training.total_images": 256,
    "diffusion.training.optimiser.decay_start_images": 0, "sampling.steps": "[2, 5]", "scores.resamples": 10, "scores.probe.epochs": 5,
    "scores.segmentation.epochs": 2, "scores.segmentation.head.total_images": 64, "scores.depth.head.total_images": 64,
    "continued.*.autoencoder.images": 96, "continued.*.diffusion.images": 256,
    "scores.paper.linear.epochs": 2, "scores.paper.fpn.total_images": 64, "scores.paper.deconv.epochs": 2,
}  # fmt: skip
"""What ``--quick`` sets: at the preset tiny 3 updates of the autoencoder, 2 of them adversarial, and 4 of the transformer; samples of few
steps; few epochs and updates of the probes' heads; few bootstrap resamples. Learning rates decay from the first image, because the
configured start of the decay may lie after the end of the trial."""

Preset = Annotated[str, typer.Option("--preset", metavar="PRESET", help="The --preset the experiment was run with.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A --set it was run with; repeatable.", metavar="FIELD=VALUE")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="The --limit it was run with.", min=1)]
Quick = Annotated[bool, typer.Option("--quick", help="It was run with --quick.")]
Data = Annotated[str | None, typer.Option("--data", metavar="PATH", help="The --data it was run with.")]
Shelf = Annotated[Path | None, typer.Option("--shelf", metavar="DIR", help="A folder of your own encoder cards and experiments.")]


def directory(out: Path) -> Path:
    """``--out``; raises BadInput when it exists and is not a directory."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out} is not a directory; give a directory, or a new name.")
    return out


def trial(sets: list[str] | None, limit: int | None, quick: bool) -> list[str]:
    """The ``--set`` options, with those that ``--limit`` and ``--quick`` imply; a ``--set`` overrides ``--quick``."""
    shortened = [f"{path}={value}" for path, value in QUICK.items()] if quick else []
    return [*shortened, *(sets or []), *([f"data.limit={limit}"] if limit else [])]


def pasted(verb: str, *words: object) -> str:
    """A command that can be pasted into a shell, without ``--out runs``, which is the default."""
    plain = ["svgbench", verb, *map(str, words)]
    for i in range(len(plain) - 1):
        if plain[i : i + 2] == ["--out", "runs"]:
            del plain[i : i + 2]
            break
    return shlex.join(plain)


@dataclass(frozen=True)
class Named:
    """How an experiment was run, and where its runs are."""

    out: Path
    preset: str = DEFAULT_PRESET
    sets: list[str] | None = None
    limit: int | None = None
    shelf: Path | None = None
    data: str | None = None
    quick: bool = False

    def known(self) -> set[str]:
        """Names of the recorded runs."""
        return {place.parent.name for place in self.out.glob("*/run.json")}

    def is_experiment(self, name: str) -> bool:
        """Whether a name is an experiment and not a recorded run."""
        return name not in self.known() and is_experiment(name, self.shelf)

    def runs(self, experiment: str) -> tuple[list[str], int]:
        """The names of an experiment's recorded runs, and its total number of runs. Raises BadInput if none is recorded."""
        wanted, known = self._configs(experiment), self.known()
        recorded = [run for run in wanted if run in known]
        if not recorded:
            raise BadInput(f"{self.out} holds no run of the experiment '{experiment}'; run: {self.command(experiment)}.")
        return recorded, len(wanted)

    def of_name(self, name: str) -> list[str]:
        """The recorded runs of a name that is no experiment: a run's name, or an encoder with these settings. An unknown name is returned
        as it is, for an error with the closest names."""
        if name in self.known():
            return [name]
        try:
            return self.runs(name)[0]
        except BadInput:
            return [name]

    def cells(self, experiment: str) -> dict[str, str]:
        """Name of each run -> the name of its cell in the experiment's file."""
        return {name: cell for name, (cell, _) in self._configs(experiment).items()}

    def labels(self, experiment: str) -> dict[str, str]:
        """Name of each run -> the values of the experiment's axes, as shown in tables."""
        labels = cell_labels(experiment_at(experiment, self.preset, self.shelf))
        return {name: labels[cell] for name, cell in self.cells(experiment).items() if labels.get(cell)}

    def _configs(self, experiment: str) -> dict[str, tuple[str, RunConfig]]:
        """The experiment's runs with their cells; its images need not be on this machine."""
        sets = trial(self.sets, self.limit, self.quick)
        configs = cells_of(experiment, self.preset, sets, self.shelf, data=self.data, resolved=False, report_repeats=False)
        missing = {name for name, (_, config) in configs.items() if not config.data.drawn} - self.known()
        if not missing:
            return configs
        recorded = self._recorded()
        return {recorded.get(_work(one[1]), name) if name in missing else name: one for name, one in configs.items()}

    def _recorded(self) -> dict[str, str]:
        """Configuration -> name of its recorded run, which for a user's images contains their path as given when it was run."""
        recorded = {}
        for name in sorted(self.known()):
            with contextlib.suppress(SvgbenchError, ValidationError):
                recorded[_work(RunConfig.model_validate(read_yaml(self.out / name / "config.yaml")))] = name
        return recorded

    def command(self, experiment: str) -> str:
        """The command that runs the experiment."""
        words: list[object] = [experiment]
        words += ["--preset", self.preset] if self.preset != DEFAULT_PRESET else []
        words += [word for one in self.sets or [] for word in ("--set", one)]
        words += ["--data", self.data] if self.data else []
        words += ["--limit", str(self.limit)] if self.limit else []
        words += ["--quick"] if self.quick else []
        words += ["--shelf", str(self.shelf)] if self.shelf else []
        return pasted("ablate", *words, "--out", self.out)


def _work(config: RunConfig) -> str:
    """A configuration as text, without fields that planning fills in, and with the absolute path of its images."""
    content = config.model_dump(mode="json")
    source = content["data"]["source"]
    if source not in DRAWN and Path(source).expanduser().exists():
        content["data"]["source"] = str(Path(source).expanduser().resolve())
    return canonical(_unfilled(content))


def _unfilled(content: Any) -> Any:
    """A configuration as JSON data without identities and opened cards."""
    if not isinstance(content, dict):
        return content
    return {name: _unfilled(value) for name, value in content.items() if name not in ("identity", "opened")}
