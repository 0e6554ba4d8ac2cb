"""Jobs of nodes: submitit's executor of this machine, what sbatch is asked for, commands that save their work before a requeue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from grids import digests, grid_file, numbers

from svgbench.errors import BadInput
from svgbench.lab.configs import configs_of
from svgbench.lab.finished import Finished
from svgbench.lab.handoff import read_report, report_file, write_plan, write_report
from svgbench.lab.plan import Node, make_plan
from svgbench.lab.record import record
from svgbench.lab.schedule import Outcome, Report, Walk, Watch
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench

pytest.importorskip("submitit", reason="submitit is not installed: pip install 'svgbench[slurm]'")
from svgbench.lab.slurm import Command, SlurmJobs

SAVES = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w').write('saved'), sys.exit(4))); "


def jobs(tmp_path, **more) -> SlurmJobs:
    nodes = {"a" * 64: Node("images", "a" * 64, {}, {}, {}), "b" * 64: Node("autoencoder", "b" * 64, {}, {}, {"images": "a" * 64})}
    plan = write_plan(nodes, nodes, tmp_path / "slurm" / "plans")
    return SlurmJobs(plan, Bench(out=str(tmp_path), threads=4, ranks=2), tmp_path, notify=lambda sentence: None, **more)


def test_without_sbatch_it_says_where_to_go(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="sbatch, which is not on this machine"):
        jobs(tmp_path)


def test_sbatch_is_asked_for_gpus_where_networks_compute_and_to_wait_for_the_inputs(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    engine = jobs(tmp_path, sbatch={"partition": "gpu", "time": "90", "reservation": "mine"})
    engine._held["a" * 64] = {"job": "12_3", "plan": str(engine._plan), "log": ""}
    node = Node("autoencoder", "b" * 64, {}, {}, {"images": "a" * 64})
    asked = engine._parameters([node], networks=True, shared=True)
    assert asked["gpus_per_node"] == 2 and asked["cpus_per_task"] == 8 and asked["slurm_partition"] == "gpu" and asked["slurm_time"] == "90"
    assert asked["slurm_additional_parameters"] == {"requeue": True, "reservation": "mine", "dependency": "afterany:12"}
    assert "gpus_per_node" not in engine._parameters([node], networks=False, shared=False) and "slurm_nodes" not in asked


def test_several_machines_are_asked_for_where_they_share_a_node(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    engine = jobs(tmp_path, sbatch={"nodes": "3"})
    node = Node("autoencoder", "b" * 64, {}, {}, {})
    asked = engine._parameters([node], networks=True, shared=True)
    assert (asked["slurm_nodes"], asked["slurm_ntasks_per_node"], asked["gpus_per_node"]) == (3, 1, 2)
    assert "slurm_nodes" not in engine._parameters([node], networks=True, shared=False)
    assert engine._bench.words()[-2:] == ["--machines", "3"]
    with pytest.raises(BadInput, match="nodes=2-4: give the number of machines"):
        jobs(tmp_path, sbatch={"nodes": "2-4"})


@pytest.mark.slow
def test_two_machines_of_a_job_share_a_node_and_the_first_reports(tmp_path):
    """Two processes of this machine stand for them: what tells them apart is what SLURM leaves in their environment."""
    config = configs_of(str(grid_file(tmp_path)), "tiny", None, None)
    plan, out = make_plan(dict([next(iter(config.items()))])), tmp_path / "runs"
    wanted = {node.stage: key for key, node in plan.nodes.items() if node.stage in ("images", "originals")}
    file = write_plan(plan.nodes, wanted.values(), out / "slurm" / "plans")
    bench = Bench(out=str(out), device="cpu", threads=1, machines=2)
    for key in wanted.values():
        job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "localhost"}
        places = [{**os.environ, **job, "SLURM_NODEID": str(number)} for number in range(2)]
        assert [process.wait(120) for process in [subprocess.Popen(bench.command(file, [key]), env=env) for env in places]] == [0, 0]
        assert read_report(file, key).state == "ran"
    store = Store(out / "store")
    assert store.manifest("images", wanted["images"]).host["ranks"] == 1  # a stage that is one process's work
    assert store.manifest("originals", wanted["originals"]).host["ranks"] == 2


def test_a_job_of_an_earlier_command_is_found_again_and_reported_once(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    node = Node("images", "a" * 64, {}, {}, {})
    first = jobs(tmp_path)
    (tmp_path / "slurm" / f"{'a' * 32}.json").write_text(f'{{"job": "7_0", "plan": "{first._plan}", "log": "x"}}')
    second = jobs(tmp_path)
    monkeypatch.setattr(second, "_look", lambda **_: second._queue.update({"7_0": "RUNNING"}))
    second.submit([node])
    assert second.poll(0) == [] and second.where("a" * 64) == "job 7_0 running"
    write_report(first._plan, Report("a" * 64, "failed", BadInput("no images")))
    (report,) = second.poll(0)
    assert report.state == "failed" and isinstance(report.error, BadInput) and str(report.error) == "no images"
    assert not (tmp_path / "slurm" / f"{'a' * 32}.json").exists()  # the next command submits it anew


def test_a_command_that_must_leave_its_machine_ends_first_and_is_queued_again(tmp_path):
    """The handler of a signal runs inside the wait, as submitit's does."""
    note = tmp_path / "note"
    command = Command([sys.executable, "-c", SAVES + "print('up', flush=True); time.sleep(60)", str(note)])
    again = []

    def leave(*_):
        again.append(command.checkpoint())

    def send():
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, leave)
    try:
        threading.Thread(target=send, daemon=True).start()
        assert command() == 4
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert note.read_text() == "saved" and again[0].function.words == command.words


