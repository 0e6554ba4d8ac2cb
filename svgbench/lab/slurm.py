"""The SLURM engine, based on submitit: nodes of equal depth form an array job, which waits for the array jobs of its inputs.

All jobs are submitted at once and continue without this process. The same command, run again, finds its jobs, shows them while they are
queued, reports their results, and submits only what is then still missing. Jobs run ``svgbench node``; submitit stores only a list of
command-line arguments on disk. A job that reaches its time limit or is preempted saves its work and is queued again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import Checkpointable, DelayedSubmission

from svgbench.errors import BadInput, SvgbenchError, notify
from svgbench.lab.children import environment
from svgbench.lab.handoff import read_report
from svgbench.lab.plan import Node
from svgbench.lab.schedule import Report
from svgbench.lab.worker import Bench
from svgbench.machine.files import guarded, remove_tree, write_atomic
from svgbench.stages import graph

ARRAY = 1000
"""Largest number of jobs in an array: SLURM's default MaxArraySize is 1001."""
LOOK_SECONDS = 5.0
"""Seconds between two queries of the queue."""
GRACE_SECONDS = 20.0
"""Seconds that a shared disk may take to show the report of a job that left the queue."""
PATIENCE_SECONDS = 900.0
"""How long a job waits for a node that another process works on: a lock may outlive a lost machine on a shared disk."""
MINUTES = 720
"""Default time limit of a job in minutes; a training that needs longer is queued again and continues."""
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
"""Final states of a job; a job that is preempted or requeued runs again."""
OLD_SECONDS = 3600.0
"""Seconds that a plan without jobs is kept: another process may be submitting them."""
SIGNAL_SECONDS = 120
"""Seconds before the time limit at which a job is signalled to save its work."""


