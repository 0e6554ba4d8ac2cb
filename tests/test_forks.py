"""Tests fork processes that have used torch: their threads compute."""

from __future__ import annotations

import os
import threading

import torch


def test_threads_of_a_fork_compute_at_the_same_moment():
    """Without the hook of ``forks`` one fork in ten failed."""
    torch.set_num_threads(torch.get_num_threads())  # makes the pool
    for _ in range(80):
        child = os.fork()
        if child == 0:
            start, failed = threading.Barrier(3), []

            def compute(start=start, failed=failed):
                start.wait()
                try:
                    torch.arange(4) * 3
                except RuntimeError as error:
                    failed.append(error)

            threads = [threading.Thread(target=compute) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            os._exit(len(failed))
        assert os.waitpid(child, 0)[1] == 0
