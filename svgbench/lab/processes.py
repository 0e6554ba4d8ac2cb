"""The local engine: worker processes on this machine, one per slot, each with its share of the GPUs or CPU threads. No torch.

A worker runs for the entire walk, so that its libraries are loaded once. It has its own session, so that Ctrl-C reaches only this process,
which forwards it. If this process is killed, its workers finish their current node and exit.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from svgbench.errors import SvgbenchError
from svgbench.lab.children import LOOK_SECONDS, environment, is_saving, wait_for
from svgbench.lab.handoff import clear_report, read_report
from svgbench.lab.plan import Node
from svgbench.lab.schedule import Report
from svgbench.lab.worker import Bench
from svgbench.machine.signals import GUARD, Stop


def visible_gpus() -> list[str]:
    """Names of the CUDA devices visible to child processes, without torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return [str(i) for i, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))]


def slots_here(bench: Bench) -> int:
    """Number of slots on this machine: one per group of ``ranks`` visible GPUs; one on a machine without GPUs."""
    gpus = [] if bench.device == "cpu" or bench.device.startswith("cuda:") else visible_gpus()
    return max(1, len(gpus) // bench.ranks)


@dataclass
class _Slot:
    number: int
    env: dict[str, str]
    process: subprocess.Popen | None = None
    key: str | None = None
    read: int = 0
    """Bytes of its log that were already shown."""
    last: list[str] = field(default_factory=list)


def _asked(slot: _Slot) -> IO[str]:
    """The pipe to a slot's worker."""
    assert slot.process is not None and slot.process.stdin is not None  # always started with a pipe
    return slot.process.stdin


class Processes:
    """Worker processes of this machine."""

    ahead = False

    def __init__(self, plan: Path, bench: Bench, slots: int, *, notify: Callable[[str], None]) -> None:
        self.slots = slots
        cpus = len(os.sched_getaffinity(0))
        self._plan, self._notify = plan, notify
        self._bench = replace(bench, threads=bench.threads or max(1, cpus // (slots * bench.ranks)))
        gpus = [] if bench.device not in ("auto", "cuda") else visible_gpus()
        self._slots = [_Slot(i, _environment(gpus, i, bench.ranks)) for i in range(slots)]

    def submit(self, nodes: list[Node]) -> None:
        for node in nodes:
            slot = next(slot for slot in self._slots if slot.key is None)
            clear_report(self._plan, node.key)
            slot.key = node.key
            if slot.process is None or slot.process.poll() is not None:
                self._start(slot)
            with contextlib.suppress(BrokenPipeError):  # poll reports the dead worker
                _asked(slot).write(node.key + "\n")
                _asked(slot).flush()

    def poll(self, seconds: float) -> list[Report]:
        end = time.monotonic() + seconds
        while True:
            reports = [report for slot in self._slots if (report := self._look(slot)) is not None]
            if reports or time.monotonic() >= end:
                return reports
            time.sleep(LOOK_SECONDS)

    def where(self, key: str) -> str:
        """The slot that runs a node."""
        return next((f"slot {slot.number}" for slot in self._slots if slot.key == key), "")

    def stop(self) -> None:
        """Sends SIGTERM to every worker, which saves its training and exits. A second Ctrl-C kills them."""
        with Stop(), GUARD.hold():
            alive = [slot.process for slot in self._slots if slot.process is not None and slot.process.poll() is None]
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            wait_for(alive, saving=self._saving, kill=lambda process: os.killpg(process.pid, signal.SIGKILL))

    def _saving(self) -> bool:
        """Whether a worker is writing a checkpoint."""
        return any(is_saving(Path(self._bench.out), slot.key) for slot in self._slots if slot.key is not None)

    def close(self) -> None:
        """Closes the workers' standard input, which makes them exit, and waits for them."""
        for slot in self._slots:
            if slot.process is not None:
                with contextlib.suppress(BrokenPipeError):
                    _asked(slot).close()
                slot.process.wait()

    def _start(self, slot: _Slot) -> None:
        log = self._log(slot).open("ab")
        slot.process = process = subprocess.Popen(
            self._bench.command(self._plan), env=slot.env, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True
        )
        log.close()
        GUARD.adopt(process.pid)

    def _look(self, slot: _Slot) -> Report | None:
        if slot.key is None or slot.process is None:
            return None
        gone = slot.process.poll()  # polled before the report is read: a worker may report and exit
        if gone is not None:
            GUARD.leave(slot.process.pid)
        self._hear(slot)
        report = read_report(self._plan, slot.key)
        if report is None and gone is not None:
            how = f"signal {signal.Signals(-gone).name}" if gone < 0 else f"status {gone}"
            words = f"; its last line: {slot.last[-1]}" if slot.last else ""
            report = Report(slot.key, "lost", SvgbenchError(f"its worker in slot {slot.number} ended with {how}{words}"))
        if report is not None:
            slot.key = None
        return report

    def _hear(self, slot: _Slot) -> None:
        """Shows what a worker wrote since the last call."""
        with contextlib.suppress(FileNotFoundError), self._log(slot).open("rb") as log:
            log.seek(slot.read)
            whole, sign, _ = log.read().rpartition(b"\n")
            slot.read += len(whole) + len(sign)
            for line in whole.decode(errors="replace").splitlines():
                slot.last = [*slot.last[-9:], line]
                self._notify(f"slot {slot.number}: {line}")

    def _log(self, slot: _Slot) -> Path:
        return self._plan.parent / f"slot-{slot.number}.log"


def _environment(gpus: list[str], number: int, ranks: int) -> dict[str, str]:
    """A slot's environment with the GPUs assigned to it, in turn; slots share GPUs if there are too few."""
    if not gpus:
        return environment()
    visible = list(dict.fromkeys(gpus[(number * ranks + i) % len(gpus)] for i in range(ranks)))
    return environment(CUDA_VISIBLE_DEVICES=",".join(visible))
