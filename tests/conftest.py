"""What all tests share: one thread where bits must repeat, bytecode on disk, and no network."""

from __future__ import annotations

import os
import sys
import tempfile

# tests start hundreds of processes, and importing torch and timm takes one of them 12 s without bytecode on disk, 5 s with it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with two spinning threads each crawl on two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("SVGBENCH_RANK_TIMEOUT_MINUTES", "3")
os.environ["SVGBENCH_CACHE"] = tempfile.mkdtemp(prefix="svgbench-cache-")  # never the one of the person who tests
