"""The worker side of an engine: runs a node and writes its report. No torch until a node runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from svgbench.errors import BadInput, Interrupted, Occupied, SvgbenchError, debugging, notify, write
from svgbench.lab.children import environment, is_saving, python, wait_for
from svgbench.lab.execute import Executor
from svgbench.lab.handoff import clear_report, read_plan, read_report, write_report
from svgbench.lab.schedule import Report
from svgbench.lab.store import Store
from svgbench.machine.ranks import whole_number
from svgbench.machine.signals import GUARD, Stop
from svgbench.stages import graph

if TYPE_CHECKING:
    from svgbench.machine.runtime import Runtime

OCCUPIED_SECONDS = 2.0
TRACEBACK = "Traceback (most recent call last):"
ELASTIC = "torch.distributed.elastic"
LOGGED = re.compile(r"[DIWEF]\d{4} \d\d:\d\d:\d\d")
"""Prefix of the lines of torchrun's log: W1129 03:10:15."""
FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
PORTS = 20_000
"""The machines of a job connect at a port in [PORTS, 2 PORTS) that depends on the job number, because two jobs may share a machine."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How a process runs the nodes of a plan: the options of ``svgbench node``."""

    out: str
    device: str = "auto"
    threads: int | None = None
    micro_batch: int | None = None
    compile: bool | None = None
    shard: bool = False
    """Whether stage 2 divides its transformer among the ranks."""
    ranks: int = 1
    """Number of torchrun processes per machine, for stages that run on all ranks."""
    machines: int = 1
    """Number of machines of a SLURM job that share this torchrun; this process is started on each of them."""
    patience: float = 0.0
    """Seconds to wait for a node that another process works on before it is reported as occupied."""
    checkpoint_activations: bool = False
    capture: bool = False

    def words(self) -> list[str]:
        """The options of ``svgbench node``."""
        words = ["--out", str(Path(self.out).absolute()), "--device", self.device]
        words += ["--ranks", str(self.ranks), "--patience", f"{self.patience:g}"]
        machines = self.machines if self.machines > 1 else None
        for name, value in (("--threads", self.threads), ("--micro-batch", self.micro_batch), ("--machines", machines)):
            words += [name, str(value)] if value is not None else []
        words += [] if self.compile is None else ["--compile" if self.compile else "--no-compile"]
        words += ["--checkpoint-activations"] if self.checkpoint_activations else []
        words += ["--shard"] if self.shard else []
        return words + (["--capture"] if self.capture else [])

    def runtime(self, *, quiet: bool = False) -> Runtime:
        """The runtime of a process with these options."""
        from svgbench.machine.runtime import Runtime

        return Runtime(
            device=self.device, threads=self.threads, micro_batch=self.micro_batch, compile=self.compile, quiet=quiet,
            checkpoint_activations=self.checkpoint_activations, sharded=self.shard, capture=self.capture,
        )  # fmt: skip

    def command(self, plan: Path, keys: Sequence[str] = ()) -> list[str]:
        """A command that runs the nodes ``keys``, or else those that it reads from standard input."""
        return [*python("-m", "svgbench", "node"), str(plan), *keys, *self.words()]


