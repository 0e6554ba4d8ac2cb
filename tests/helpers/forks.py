"""Forks of a process that has used torch.

The first two threads of such a fork that compute at the same moment race for torch's thread pool, and the slower one fails: "Invalid thread
pool!" (ATen/ParallelOpenMP.cpp). Setting the number of threads while the fork has one thread makes the pool anew. The program itself starts
fresh processes and never forks; only tests do, because a fork has imported everything already.
"""

from __future__ import annotations

import os
import sys


def _new_pool() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(torch.get_num_threads())


os.register_at_fork(after_in_child=_new_pool)
