"""Worker processes side by side end with the table of one process, also when one is killed and when a cell fails."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from grids import ablate, digests, grid_file, numbers

from svgbench.lab.children import environment, python
from svgbench.lab.configs import configs_of
from svgbench.lab.plan import Node, make_plan
from svgbench.lab.processes import Processes, slots_here, visible_gpus
from svgbench.lab.worker import Bench, lines_of_ranks, why_it_ended


def test_a_slot_is_a_gpu_or_a_group_of_as_many_as_a_node_has_ranks(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert visible_gpus() == ["4", "5", "6", "7"]
    assert [slots_here(Bench(out="o", ranks=ranks)) for ranks in (1, 2, 4, 8)] == [4, 2, 1, 1]
    assert slots_here(Bench(out="o", device="cpu")) == 1 == slots_here(Bench(out="o", device="cuda:3"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == [] and slots_here(Bench(out="o")) == 1


@pytest.mark.parametrize(
    ("slots", "ranks", "seen"),
    [(4, 1, ["0", "1", "2", "3"]), (2, 2, ["0,1", "2,3"]), (6, 1, ["0", "1", "2", "3", "0", "1"]), (1, 4, ["0,1,2,3"])],
)
def test_slots_share_the_gpus_out(monkeypatch, tmp_path, slots, ranks, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    engine = Processes(tmp_path / "plan.json", Bench(out="o", ranks=ranks), slots, notify=print)
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in engine._slots] == seen


FAILS = """
import os, sys
sys.stderr.write("BadData: images: 3 are gone; put them back.\\n")  # one write, as the program does: two ranks write at the same moment
sys.exit(2)
"""


@pytest.mark.parametrize("traces", [False, True])
def test_a_failing_rank_is_told_without_the_traceback_of_torchrun(tmp_path, monkeypatch, traces):
    (tmp_path / "fails.py").write_text(FAILS)
    monkeypatch.setenv("SVGBENCH_DEBUG", str(traces))
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "fails.py")]
    said = subprocess.run([*python(), *start], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()).stdout
    lines = lines_of_ranks(said)
    assert ("Traceback (most recent call last):" in lines) == traces
    assert traces or set(lines) == {"BadData: images: 3 are gone; put them back."}


KILLED = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
try:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
    time.sleep(60)
finally:
    print("Interrupted: stopped by SIGTERM; run the same command again to go on.", file=sys.stderr)
"""


def test_of_a_killed_rank_it_is_told_that_it_was_killed_and_not_that_torchrun_stopped_the_others(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "killed.py")]
    said = subprocess.run([*python(), *start], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()).stdout
    assert why_it_ended(said) == "rank 1 of this machine was killed by SIGKILL; run the same command again, saved work is kept."
    assert why_it_ended("BadData: 3 are gone.\n" + said) == "3 are gone."
    assert "rank 0 of this machine ended with status 3" in why_it_ended("E1129 03:10:15.4 1 x] failed (exitcode: 3) local_rank: 0\n")
    assert why_it_ended("") == "no message"


def test_a_traceback_of_a_rank_is_not_torchrun_s():
    said = "Traceback (most recent call last):\n  File x\nImportError: no torch\nE1129 03:10:15.4 1 api.py] failed (exitcode: 1)\n"
    assert lines_of_ranks(said)[-1] == "ImportError: no torch" and len(lines_of_ranks(said)) == 3


@pytest.mark.slow
def test_two_slots_with_a_worker_killed_and_a_failing_cell_end_with_the_table_of_one_process(alone, tmp_path):
    grid, out = grid_file(tmp_path), tmp_path / "runs"
    process = subprocess.Popen(ablate(grid, out, "--slots", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(out.glob("store/autoencoder/*.partial/checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    (lock,) = out.glob("store/autoencoder/*.lock")
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    table, said = process.communicate(timeout=900)
    assert process.returncode == 3, said
    assert "ended with signal SIGKILL" in said and "g.bad" in said and "neighbour" in said
    assert digests(out) == digests(alone) and numbers(out) == numbers(alone)
    plan = make_plan(configs_of(str(grid), "tiny", None, None))
    assert len(digests(out)) == len(plan.nodes) - 1  # of all distinct keys one failed
    assert "neighbour" in table.split("### Failed")[1] and "g.bad" in table.split("### Failed")[1]
    ended = [line for line in said.splitlines() if line.partition(" of ")[0].isdigit() and ":" in line]
    assert len(ended) == len(plan.nodes) - 1 and said.count("failed: generation-scores") == 1
    assert not list(out.glob("plans/*")) and not list(out.rglob("*.progress*"))

    before = {p: p.stat().st_mtime_ns for p in out.glob("store/*/*/manifest.json")}
    again = subprocess.run(ablate(grid, out, "--slots", "2"), capture_output=True, text=True, timeout=300)
    assert again.returncode == 3 and f"{len(plan.nodes) - 1} exist, 1 to run" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in out.glob("store/*/*/manifest.json")} == before


@pytest.mark.slow
def test_a_signal_reaches_the_workers_their_work_is_kept_and_the_status_is_4(tmp_path):
    grid, out = grid_file(tmp_path), tmp_path / "runs"
    long = ["--slots", "2", "--set", "autoencoder.training.total_images=100000"]
    process = subprocess.Popen(ablate(grid, out, *long), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(out.glob("store/autoencoder/*.partial/log.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (lock,) = out.glob("store/autoencoder/*.lock")
    worker = int(lock.read_text().split()[1])
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 4, said
    assert "same command" in said.splitlines()[-1]
    assert list(out.glob("store/autoencoder/*.partial/checkpoints/*"))
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_frozen_worker_keeps_nobody_from_stopping(tmp_path, monkeypatch):
    monkeypatch.setattr("svgbench.lab.children.CHILD_SECONDS", 0.5)
    monkeypatch.setattr(Bench, "command", lambda bench, plan, keys=(): ["sleep", "60"])
    engine = Processes(tmp_path / "plan.json", Bench(out=str(tmp_path)), 2, notify=print)
    engine.submit([Node("images", "a" * 64, {}, {}, {}), Node("images", "b" * 64, {}, {}, {})])
    frozen, plain = (slot.process for slot in engine._slots)
    frozen.send_signal(signal.SIGSTOP)
    while "T (stopped)" not in Path(f"/proc/{frozen.pid}/status").read_text():
        time.sleep(0.01)
    began = time.monotonic()
    engine.stop()
    assert (plain.returncode, frozen.returncode) == (-signal.SIGTERM, -signal.SIGKILL)
    assert 0.4 < time.monotonic() - began < 5


def test_workers_are_waited_for_while_one_writes_a_checkpoint_and_may_then_exit(tmp_path, monkeypatch):
    monkeypatch.setattr("svgbench.lab.children.CHILD_SECONDS", 1.5)
    saving = tmp_path / "store" / "autoencoder" / f"{'a' * 32}.partial" / "checkpoints" / ".writing-000000000012"
    saving.mkdir(parents=True)
    code = "trap 'sleep 2; rmdir $0; sleep 0.3; exit 4' TERM; echo up; while :; do sleep 0.05; done"
    monkeypatch.setattr(Bench, "command", lambda bench, plan, keys=(): ["bash", "-c", code, str(saving)])
    engine = Processes(tmp_path / "plan.json", Bench(out=str(tmp_path)), 1, notify=print)
    engine.submit([Node("autoencoder", "a" * 64, {}, {}, {})])
    while "up" not in engine._log(engine._slots[0]).read_text():
        time.sleep(0.02)
    engine.stop()
    assert engine._slots[0].process.returncode == 4 and not saving.exists()