class Worker:
    """Runs nodes of a plan file and writes a report of each next to the file."""

    def __init__(self, plan: Path, bench: Bench) -> None:
        self._plan, self._bench = plan, bench
        self._nodes = read_plan(plan)
        runtime = bench.runtime(quiet=True)
        self._main = runtime.is_main
        self._alone = runtime.world == 1
        self._spread = bench.machines > 1 and self._alone
        self._machine = whole_number("SLURM_NODEID", os.environ) if self._spread else 0
        self._executor = Executor(self._nodes, Store(Path(bench.out) / "store"), runtime, _silent, noted=True)

    def work(self, key: str) -> Report:
        """Runs a node and writes its report. After a signal it saves the work, writes no report, and raises Interrupted."""
        if key not in self._nodes:
            raise SvgbenchError(f"{self._plan} has no node {key[:12]}; run 'svgbench ablate' again.")
        report = self._unready(key) if self._alone else None
        if report is None:
            several = self._bench.ranks * self._bench.machines > 1
            if self._alone and several and graph.by_name(self._nodes[key].stage).ranks == "all":
                report = self._apart(key)
            else:  # only the first of several machines is needed
                report = self._here(key) if self._machine == 0 else Report(key, "found")
        if self._main and self._machine == 0:
            write_report(self._plan, report)
        return report

    def _unready(self, key: str) -> Report | None:
        try:
            lacking = self._executor.unready(key)
        except SvgbenchError as error:
            return Report(key, "failed", error)
        if not lacking:
            return None
        names = ", ".join(f"{self._nodes[k].stage} {k[:12]}" for k in lacking)
        return Report(key, "unready", SvgbenchError(f"its input {names} is not finished."))

    def _here(self, key: str) -> Report:
        end = time.monotonic() + self._bench.patience
        while True:
            try:
                return Report(key, "ran" if self._executor.run(key) else "found")
            except Interrupted:
                raise
            except Occupied as error:
                if time.monotonic() >= end or not self._alone:
                    return Report(key, "occupied", error)
                time.sleep(OCCUPIED_SECONDS)
            except SvgbenchError as error:
                return Report(key, "failed", error)
            except Exception as error:
                for line in traceback.format_exception(error):
                    write(line)
                fault = f"{type(error).__name__}: {error}. This is a fault of svgbench; please report it."
                return Report(key, "failed", SvgbenchError(fault))

    def _apart(self, key: str) -> Report:
        """Runs the node under torchrun. Forwards a signal to the ranks, which save their work. Each machine starts its ranks; the first
        machine, which has the main rank, writes the report."""
        bench = self._bench
        place = _meeting(bench, self._machine) if self._spread else ["--standalone"]
        start = ["-m", "torch.distributed.run", "--nproc-per-node", str(bench.ranks), *place]
        command = replace(bench, ranks=1, machines=1).command(self._plan, [key])
        if self._machine == 0:
            clear_report(self._plan, key)
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen([*python(), *start, *command[2:]], stderr=log, stdout=log, env=environment())
            with GUARD.child(process.pid):
                try:
                    status = process.wait()
                except BaseException:
                    with Stop(), GUARD.hold():
                        process.terminate()
                        wait_for([process], saving=lambda: is_saving(Path(bench.out), key), kill=subprocess.Popen.kill)
                    raise
            log.seek(0)
            output = log.read().decode(errors="replace")
        for line in lines_of_ranks(output):
            notify(line)
        report = read_report(self._plan, key) if self._machine == 0 else Report(key, "found") if status == 0 else None
        if report is None:
            ranks = bench.ranks * bench.machines
            return Report(key, "failed", SvgbenchError(f"torchrun of {ranks} ranks ended with status {status}: {why_it_ended(output)}"))
        return report


def _meeting(bench: Bench, machine: int) -> list[str]:
    """Options of torchrun for connecting the machines of a SLURM job at its first machine."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    port = PORTS + whole_number("SLURM_JOB_ID", os.environ) % PORTS
    place = ["--master-addr", SlurmJobEnvironment().hostnames[0], "--master-port", str(port)]
    return ["--nnodes", str(bench.machines), "--node-rank", str(machine), *place]


def lines_of_ranks(output: str) -> list[str]:
    """The lines that the ranks of a torchrun wrote, with torchrun's log and its final traceback only if ``--debug`` is set."""
    if debugging():
        return output.strip().splitlines()
    before, _, traceback_of = output.rpartition(TRACEBACK)
    if ELASTIC in traceback_of:
        output = before
    return [line for line in output.strip().splitlines() if not LOGGED.match(line)]


def why_it_ended(output: str) -> str:
    """Why a torchrun ended: the last error of a rank, else the rank that failed first in torchrun's log, else the last line. Interrupted
    ranks are ignored, because torchrun stops all ranks when one fails."""
    lines = lines_of_ranks(output) or ["no message"]
    named: list[type[SvgbenchError]] = [SvgbenchError, *SvgbenchError.__subclasses__(), *BadInput.__subclasses__()]
    kinds = tuple(f"{kind.__name__}: " for kind in named)
    errors = [line for line in lines if line.startswith(kinds) and not line.startswith(f"{Interrupted.__name__}: ")]
    if errors:
        return errors[-1].partition(": ")[2]
    if failed := FAILED.search(output):
        status = int(failed[1])
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"rank {failed[2]} of this machine {how}; run the same command again, saved work is kept."
    return lines[-1]


def _silent(sentence: str) -> None:
    """Workers do not announce stages; the process that started them does."""


def serve(plan: Path, bench: Bench, keys: Sequence[str]) -> int:
    """Runs the nodes ``keys``, or those named by the lines of standard input; returns the exit status of the first that failed."""
    worker = Worker(plan, bench)
    status = 0
    for key in keys or (line.strip() for line in sys.stdin):
        report = worker.work(key)
        if report.state == "unready":
            status = status or SvgbenchError.exit_status
        elif report.error is not None:
            status = status or report.error.exit_status
    return status if keys else os.EX_OK
