"""The engines by name, and the simplest engine, which runs nodes in this process. No torch."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from svgbench.errors import BadInput, Interrupted, Occupied, SvgbenchError, unknown
from svgbench.lab.execute import Executor
from svgbench.lab.handoff import write_plan
from svgbench.lab.plan import Node, Plan
from svgbench.lab.schedule import Engine, Report
from svgbench.lab.worker import Bench
from svgbench.machine.files import remove_tree
from svgbench.machine.ranks import ranks as joined

ENGINES = {"local": None, "ray": "ray", "slurm": "submitit"}
"""Name -> the package it needs."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The choice of an engine and its options."""

    engine: str = "local"
    slots: int | None = None
    """Number of nodes that run at once; None: one per visible GPU of this machine, or as many as the cluster allows."""
    leave: bool = False
    """Submit the jobs and exit; SLURM runs them."""
    sbatch: dict[str, str] = field(default_factory=dict)

    def check(self, ranks: int) -> None:
        """Raises BadInput for an engine that does not exist, whose package is not installed, or whose options do not fit."""
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES)
        package = ENGINES[self.engine]
        if package is not None and importlib.util.find_spec(package) is None:
            install = f"pip install 'svgbench[{self.engine}]'"
            raise BadInput(f"--engine {self.engine} needs the package {package}, which is not installed; install it: {install}.")
        if self.engine != "slurm" and (self.sbatch or self.leave):
            raise BadInput(f"--{'sbatch' if self.sbatch else 'leave'} is for --engine slurm; leave it out, or choose that engine.")
        if self.engine == "slurm" and self.slots is not None:
            raise BadInput("--slots is not for --engine slurm, whose queue decides; use --sbatch array_parallelism=N.")
        if joined().world > 1 and (self.engine != "local" or (self.slots or 1) > 1 or ranks > 1):
            raise BadInput("under torchrun all processes work on one node at a time; leave out --engine, --slots and --ranks.")


@contextlib.contextmanager
def opened(
    choice: Choice, plan: Plan, missing: Iterable[str], out: Path, bench: Bench, *, notify: Callable[[str], None]
) -> Iterator[Engine]:
    """The engine that runs missing nodes outside this process; its plan file is removed at the end, unless SLURM's jobs still need it."""
    shared = out / ("slurm/plans" if choice.engine == "slurm" else "plans")
    file = write_plan(plan.nodes, missing, shared)
    try:
        engine = _start(choice, file, out, bench, notify)
        try:
            yield engine
        finally:
            engine.close()
    finally:
        if choice.engine != "slurm":
            remove_tree(file.parent)


def _start(choice: Choice, file: Path, out: Path, bench: Bench, notify: Callable[[str], None]) -> Engine:
    if choice.engine == "ray":
        if not joins_ray():  # Ray reads this at import; without it, Ray listens on all network interfaces
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        from svgbench.lab.ray_tasks import RayTasks

        return RayTasks(file, bench, choice.slots, notify=notify)
    if choice.engine == "slurm":
        from svgbench.lab.slurm import SlurmJobs

        return SlurmJobs(file, bench, out, notify=notify, sbatch=choice.sbatch)
    from svgbench.lab.processes import Processes, slots_here

    return Processes(file, bench, choice.slots or slots_here(bench), notify=notify)


def joins_ray() -> bool:
    """Whether the environment names a Ray cluster to join; otherwise Ray is started on this machine only."""
    return os.environ.get("RAY_ADDRESS", "").strip() not in ("", "local")


class Inline:
    """Executes nodes in this process, one after the other. Under torchrun all ranks execute the same nodes in the same order."""

    slots, ahead = 1, False

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._submitted: deque[Node] = deque()

    def submit(self, nodes: list[Node]) -> None:
        self._submitted.extend(nodes)

    def poll(self, seconds: float) -> list[Report]:
        if not self._submitted:
            time.sleep(seconds)
            return []
        node = self._submitted.popleft()
        try:
            return [Report(node.key, "ran" if self._executor.run(node.key) else "found")]
        except Interrupted:
            raise
        except Occupied as error:
            if self._executor.world > 1:
                raise  # the other ranks cannot wait together with this one
            return [Report(node.key, "occupied", error)]
        except SvgbenchError as error:
            return [Report(node.key, "failed", error)]

    def where(self, key: str) -> str:
        return "here"

    def stop(self) -> None:
        self._submitted.clear()

    def close(self) -> None:
        pass
