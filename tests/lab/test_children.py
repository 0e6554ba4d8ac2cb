"""Workers, torchrun's children and SLURM's jobs import nothing from the directory they are started in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from svgbench.lab.children import environment, python
from svgbench.lab.handoff import read_report, write_plan
from svgbench.lab.plan import Node
from svgbench.lab.processes import Processes
from svgbench.lab.worker import Bench

POISON = ("typer", "json", "yaml", "torch", "numpy", "rich", "pydantic", "sitecustomize", "usercustomize", "submitit")


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The current directory: modules of known names that leave a file when they are imported."""
    place = tmp_path / "photos"
    for name in POISON:
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text(f"open({str(tmp_path / name)!r}, 'w')\n")
        (place / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w')\n")
    monkeypatch.chdir(place)
    return tmp_path


def ran(place) -> set[str]:
    return {name for name in POISON if (place / name).exists()}


def test_a_worker_in_a_folder_of_modules_imports_none_of_them(hostile):
    nodes = {key * 64: Node("images", key * 64, {}, {}, {"x": "b" * 64} if key == "a" else {}) for key in "ab"}
    plan = write_plan(nodes, nodes, hostile / "plans")
    engine = Processes(plan, Bench(out=str(hostile / "runs"), device="cpu"), 1, notify=print)
    engine.submit([nodes["a" * 64]])
    (report,) = engine.poll(60)
    engine.close()
    assert report.state == "unready" and read_report(plan, "a" * 64) is not None and not ran(hostile)


def test_the_command_itself_started_as_a_module_imports_none_of_them(hostile):
    done = subprocess.run([sys.executable, "-m", "svgbench", "plan", "smoke"], capture_output=True, text=True)
    assert done.returncode == 0 and not ran(hostile), done.stderr


@pytest.mark.parametrize("paths", [None, "", ".", ":/nowhere", "/nowhere::."])
def test_what_a_worker_starts_leaves_the_directory_alone_too(hostile, monkeypatch, paths):
    monkeypatch.delenv("PYTHONPATH", raising=False) if paths is None else monkeypatch.setenv("PYTHONPATH", paths)
    inner = "import subprocess, sys; subprocess.run([sys.executable, '-u', '-c', 'import json, typer, svgbench'], check=True)"
    done = subprocess.run(python("-c", inner), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and not ran(hostile), done.stderr
    assert "/nowhere" not in str(paths) or "/nowhere" in environment()["PYTHONPATH"].split(os.pathsep)