@pytest.mark.slow
def test_submitit_s_jobs_of_this_machine_end_with_the_table_of_one_process(alone, tmp_path):
    out = tmp_path / "runs"
    plan = make_plan(configs_of(str(grid_file(tmp_path)), "tiny", None, None))
    shutil.copytree(alone / "store", out / "store")
    for stage in ("diffusion", "samples", "overview"):  # the rest would start many more processes, and is finished
        shutil.rmtree(out / "store" / stage)
    finished = Finished(plan, Store(out / "store")).keys()
    file = write_plan(plan.nodes, set(plan.nodes) - finished, out / "slurm" / "plans")
    said: list[str] = []
    engine = SlurmJobs(file, Bench(out=str(out), threads=1), out, notify=said.append, cluster="local")
    engine.slots = 2  # two processors
    outcome = Outcome()
    Walk(plan, engine, outcome, finished=finished, notify=said.append, keep_going=True, watch=Watch()).go()
    for run in plan.runs:
        record(plan, run, out, outcome)
    (failed,) = outcome.failed
    assert plan.nodes[failed].stage == "generation-scores" and "neighbour" in str(outcome.failed[failed])
    assert {plan.nodes[key].stage for key in outcome.executed} == {"diffusion", "samples", "overview"} and not outcome.skipped
    assert set(outcome.executed) | finished | {failed} == set(plan.nodes)
    assert digests(out) == digests(alone) and numbers(out) == numbers(alone)
    assert report_file(file, failed).exists() and not list((out / "slurm").glob("*.json"))


SQUEUE = """#!/bin/sh
cat "$(dirname "$0")/queue"
"""
SBATCH = """#!/bin/sh
cp "$1" "$(dirname "$0")/script"
echo Submitted batch job 42
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder of commands that stand for SLURM's; ``queue`` is what squeue prints."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", "#!/bin/sh\n"), ("srun", "#!/bin/sh\n")):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr("svgbench.lab.slurm.GRACE_SECONDS", 0.0)
    monkeypatch.setattr("svgbench.lab.slurm.LOOK_SECONDS", 0.0)
    return place


@pytest.mark.parametrize(("line", "lost"), [("42|TIMEOUT", True), ("42|NODE_FAIL", True), ("42|OUT_OF_MEMORY", True), ("", True),
                                            ("42|PREEMPTED", False), ("42|REQUEUED", False), ("42|RUNNING", False)])  # fmt: skip
def test_a_job_that_slurm_ends_is_lost_and_one_that_it_queues_again_is_waited_for(tmp_path, cluster, line, lost):
    engine = jobs(tmp_path)
    (cluster / "queue").write_text("42|PENDING\n")
    engine.submit([Node("images", "a" * 64, {}, {}, {})])
    assert engine.poll(0) == [] and engine.where("a" * 64) == "job 42 pending"
    assert "export PYTHONSAFEPATH=1" in (cluster / "script").read_text()  # submitit's own process imports nothing from there
    (cluster / "queue").write_text(line)
    found = engine.poll(0)
    assert [report.state for report in found] == (["lost"] if lost else [])
    assert not lost or "job 42 left the queue without a report" in str(found[0].error)


def test_a_queue_that_does_not_answer_keeps_its_last_answer(tmp_path, cluster, capsys):
    engine = jobs(tmp_path)
    (cluster / "queue").write_text("42|RUNNING\n")
    engine.submit([Node("images", "a" * 64, {}, {}, {})])
    assert engine.poll(0) == []
    (cluster / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: \033[31mUnable to contact' >&2; exit 1\n")
    assert engine.poll(0) == [] and "squeue does not answer: slurm_load_jobs error: \\x1b[31mUnable" in capsys.readouterr().err
