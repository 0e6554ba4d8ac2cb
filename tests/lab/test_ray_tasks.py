"""A real Ray cluster of two machines on this one, of which one goes in the middle, ends with the table of one process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from grids import ablate, digests, grid_file, numbers, workers

from svgbench.lab.handoff import write_report
from svgbench.lab.plan import Node
from svgbench.lab.schedule import Report
from svgbench.lab.worker import Bench

pytestmark = pytest.mark.slow
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install 'svgbench[ray]'")


def parent(process: int) -> int:
    """Who started a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def node(name: str, **inputs: str) -> Node:
    return Node("images", name * 64, {}, {}, {other: key * 64 for other, key in inputs.items()})


def test_tasks_wait_for_those_of_their_inputs_and_an_error_is_of_the_first_alone(tmp_path, monkeypatch):
    import ray

    from svgbench.lab.ray_tasks import RayTasks

    def work(plan, key, bench, here, *inputs):
        assert all(state == "ran" for state in inputs)
        if key.startswith("b"):
            raise MemoryError("killed")
        write_report(Path(plan), Report(key, "ran"))
        return "ran"

    monkeypatch.setattr("svgbench.lab.ray_tasks.work", work)
    monkeypatch.setattr("svgbench.lab.ray_tasks.RETRIES", 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        tasks = RayTasks(tmp_path / "plan.json", Bench(out=str(tmp_path), device="cpu", threads=1), None, notify=lambda line: None)
        assert tasks.ahead and not RayTasks(tmp_path / "plan.json", Bench(out=str(tmp_path)), 2, notify=lambda line: None).ahead
        for depth in ([node("a"), node("b")], [node("c", one="a"), node("d", one="a", two="b")], [node("e", one="d")]):
            tasks.submit(depth)
        found = {}
        while len(found) < 5:
            found |= {report.key[0]: report for report in tasks.poll(5.0)}
        assert {key: report.state for key, report in found.items()} == {"a": "ran", "b": "lost", "c": "ran", "d": "unready", "e": "unready"}
        assert "killed" in str(found["b"].error)
        tasks.submit([node("b")])  # given out again before what stood on it is heard of
        tasks.submit([node("d", one="a", two="b")])
        found = {report.key[0]: report for _ in range(2) for report in tasks.poll(5.0)}
        assert {key: report.state for key, report in found.items()} == {"b": "lost", "d": "unready"}
    finally:
        ray.shutdown()


def test_a_machine_that_goes_in_the_middle_costs_no_number(alone, tmp_path):
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    grid, out = grid_file(tmp_path), tmp_path / "runs"
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        raylet = second.all_processes["raylet"][0].process.pid
        env = {**os.environ, "RAY_ADDRESS": cluster.address}
        process = subprocess.Popen(ablate(grid, out, "--engine", "ray"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        deadline = time.monotonic() + 500
        while not any(parent(worker) == raylet for worker in workers(out)):
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        table, said = process.communicate(timeout=900)
        assert process.returncode == 3, said
        assert "ray: 2 machines, 2 processors, 0 GPUs" in said
        assert digests(out) == digests(alone) and numbers(out) == numbers(alone)
        assert "neighbour" in table.split("### Failed")[1]
        assert not list(out.glob("plans/*"))
    finally:
        cluster.shutdown()


LISTENING = """
import os, signal, sys, time
from pathlib import Path
from svgbench.lab.engines import Choice, _start
from svgbench.lab.worker import Bench
from svgbench.machine.signals import GUARD
GUARD.install()
mine = signal.getsignal(signal.SIGTERM)
place = Path(sys.argv[1])
engine = _start(Choice(engine="ray"), place / "plan" / "plan.json", place, Bench(out=str(place), device="cpu"), print)
assert signal.getsignal(signal.SIGTERM) == mine
import ray
print("PATH", ray.get(ray.remote(lambda: sys.path).remote()))
def parent(process):
    try: return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError: return 0
ours = set()
for process in (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()):
    above = process
    while above > 1 and above != os.getpid(): above = parent(above)
    if above == os.getpid():
        for file in Path(f"/proc/{process}/fd").iterdir():
            try: ours.add(os.readlink(file))
            except OSError: pass
for kind in ("tcp", "tcp6"):
    for words in map(str.split, Path(f"/proc/net/{kind}").read_text().splitlines()[1:]):
        if words[3] == "0A" and f"socket:[{words[9]}]" in ours:
            print("LISTENS", words[1].partition(":")[0])
engine.close()
"""


def test_a_ray_of_this_machine_listens_on_the_loopback_alone_and_its_workers_import_nothing_from_here(tmp_path):
    (tmp_path / "photos").mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING, str(tmp_path)], capture_output=True, text=True, env=env, cwd=tmp_path / "photos", timeout=200
    )
    assert done.returncode == 0, done.stderr
    listens = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("LISTENS")]
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert len(listens) > 2 and set(listens) <= loopback
    assert "PATH" in done.stdout and f"'{tmp_path / 'photos'}'" not in done.stdout
