"""The runs that an argument of ``report`` and ``figures`` names: one run, or all of an experiment and how it was run."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from svgbench.config.experiments import cells, load_experiment
from svgbench.config.records import canonical
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput, SvgbenchError
from svgbench.lab.configs import DEFAULT_PRESET, configs_of, is_experiment
from svgbench.shelf import read_yaml
from svgbench.tables.report import group_name

DIGEST = re.compile(r"\.[0-9a-f]{6}(?=\.|$)")
"""The part of a run's name that replaces a long list of settings."""

QUICK = {
    "data.limit": 64, "autoencoder.training.total_images": 96, "autoencoder.loss.adversarial_start_images": 32,
    "diffusion.training.total_images": 256,
}  # fmt: skip
"""What ``--quick`` sets: at tiny 3 updates of the autoencoder, 2 of them adversarial, and 4 of the transformer."""

Preset = Annotated[str, typer.Option("--preset", metavar="PRESET", help="The --preset the experiment was run with.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A --set it was run with; repeatable.", metavar="FIELD=VALUE")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="The --limit it was run with.", min=1)]
Quick = Annotated[bool, typer.Option("--quick", help="It was run with --quick.")]
Data = Annotated[str | None, typer.Option("--data", metavar="PATH", help="The --data it was run with.")]
Shelf = Annotated[Path | None, typer.Option("--shelf", metavar="DIR", help="A folder of your own encoder cards and experiments.")]


def directory(out: Path) -> Path:
    """``--out``, which is a directory or free; BadInput for a file, a device, a pipe."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out} is not a directory; give a directory, or a new name.")
    return out


def trial(sets: list[str] | None, limit: int | None, quick: bool) -> list[str]:
    """``--set`` words with those that ``--limit`` and ``--quick`` stand for; a ``--set`` replaces what ``--quick`` sets."""
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


def hidden_cells(cells: Mapping[str, str]) -> dict[str, str]:
    """Row -> cell, for rows whose names do not contain the name of their cell."""
    return {row: cell for row, cell in cells.items() if DIGEST.search(row) or group_name(cell) not in group_name(row)}


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
        """The names of an experiment's recorded runs, and how many it has in all; BadInput if none is recorded."""
        wanted, known = self._configs(experiment), self.known()
        found = [run for run in wanted if run in known]
        if not found:
            raise BadInput(f"{self.out} holds no run of the experiment '{experiment}'; run: {self.command(experiment)}.")
        return found, len(wanted)

    def cells(self, experiment: str) -> dict[str, str]:
        """Row of a table -> its cell in the experiment's file; empty if two cells are the same run."""
        runs, own = list(self._configs(experiment)), list(cells(load_experiment(experiment, self.shelf), self.shelf))
        found: dict[str, str] = {}
        for run, cell in zip(runs, own, strict=True) if len(runs) == len(own) else []:
            found |= {run: cell, group_name(run): group_name(cell)} if group_name(cell) else {}
        return found

    def _configs(self, experiment: str) -> dict[str, RunConfig]:
        """Name -> configuration of the experiment's runs; its images need not be here."""
        sets = trial(self.sets, self.limit, self.quick)
        configs = configs_of(experiment, self.preset, sets, self.shelf, data=self.data, resolved=False)
        missing = {name for name, config in configs.items() if config.data.source != "shapes"} - self.known()
        if not missing:
            return configs
        recorded = self._recorded()
        return {recorded.get(_work(config), name) if name in missing else name: config for name, config in configs.items()}

    def _recorded(self) -> dict[str, str]:
        """Configuration -> its recorded run: the name of a run on images of the user's holds their path as it was written then."""
        found = {}
        for name in sorted(self.known()):
            with contextlib.suppress(SvgbenchError, ValidationError):
                found[_work(RunConfig.model_validate(read_yaml(self.out / name / "config.yaml")))] = name
        return found

    def command(self, experiment: str) -> str:
        """The command that makes the runs of an experiment."""
        words: list[object] = [experiment]
        words += ["--preset", self.preset] if self.preset != DEFAULT_PRESET else []
        words += [word for one in self.sets or [] for word in ("--set", one)]
        words += ["--data", self.data] if self.data else []
        words += ["--limit", str(self.limit)] if self.limit else []
        words += ["--quick"] if self.quick else []
        words += ["--shelf", str(self.shelf)] if self.shelf else []
        return pasted("ablate", *words, "--out", self.out)


def _work(config: RunConfig) -> str:
    """A configuration as text, without what planning fills in, with the place of its images however it was written."""
    content = config.model_dump(mode="json")
    source = content["data"]["source"]
    if source != "shapes" and Path(source).expanduser().exists():
        content["data"]["source"] = str(Path(source).expanduser().resolve())
    return canonical(_unfilled(content))


def _unfilled(content: Any) -> Any:
    """A configuration as in JSON without identities and opened cards."""
    if not isinstance(content, dict):
        return content
    return {name: _unfilled(value) for name, value in content.items() if name not in ("identity", "opened")}
