"""A real Ray cluster of two machines on this one, of which one goes in the middle, ends with the table of one process."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from grids import ablate, digests, grid_file, numbers, workers

pytestmark = pytest.mark.slow
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install 'svgbench[ray]'")


def parent(process: int) -> int:
    """Who started a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


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
