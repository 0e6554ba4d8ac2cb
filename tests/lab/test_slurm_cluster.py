"""A real SLURM of one machine: its controller and its daemon are started here, jobs are submitted and left, one is preempted.

Opt-in: SVGBENCH_SLURM names the root that slurmctld, slurmd and the client's commands are installed under: ``/`` where they are (Debian:
``apt-get install slurmctld slurmd slurm-client``), or a folder into which their packages were unpacked without being installed::

    apt-get download slurmctld slurmd slurm-client slurm-wlm-basic-plugins libmunge2 libhwloc15 liblua5.1-0
    for package in *.deb; do dpkg -x $package root; done
    SVGBENCH_SLURM=$PWD/root python -m pytest tests/lab/test_slurm_cluster.py

Both run as root in the foreground, with a configuration, ports and state of their own below a temporary folder, no munge (auth/none), no
accounting; nothing of the machine's own SLURM is touched. The packages' programs are named after Debian's, ``slurmctld-wlm``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from grids import ablate, digests, grid_file, numbers

ROOT = os.environ.get("SVGBENCH_SLURM", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ROOT, reason="SVGBENCH_SLURM does not say where SLURM is (see the module)")]
CONFIGURATION = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other_port}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def program(name: str) -> str:
    found = [path for end in ("", "-wlm") for path in Path(ROOT, "usr/sbin").glob(name + end) if path.exists()]
    assert found, f"{ROOT}/usr/sbin holds no {name}"
    return str(found[0])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment in which commands reach the cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    plugins = next(Path(ROOT, "usr/lib").rglob("slurm-wlm/auth_none.so")).parent
    text = CONFIGURATION.format(host=socket.gethostname(), port=free_port(), other_port=free_port(), folder=folder, plugins=plugins)
    (folder / "slurm.conf").write_text(text)
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{ROOT}/usr/bin:{os.environ['PATH']}"}
    env["LD_LIBRARY_PATH"] = f"{plugins.parent}:{plugins}"
    conf = str(folder / "slurm.conf")
    daemons = []
    try:
        for words in ([program("slurmctld")], [program("slurmd"), "-d", program("slurmstepd")]):
            with (folder / "log").open("ab") as log:
                daemons.append(subprocess.Popen([*words, "-D", "-f", conf], env=env, stdout=log, stderr=log))
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True).stdout:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.5)
        yield env
    finally:
        subprocess.run(["scancel", "--user", "root"], env=env)
        time.sleep(2)
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()


def queued(env: dict[str, str]) -> list[list[str]]:
    """Job, name and state of what is in the queue."""
    said = subprocess.run(["squeue", "-h", "-r", "-o", "%i %j %T"], env=env, capture_output=True, text=True, check=True).stdout
    return [line.split() for line in said.splitlines()]


def test_jobs_are_submitted_and_left_one_is_requeued_and_the_same_command_reports(alone, tmp_path, cluster):
    grid, out = grid_file(tmp_path), tmp_path / "runs"
    words = ablate(grid, out, "--device", "cpu", "--engine", "slurm", "--sbatch", "time=60", "--leave")
    first = subprocess.run(words, env=cluster, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    assert "nodes were given to SLURM" in first.stderr
    names = {name for _, name, _ in queued(cluster)}
    assert {"svgbench-autoencoder", "svgbench-diffusion"} <= names

    deadline = time.monotonic() + 900
    while not list(out.glob("store/autoencoder/*.partial/log.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (job,) = {job for job, name, state in queued(cluster) if name == "svgbench-autoencoder" and state == "RUNNING"}
    subprocess.run(["scontrol", "requeue", job], env=cluster, check=True)  # what a preemption does
    second = subprocess.run(words, env=cluster, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0 and "nodes were given to SLURM" in second.stderr
    assert len({job for job, name, _ in queued(cluster) if name == "svgbench-autoencoder"}) <= 1  # it was not submitted again

    while queued(cluster):
        assert time.monotonic() < deadline + 900, queued(cluster)
        time.sleep(1)
    last = subprocess.run(words, env=cluster, capture_output=True, text=True, timeout=300)
    assert last.returncode == 3 and "neighbour" in last.stderr, last.stderr
    assert not queued(cluster)
    assert digests(out) == digests(alone) and numbers(out) == numbers(alone)
    assert "neighbour" in last.stdout.split("### Failed")[1]
