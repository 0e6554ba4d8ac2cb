"""Runs: planning, running and loading them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from svgbench.api.models import check_labels, check_precision, check_range
from svgbench.api.scores import frame, results
from svgbench.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from svgbench.config.schema import RunConfig
    from svgbench.lab.plan import Plan
    from svgbench.nets.tokenizer import Codec, Tokenizer

NEEDED = ("autoencoder", "statistics", "diffusion")
"""The artifacts needed to draw samples."""
PLAN_COLUMNS = {
    "stage": "string", "cell": "string", "key": "string", "runs": "Int64", "state": "string", "flops": "Float64", "seconds": "Float64",
    "bytes": "Int64",
}  # fmt: skip


def load_run(out: str | Path, name: str, device: str = "auto") -> LoadedRun:
    """A finished run of an output directory: its tokenizer, model, samples and scores. Raises UnknownName if ``out`` has no such run."""
    return LoadedRun(Path(out), name, device)


class LoadedRun:
    """A finished run. Its networks are loaded on first use, and their files are checked against their digests."""

    def __init__(self, out: Path, name: str, device: str = "auto") -> None:
        from svgbench.lab.store import Store
        from svgbench.stages.graph import by_name
        from svgbench.tables.collect import collect

        self.name, self._out, self._device = name, out, device
        self._record, self._store = collect(out, [name])[0], Store(out / "store")
        stages = [(stage["stage"], stage["key"]) for stage in self._record.about["stages"]]
        self._keys = {by_name(stage).provides or stage: (stage, key) for stage, key in stages}

    def __repr__(self) -> str:
        return f"<svgbench run '{self.name}' of {self._out}>"

    @cached_property
    def config(self) -> RunConfig:
        """The run's configuration."""
        from svgbench.config.schema import RunConfig

        return RunConfig.model_validate(self._record.config())

    @property
    def scores(self) -> pd.DataFrame:
        """One row per score, with the columns of ``results``."""
        return results(self._out, [self.name])

    @property
    def tokenizer(self) -> Tokenizer | Codec:
        """``encode(images [B, 3, H, W] in [0, 1]) -> raw latents [B, C, h, w]`` and ``decode(raw latents) -> images``."""
        return self._generator.tokenizer if set(NEEDED) <= set(self._keys) else self._tokenizer

    @property
    def model(self) -> Any:
        """The trained transformer, for ``sample``: called as (x [B, C, h, w], times [B], labels [B]), except for the objective ``mar``. Its
        latents are standardised."""
        return self._generator.model

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self._generator.classes

    def standardise(self, raw: Tensor) -> Tensor:
        """Raw latents [B, C, h, w] of the tokenizer -> the latents that the model is trained on (``latents.standardise``)."""
        return self._generator.stats.standardise(raw)

    def restore(self, latents: Tensor) -> Tensor:
        """Standardised latents [B, C, h, w] of the model -> raw latents for ``tokenizer.decode``."""
        return self._generator.stats.restore(latents)

    def sample(
        self,
        labels: Sequence[int],
        *,
        steps: int | None = None,
        guidance: float = 1.0,
        sampler: str | None = None,
        shift: float | None = None,
        schedule: str | None = None,
        zero_init: int | None = None,
        precision: Literal["fp32", "bf16"] | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] for class labels [B], as ``svgbench sample`` draws them.

        ``steps``: if None 25, and for the objective ``mar`` the most rounds that the run draws.
        ``sampler``, ``shift``, ``schedule``, ``zero_init``, ``precision``: those of the run if None. Image i depends only on its label,
        its index i and the seed. Raises BadInput for a label that does not exist, BadConfig for settings out of range.
        """
        import torch

        from svgbench.config.choices import usual_steps
        from svgbench.config.sampling import TUNED, SamplingProtocol
        from svgbench.stages.tuning import chosen

        config = self._record.config()
        steps = steps or usual_steps(config["diffusion"].get("objective", "flow"), config["sampling"]["steps"])
        asked: dict[str, Any] = {
            "steps": steps, "guidance": guidance, "sampler": sampler, "shift": shift, "schedule": schedule, "zero_init": zero_init,
            "precision": precision,
        }  # fmt: skip
        settings = {**config["sampling"], **{name: value for name, value in asked.items() if value is not None}}
        place = self._place("shift-choice") if settings["shift"] == TUNED else None
        check_precision(settings.get("precision", "fp32"))
        sampling = SamplingProtocol.of(settings, chosen(place))
        check_range(sampling.steps, sampling.guidance, sampling.shift)
        check_labels(labels, len(self.classes), unconditional=False)
        numbers = torch.as_tensor(labels, dtype=torch.int64)
        return self._generator.with_seed(seed).images(torch.arange(len(numbers)), numbers, sampling)

    @cached_property
    def _generator(self) -> Any:
        from svgbench.machine.runtime import Runtime
        from svgbench.stages.samples import Generator

        places = {need: self._place(need) for need in NEEDED}
        return Generator(places, Runtime(device=self._device, quiet=True).start(), 0)

    @cached_property
    def _tokenizer(self) -> Tokenizer | Codec:
        from svgbench.machine.runtime import Runtime
        from svgbench.stages.tokenizers import open_tokenizer

        return open_tokenizer(self._place("autoencoder"), Runtime(device=self._device, quiet=True).start())

    def _place(self, need: str) -> Path:
        """The directory of an artifact. Raises BrokenArtifact if its files have changed since they were written."""
        if need not in self._keys and not self.config.generation:
            raise BadInput(f"run '{self.name}' was made with --no-generation and has no {need} stage; run its command again without it.")
        if need not in self._keys:
            raise BadInput(f"run '{self.name}' has no finished {need} stage; run its command again first.")
        self._store.verify(*self._keys[need])
        return self._store.place(*self._keys[need])


def plan(
    experiment: str,
    *,
    out: str | Path = "runs",
    preset: str | None = None,
    data: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    shelf: str | Path | None = None,
) -> pd.DataFrame:
    """What ``run`` with the same arguments would do: one row per stage execution, in a valid order. Writes nothing. ``preset``: tiny,
    small or paper; None: the default of the command line.

    Columns: ``stage``; ``cell`` (its steps, guidance, ...); ``key``; ``runs`` (how many runs use it); ``state``
    (``exists`` or ``to run``); ``flops``; ``seconds`` and ``bytes`` (measured if it exists, else estimated).
    """
    from svgbench.lab.finished import Finished
    from svgbench.lab.forecast.estimate import estimates
    from svgbench.lab.forecast.speed import GPUS, pace_of
    from svgbench.lab.plan import shown_cell
    from svgbench.lab.store import Store

    (made, _), extra = _planned(experiment, preset, data, settings, shelf), Path(shelf) if shelf else None
    finished, expected = Finished(made, Store(Path(out) / "store")), estimates(made, extra)
    pace = pace_of(max(GPUS.get(run.config.preset, 0) for run in made.runs), Path(out) / "store")
    rows = []
    for key, node in made.nodes.items():
        manifest, estimate = finished.manifest(key), expected.nodes[key]
        rows.append({
            "stage": node.stage, "cell": ", ".join(f"{name} {value:g}" for name, value in shown_cell(node.cell).items()), "key": key,
            "runs": sum(key in run.nodes for run in made.runs), "state": "exists" if manifest else "to run", "flops": estimate.flops,
            "seconds": manifest.seconds if manifest else pace.seconds(estimate, node.stage),
            "bytes": sum(manifest.sizes.values()) if manifest else estimate.kept,
        })  # fmt: skip
    return frame(rows, PLAN_COLUMNS)


def run(
    experiment: str,
    *,
    out: str | Path = "runs",
    preset: str | None = None,
    data: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    shelf: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> pd.DataFrame:
    """Trains and scores every cell of an experiment, or one encoder, in this process, and returns the ``results`` of its runs.

    ``experiment``: an experiment of the shelf, a YAML file, or an encoder's card or family. ``settings``: dotted fields of the
    configuration, ``{"sampling.steps": [25]}``. Artifacts that are already in the store under ``out`` are reused. Raises ``CellsFailed``
    if some cells failed (the others' results are in ``results(out)``), else the errors of ``svgbench run``.
    """
    from svgbench.config.experiments import DEFAULT_PRESET, experiment_at
    from svgbench.lab.configs import is_experiment
    from svgbench.lab.contrasts import declare
    from svgbench.lab.engines import Choice
    from svgbench.lab.run_plan import raise_failures, run_plan
    from svgbench.lab.worker import Bench

    made, cells = _planned(experiment, preset, data, settings, shelf)
    extra = Path(shelf) if shelf else None
    if is_experiment(experiment, extra):
        declare(experiment_at(experiment, preset or DEFAULT_PRESET, extra), made, cells, Path(out))
    bench = Bench(out=str(out), device=device, threads=threads)
    outcome = run_plan(made, Path(out), bench, keep_going=True, shelf=extra, choice=Choice(slots=1))
    raise_failures(made, outcome)
    return results(out, [one.name for one in made.runs])


def _planned(
    experiment: str, preset: str | None, data: str | Path | None, settings: Mapping[str, Any] | None, shelf: str | Path | None
) -> tuple[Plan, dict[str, str]]:
    """The plan, and the cell of each run."""
    from svgbench.lab.configs import DEFAULT_PRESET, cells_of
    from svgbench.lab.plan import make_plan

    extra = Path(shelf) if shelf else None
    sets = [f"{path}={json.dumps(value, default=str)}" for path, value in (settings or {}).items()]
    named = cells_of(experiment, preset or DEFAULT_PRESET, sets, extra, data=None if data is None else str(data))
    return make_plan({name: config for name, (_, config) in named.items()}, extra), {name: cell for name, (cell, _) in named.items()}
