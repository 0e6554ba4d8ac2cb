"""Runs the files of tests on fake CUDA tensors, each in a fresh Python: autograd's graphs of such tensors start threads, and torch refuses
backward passes in every later fork of that process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["alone_host_talk.py", "alone_sampling_path.py"])
def test_the_tests_on_fake_cuda_tensors_pass(name):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(Path(__file__).with_name(name))]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
