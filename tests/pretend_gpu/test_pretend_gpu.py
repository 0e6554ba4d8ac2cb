"""The pretended device builds, and counts known operations as it should."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
CAN_BUILD = shutil.which("g++") is not None and importlib.util.find_spec("triton") is not None and torch.version.cuda is not None


@pytest.mark.skipif(not CAN_BUILD, reason="needs g++, Triton and PyTorch built for CUDA")
def test_known_operations_are_counted(tmp_path):
    names = {"PRETEND_GPU": str(tmp_path / "gpu"), "PYTHON": sys.executable}
    done = subprocess.run(
        [HERE / "run.sh", "self_check.py"], cwd=HERE.parents[1], env=os.environ | names, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "as expected", done.stdout + done.stderr
