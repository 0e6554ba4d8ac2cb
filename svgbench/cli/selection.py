"""The runs that a word of ``report`` and ``figures`` stands for: a run's own name, or an experiment's and how it was run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from svgbench.config.experiments import load_experiment
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput
from svgbench.lab.configs import DEFAULT_PRESET, cells_of, is_experiment
from svgbench.tables.labels import cell_labels

Preset = Annotated[str, typer.Option("--preset", help="The preset an experiment was run with.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="The fields it was run with: a.b=c. Repeatable.", metavar="A.B=C")]
Limit = Annotated[int | None, typer.Option("--limit", help="The --limit it was run with.", min=1)]
Shelf = Annotated[Path | None, typer.Option("--shelf", help="A folder of your own cards and experiments.")]


def directory(out: Path) -> Path:
    """``--out``, which is a directory or free; BadInput for a file, a device, a pipe."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out} is not a directory; give a directory, or a new name.")
    return out


@dataclass(frozen=True)
class Named:
    """How an experiment was run, and where its runs are."""

    out: Path
    preset: str = DEFAULT_PRESET
    sets: list[str] | None = None
    limit: int | None = None
    shelf: Path | None = None

    def known(self) -> set[str]:
        """Names of the runs that are there."""
        return {place.parent.name for place in self.out.glob("*/run.json")}

    def is_experiment(self, name: str) -> bool:
        """Whether a name is an experiment's, and not that of a run that is there."""
        return name not in self.known() and is_experiment(name, self.shelf)

    def runs(self, experiment: str) -> tuple[list[str], int]:
        """Those runs of an experiment that are there, and how many it has; BadInput where there is none."""
        wanted, known = self._configs(experiment), self.known()
        found = [run for run in wanted if run in known]
        if not found:
            raise BadInput(f"{self.out} holds no run of the experiment '{experiment}'; run: {self.command(experiment)}.")
        return found, len(wanted)

    def cells(self, experiment: str) -> dict[str, str]:
        """Name of each run -> the name its cell has in the experiment's file."""
        return {name: cell for name, (cell, _) in self._configs(experiment).items()}

    def labels(self, experiment: str) -> dict[str, str]:
        """Name of each run -> the values of the experiment's axes, for people."""
        labels = cell_labels(load_experiment(experiment, self.shelf))
        return {name: labels[cell] for name, cell in self.cells(experiment).items() if labels.get(cell)}

    def _configs(self, experiment: str) -> dict[str, tuple[str, RunConfig]]:
        """The experiment's runs with their cells; its images need not be on this machine."""
        sets = [*(self.sets or []), *([f"data.limit={self.limit}"] if self.limit else [])]
        return cells_of(experiment, self.preset, sets, self.shelf, resolved=False)

    def command(self, experiment: str) -> str:
        """What makes the runs of an experiment."""
        words = ["svgbench", "ablate", experiment]
        words += ["--preset", self.preset] if self.preset != DEFAULT_PRESET else []
        words += [word for one in self.sets or [] for word in ("--set", one)]
        words += ["--limit", str(self.limit)] if self.limit else []
        words += ["--shelf", str(self.shelf)] if self.shelf else []
        words += ["--out", str(self.out)] if self.out != Path("runs") else []
        return shlex.join(words)
