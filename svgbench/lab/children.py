"""Child Python processes: their command, environment and stopping. No torch."""

from __future__ import annotations

import contextlib
import os
import site
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import svgbench
from svgbench.lab.store import CHECKPOINTS
from svgbench.machine.files import TEMPORARY
from svgbench.machine.signals import CHILD_SECONDS, SAVE_SECONDS

LOOK_SECONDS = 0.05


def python(*words: str) -> list[str]:
    """A command of this interpreter that never imports from the current directory."""
    return [sys.executable, "-P", *words]


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a child Python. Neither the child nor its children import from the current directory: entries of
    PYTHONPATH that mean it are removed. The child imports the same svgbench as this process."""
    paths = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", ".")]
    root = Path(svgbench.__file__).resolve().parents[1]
    installed = {Path(place).resolve() for place in (sysconfig.get_path("purelib"), site.getusersitepackages())}
    if root not in installed:  # svgbench runs from a checkout
        paths.append(str(root))
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {}) | {"PYTHONSAFEPATH": "1"} | more


class Deadline:
    """How long a stop waits for processes that were asked to end: at most ``SAVE_SECONDS`` while one of them is ``saving`` a checkpoint,
    and ``CHILD_SECONDS`` from the start or from the last look that saw one saving."""

    def __init__(self, saving: Callable[[], bool]) -> None:
        self._saving = saving
        self._began = self._last = time.monotonic()

    def passed(self) -> bool:
        """Whether the processes have had their time; to be asked again and again."""
        now = time.monotonic()
        if now - self._began < SAVE_SECONDS and self._saving():
            self._last = now
        return now - self._last >= CHILD_SECONDS


def wait_for(alive: Sequence[subprocess.Popen], *, saving: Callable[[], bool], kill: Callable[[subprocess.Popen], None]) -> None:
    """Waits for processes that were asked to stop, until their ``Deadline``. After that, or at a second Ctrl-C, calls ``kill`` on each."""
    deadline = Deadline(saving)
    try:
        while any(process.poll() is None for process in alive) and not deadline.passed():
            time.sleep(LOOK_SECONDS)
    finally:
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                kill(process)
            process.wait()


def is_saving(out: Path, key: str) -> bool:
    """Whether a checkpoint of a node is being written in an output directory."""
    return any(out.glob(f"store/*/{key[:32]}.partial/{CHECKPOINTS}/{TEMPORARY}*"))
