"""The record of an experiment's contrasts: when each was declared, and whether before any of its runs was scored. No torch.

``contrasts/EXPERIMENT.json`` in the output directory is written by the commands that run an experiment, before anything runs. An entry
holds the contrast, the runs that it compares, the time, and whether a score of these runs existed by then. Entries are never changed: an
edited contrast, or one with more runs, gets a new entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from svgbench.config.contrasts import Contrast, group_name
from svgbench.config.experiments import Experiment
from svgbench.config.records import SEALED, digest, seal, unseal
from svgbench.errors import BrokenArtifact
from svgbench.lab.finished import Finished
from svgbench.lab.plan import Plan
from svgbench.lab.store import Store, locked
from svgbench.machine.files import guarded, write_atomic
from svgbench.metrics.declared import METRICS

FOLDER = "contrasts"
WRITING_SECONDS = 60.0
"""How long a process waits while another one writes the same record."""


def runs_of(contrast: Contrast, cells: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The runs of each of a contrast's two cells; ``cells``: name of a run -> its cell."""
    one, other = ([run for run, cell in cells.items() if group_name(cell) == side] for side in contrast.between)
    return one, other


def identity(contrast: Contrast, cells: Mapping[str, str]) -> str:
    """Digest of a contrast and its runs, without its name and its reason, which may be reworded."""
    tested = contrast.model_dump(mode="json", exclude={"name", "why"})
    return digest([tested, [sorted(runs) for runs in runs_of(contrast, cells)]])


def declare(experiment: Experiment, plan: Plan, cells: Mapping[str, str], out: Path) -> None:
    """Records the contrasts of an experiment that are not yet recorded. ``plan``: of its runs; ``cells``: name of a run -> its cell."""
    if not experiment.contrasts or all(identity(one, cells) in declared(out, experiment) for one in experiment.contrasts):
        return
    finished = Finished(plan, Store(out / "store")).keys()
    place = out / FOLDER / f"{experiment.name}.json"
    with guarded(place, vanished=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_suffix(".lock")
        with locked(lock, what=f"the record {place}", patience=WRITING_SECONDS):
            entries = declared(out, experiment)
            for contrast in experiment.contrasts:
                key = identity(contrast, cells)
                runs = [name for side in runs_of(contrast, cells) for name in side]
                before = not any(_scored(plan, run, contrast.metric, finished) or _recorded(out / run, contrast.metric) for run in runs)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                entries.setdefault(key, {"contrast": contrast.model_dump(mode="json"), "runs": runs, "declared": now, "before": before})
            write_atomic(place, seal({"experiment": experiment.name, "format": SEALED, "entries": entries}))
            lock.unlink(missing_ok=True)


def declared(out: Path, experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Identity of a contrast -> its entry; empty if nothing is recorded. Raises BrokenArtifact for a damaged record."""
    place = out / FOLDER / f"{experiment.name}.json"
    try:
        return dict(unseal(place.read_bytes(), SEALED)["entries"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenArtifact(
            f"{place}: is damaged or cannot be read ({error}); restore it, or remove it: its contrasts then count as added after the runs."
        ) from None


def _scored(plan: Plan, run: str, metric: str, finished: set[str]) -> bool:
    """Whether a stage that computes this score is finished in a run. Nodes of other configurations, such as those for tuning
    the shift, do not count."""
    nodes = (key for one in plan.runs if one.name == run for key in one.nodes if one.reason(key) is None)
    return any(key in finished and plan.nodes[key].stage in METRICS[metric].stages for key in nodes)


def _recorded(place: Path, metric: str) -> bool:
    """Whether a run's record holds this score, from any version of its stage."""
    try:
        return any(row["metric"] == metric for row in json.loads((place / "scores.json").read_bytes()))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True  # damaged: its scores may have been read before