class Command(Checkpointable):
    """A command line that submitit runs; a preempted job first stops the command, which saves its work."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        self._process = subprocess.Popen(self.words, env=environment())
        self._until_ends(self._process)
        return self._process.wait()

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit inside the handler of a signal."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            self._until_ends(self._process)
        return DelayedSubmission(Command(self.words))

    @staticmethod
    def _until_ends(process: subprocess.Popen) -> None:
        """Waits for the process without collecting its status, so that a signal handler may wait inside another wait."""
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def _machines(count: Any) -> int:
    """The number of machines that ``--sbatch nodes=N`` requests."""
    if not str(count).isdecimal() or int(count) < 1:
        raise BadInput(f"--sbatch nodes={count}: give the number of machines that share a training, such as nodes=2.")
    return int(count)


class SlurmJobs:
    """Array jobs in the queue of this machine's cluster; ``cluster="local"`` uses submitit's local executor, for tests."""

    slots = None

    def __init__(
        self, plan: Path, bench: Bench, out: Path, *,
        notify: Callable[[str], None], sbatch: Mapping[str, Any] | None = None, cluster: str = "slurm",
    ) -> None:  # fmt: skip
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise BadInput("--engine slurm needs sbatch, which is not on this machine; run the command on a machine that submits to SLURM.")
        self.ahead = cluster == "slurm"
        self._plan, self._out, self._notify, self._cluster = plan, out.absolute() / "slurm", notify, cluster
        self._sbatch = dict(sbatch or {})
        self._bench = replace(bench, patience=PATIENCE_SECONDS, machines=_machines(self._sbatch.pop("nodes", 1)))
        self._held: dict[str, dict[str, Any]] = {}
        self._local: dict[str, Any] = {}
        self._queue: dict[str, str] = {}
        self._asked_at = 0.0
        self._missed: dict[str, float] = {}
        with guarded(self._out):
            self._out.mkdir(parents=True, exist_ok=True)

    def submit(self, nodes: list[Node]) -> None:
        new = []
        for node in nodes:
            entry = self._remembered(node)
            if entry is None:
                new.append(node)
            else:
                self._held[node.key] = entry
        for networks, ranks in itertools.product((True, False), ("all", "one")):
            kind = [node for node in new if (graph.by_name(node.stage).networks, graph.by_name(node.stage).ranks) == (networks, ranks)]
            for start in range(0, len(kind), ARRAY):
                self._array(kind[start : start + ARRAY], networks, shared=ranks == "all")

    def poll(self, seconds: float) -> list[Report]:
        end = time.monotonic() + seconds
        while True:
            self._look()
            reports = [report for key in list(self._held) if (report := self._report(key)) is not None]
            if reports or time.monotonic() >= end:
                return reports
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))

    def where(self, key: str) -> str:
        """A node's job and its state in the queue."""
        job = self._held.get(key, {}).get("job", "")
        return f"job {job} {self._queue.get(job, '').lower()}".strip()

    def stop(self) -> None:
        """Leaves the jobs of a cluster running; cancels those of this machine, which save their work."""
        for job in self._local.values():
            job.cancel()
        if self._held and self._cluster == "slurm":
            self._notify(f"{self.queued}; the same command shows them, 'scancel {' '.join(self._arrays(self._held))}' ends them")

    def close(self) -> None:
        """Removes old plans that no job needs."""
        needed = {Path(json.loads(path.read_text())["plan"]).parent for path in self._out.glob("*.json")}
        for folder in self._plan.parents[1].iterdir():
            with contextlib.suppress(FileNotFoundError):
                if folder not in needed and time.time() - folder.stat().st_mtime > OLD_SECONDS:
                    remove_tree(folder)

    @property
    def queued(self) -> str:
        """The number of jobs in SLURM's queue, with their job numbers, as a sentence."""
        return f"{len(self._held)} jobs are in SLURM's queue ({', '.join(self._arrays(self._held))})"

    def _array(self, nodes: list[Node], networks: bool, *, shared: bool) -> None:
        executor = submitit.AutoExecutor(folder=self._out / "logs", cluster=self._cluster, slurm_max_num_timeout=1000)
        executor.update_parameters(**self._parameters(nodes, networks, shared=shared))
        bench = self._bench if shared else replace(self._bench, machines=1)
        commands = [Command(bench.command(self._plan, [node.key])) for node in nodes]
        try:
            with executor.batch():
                jobs = [executor.submit(command) for command in commands]
        except (FailedJobError, FailedSubmissionError) as error:
            lines = str(error).strip().splitlines() or ["no message"]
            raise BadInput(f"sbatch refused {len(nodes)} jobs: {lines[-1]}; correct --sbatch and run the same command again.") from None
        for node, job in zip(nodes, jobs, strict=True):
            entry = {"job": job.job_id, "plan": str(self._plan), "log": str(job.paths.stderr)}
            write_atomic(self._out / f"{node.key[:32]}.json", json.dumps(entry).encode())
            self._held[node.key] = entry
            self._local |= {node.key: job} if self._cluster == "local" else {}
        self._queue |= {job.job_id: "PENDING" for job in jobs}
        self._notify(f"{len(nodes)} of {', '.join(sorted({node.stage for node in nodes}))}: job {jobs[0].job_id.partition('_')[0]}")

    def _parameters(self, nodes: list[Node], networks: bool, *, shared: bool) -> dict[str, Any]:
        """The options of sbatch: GPUs for stages with networks, machines that share a node, and the array jobs to wait for."""
        ranks = self._bench.ranks
        wanted: dict[str, Any] = {"timeout_min": MINUTES, "name": f"svgbench-{nodes[0].stage}"}
        if networks and self._bench.device != "cpu":
            wanted["gpus_per_node"] = ranks
        if self._bench.threads is not None:
            wanted["cpus_per_task"] = self._bench.threads * ranks
        if self._cluster == "local":
            return {k: v for k, v in wanted.items() if k != "name"}
        known = submitit.SlurmExecutor._valid_parameters()
        more: dict[str, Any] = {"requeue": True}
        wanted["slurm_setup"] = ["export PYTHONSAFEPATH=1"]  # submitit's process starts in the directory of this command
        wanted["slurm_signal_delay_s"] = SIGNAL_SECONDS
        if shared and self._bench.machines > 1:
            wanted |= {"slurm_nodes": self._bench.machines, "slurm_ntasks_per_node": 1}
        for name, value in self._sbatch.items():
            plain = name.replace("-", "_")
            if plain in ("time", "gpus_per_node", "cpus_per_task"):
                wanted.pop({"time": "timeout_min"}.get(plain, plain), None)
            if plain in known:
                wanted[f"slurm_{plain}"] = value
            else:
                more[name] = value
        before = self._arrays(k for node in nodes for k in node.inputs.values())
        if before:
            more["dependency"] = "afterany:" + ":".join(before)
        return {**wanted, "slurm_additional_parameters": more}

    def _arrays(self, keys: Iterable[str]) -> list[str]:
        """Job numbers of the arrays that work on these nodes."""
        return sorted({self._held[key]["job"].partition("_")[0] for key in keys if key in self._held})

    def _remembered(self, node: Node) -> dict[str, Any] | None:
        """The job that an earlier command submitted for a node, if it is still queued or left a report of success or failure; else None."""
        path = self._out / f"{node.key[:32]}.json"
        if not path.exists():
            return None
        entry = json.loads(path.read_text())
        report = read_report(Path(entry["plan"]), node.key)
        if report is not None:
            return entry if report.state in ("failed", "ran", "found") else None
        self._look(now=True)
        return entry if entry["job"] in self._queue else None

    def _report(self, key: str) -> Report | None:
        entry = self._held[key]
        report = read_report(Path(entry["plan"]), key)
        if report is None and entry["job"] not in self._queue:
            since = self._missed.setdefault(key, time.monotonic())
            if time.monotonic() - since >= (GRACE_SECONDS if self._cluster == "slurm" else 0):
                report = Report(key, "lost", SvgbenchError(f"job {entry['job']} left the queue without a report, see {entry['log']}"))
        elif report is None:
            self._missed.pop(key, None)
        if report is None:
            return None
        del self._held[key]
        (self._out / f"{key[:32]}.json").unlink(missing_ok=True)
        return report

    def _look(self, *, now: bool = False) -> None:
        """Updates the list of this user's queued jobs; keeps the last list if squeue fails."""
        if self._cluster == "local":
            self._queue = {job.job_id: job.state for job in self._local.values() if not job.done()}
            return
        if not now and time.monotonic() - self._asked_at < LOOK_SECONDS:
            return
        if now and self._asked_at and time.monotonic() - self._asked_at < 1.0:
            return
        self._asked_at = time.monotonic()
        words = ["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "%i|%T"]
        answer = subprocess.run(words, capture_output=True, text=True)
        if answer.returncode != 0:
            notify(f"squeue does not answer: {answer.stderr.strip()}")
            return
        queue = dict(line.strip().split("|", 1) for line in answer.stdout.splitlines() if "|" in line)
        self._queue = {job: state for job, state in queue.items() if state not in ENDED}  # some sites list ended jobs for a while
