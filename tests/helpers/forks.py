"""Forks of a process that has used torch.

The first two threads of such a fork that compute at the same moment race for torch's thread pool, and the slower one fails: "Invalid thread
pool!" (ATen/ParallelOpenMP.cpp). Setting the number of threads while the fork has one thread makes the pool anew. The program itself starts
fresh processes and never forks; only tests do, because a fork has imported everything already.
"""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable


def _new_pool() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(torch.get_num_threads())


os.register_at_fork(after_in_child=_new_pool)


def alone(test: Callable[[], None]) -> Callable[[], None]:
    """Runs a test in a fresh Python. Graphs of autograd with tensors of a GPU, real or fake, start threads of autograd, and torch refuses
    backward passes in every later fork of that process."""

    @functools.wraps(test)
    def call() -> None:
        if os.environ.get("SVGBENCH_TEST_ALONE"):
            test()
            return
        place = f"{inspect.getfile(test)}::{test.__name__}"
        words = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", place]
        ended = subprocess.run(words, env={**os.environ, "SVGBENCH_TEST_ALONE": "1"}, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    return call
