"""The Ray engine: each node is a task with CPUs and GPUs that waits for the tasks of its inputs. It runs on any machine of the cluster; all
must see the output directory.

Ray moves the tasks of a lost machine to another machine; a task resumes from the store, or waits until the store's lock is free.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from svgbench.errors import BadInput, Interrupted, SvgbenchError
from svgbench.lab.children import Deadline, is_saving
from svgbench.lab.engines import joins_ray
from svgbench.lab.handoff import clear_report, read_report
from svgbench.lab.plan import Node
from svgbench.lab.schedule import Report
from svgbench.lab.worker import Bench, Worker
from svgbench.machine.signals import GUARD, Stop
from svgbench.stages import graph

RETRIES = 3
"""How often Ray restarts a task whose worker or machine was lost."""


def work(plan: str, key: str, bench: dict[str, Any], here: str, *inputs: str) -> str:
    """Runs a node in a Ray worker; its report is written next to the plan. ``here``: the directory of relative paths; ``inputs``:
    results of the tasks that it waited for (unused)."""
    if Path(here).is_dir():
        os.chdir(here)
    if not Path(plan).is_file():
        raise FileNotFoundError(f"{plan} cannot be seen from {os.uname().nodename}; --out must be on a disk that every machine shares")
    return Worker(Path(plan), Bench(**bench)).work(key).state


def _open(folder: Path) -> None:
    """Joins the cluster at RAY_ADDRESS, or starts Ray on this machine, listening only on the loopback interface (``engines``).
    Ray's workers can import from the directory in which Ray is started, so it is started in ``folder``."""
    more: dict[str, Any] = {} if joins_ray() else {"address": "local"}
    safe = {"env_vars": {"PYTHONSAFEPATH": "1"}}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.chdir(folder):
            ray.init(
                log_to_driver=False, logging_level=logging.WARNING, configure_logging=True, include_dashboard=False, runtime_env=safe,
                **more,
            )  # fmt: skip
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS")
        raise BadInput(f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); correct it, or unset it.") from None


class RayTasks:
    """Tasks in the Ray cluster at RAY_ADDRESS, or in one started on this machine."""

    def __init__(self, plan: Path, bench: Bench, slots: int | None, *, notify: Callable[[str], None]) -> None:
        self.slots, self.ahead = slots, slots is None
        self._plan, self._bench, self._notify = plan, bench, notify
        self._own = not ray.is_initialized()
        if self._own:
            _open(plan.parent)
            GUARD.handle()  # Ray installs its own handler
        have = ray.cluster_resources()
        self._gpus = bench.ranks if have.get("GPU") and bench.device != "cpu" else 0
        self._cpus = (bench.threads or 1) * bench.ranks
        if bench.device.startswith("cuda") and not have.get("GPU"):
            raise BadInput(f"--device {bench.device} was asked for and no machine of the Ray cluster has a GPU; use --device cpu.")
        self._task = ray.remote(work)
        self._refs: dict[Any, tuple[Node, list[Any]]] = {}
        self._tasks: dict[str, Any] = {}
        self._gone: set[Any] = set()
        notify(
            f"ray: {len([n for n in ray.nodes() if n['Alive']])} machines, {have.get('CPU', 0):g} processors, {have.get('GPU', 0):g} GPUs"
        )

    def submit(self, nodes: list[Node]) -> None:
        for node in nodes:
            clear_report(self._plan, node.key)
            gpus = self._gpus if graph.by_name(node.stage).networks else 0
            task = self._task.options(
                num_cpus=self._cpus, num_gpus=gpus, max_retries=RETRIES, name=f"{node.stage} {node.key[:12]}", scheduling_strategy="SPREAD"
            )
            before = [self._tasks[key] for key in dict.fromkeys(node.inputs.values()) if key in self._tasks]
            ref = task.remote(str(self._plan), node.key, asdict(self._bench), os.getcwd(), *before)
            self._refs[ref] = (node, before)
            self._tasks[node.key] = ref

    def poll(self, seconds: float) -> list[Report]:
        if not self._refs:
            time.sleep(seconds)
            return []
        ended, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
        if not ended:
            ended, _ = ray.wait(list(self._refs), num_returns=1, timeout=seconds)
        come = set(ended)
        return [self._report(ref) for ref in list(self._refs) if ref in come]  # nodes after their inputs

    def _report(self, ref: Any) -> Report:
        node, before = self._refs.pop(ref)
        del self._tasks[node.key]
        try:
            ray.get(ref)
        except Exception as error:
            self._gone.add(ref)
            if self._gone & set(before):  # the error is from a task it waited for, so it never ran
                return Report(node.key, "unready")
            cause = getattr(error, "cause", None)
            lines = str(cause or error).strip().splitlines() or [type(error).__name__]
            if isinstance(cause, SvgbenchError) and not isinstance(cause, Interrupted):
                return Report(node.key, "failed", cause)
            return Report(node.key, "lost", SvgbenchError(f"its task in Ray ended: {lines[0]}"))
        report = read_report(self._plan, node.key)
        return report or Report(node.key, "lost", SvgbenchError("its task in Ray ended without a report"))

    def where(self, key: str) -> str:
        """Always "ray": Ray chooses the machine, which a node's progress file names."""
        return "ray"

    def stop(self) -> None:
        """Interrupts every task, which then saves its training; a second Ctrl-C kills them."""
        for ref in self._refs:
            ray.cancel(ref, force=False)
        left = list(self._refs)
        deadline = Deadline(lambda: self._saving(left))
        with Stop(), GUARD.hold():
            try:
                while left and not deadline.passed():
                    _, left = ray.wait(left, num_returns=len(left), timeout=0.5)
            finally:
                for ref in left:
                    ray.cancel(ref, force=True)

    def _saving(self, refs: list[Any]) -> bool:
        return any(is_saving(Path(self._bench.out), self._refs[ref][0].key) for ref in refs)

    def close(self) -> None:
        if self._own:
            ray.shutdown()
