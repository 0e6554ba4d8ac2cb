"""What the engines are held against: the grid by one process, made once for all workers of a test run."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import pytest
from grids import ablate, grid_file


@pytest.fixture(scope="session")
def alone(tmp_path_factory, worker_id) -> Path:
    """The output directory of one process."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "alone"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(ablate(grid_file(folder), folder / "runs"), capture_output=True, text=True, timeout=900)
        assert done.returncode == 3, done.stderr
    return folder / "runs"
