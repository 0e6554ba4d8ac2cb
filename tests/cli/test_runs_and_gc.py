"""``experiments``, ``runs`` and ``gc``: what is on the shelf, what an output directory holds, and what its store can lose."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_runs import seal_record
from finished import finish, planned

from svgbench.cli.main import main
from svgbench.config.records import RUN_FORMAT, unseal
from svgbench.errors import Occupied
from svgbench.lab import run_plan
from svgbench.lab.plan import Plan
from svgbench.lab.record import record
from svgbench.lab.schedule import Outcome
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench

HOLDS = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, getattr(fcntl, sys.argv[2]))
print("held", flush=True)
time.sleep(60)
"""


def call(capsys, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


@pytest.fixture
def made(tmp_path) -> tuple[Plan, Path]:
    """Two finished runs, of seeds 0 and 1, and their plan."""
    plan, out = planned(tmp_path), tmp_path / "runs"
    finish(plan, out)
    for run in plan.runs:
        record(plan, run, out, Outcome())
    return plan, out


def held(path: Path, kind: str = "LOCK_EX") -> subprocess.Popen:
    """Another process that holds a lock."""
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(path), kind], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    return other


def places(out: Path, plan: Plan) -> dict[str, Path]:
    return {key: Store(out / "store").place(node.stage, key) for key, node in plan.nodes.items()}


def test_experiments_lists_the_shelf_and_a_folder_and_shows_one(capsys, tmp_path):
    status, out, _ = call(capsys, "experiments", "list", "--format", "json")
    shelf = {one["name"]: one for one in json.loads(out)}
    assert status == 0 and shelf["smoke"]["cells"] == 1 and shelf["alignment"]["cells"] == 54 and shelf["smoke"]["base"] == "preset-tiny"
    (tmp_path / "mine.yaml").write_text("asks: how wide?\nbase: smoke\naxes:\n  seed: [0, 1, 2]\n")
    (tmp_path / "other.yaml").write_text("unknown: 1\n")
    status, out, err = call(capsys, "experiments", "list", tmp_path)
    assert status == 0 and "how wide?" in out and "| 3 " in out and "left out: " in err and "other.yaml" in err
    status, out, _ = call(capsys, "experiments", "show", tmp_path / "mine.yaml")
    assert status == 0 and out == f"# {tmp_path}/mine.yaml\n# 3 cells: seed-0, seed-1, seed-2\n" + (tmp_path / "mine.yaml").read_text()
    status, _, err = call(capsys, "experiments", "show", "smoek")
    assert status == 2 and "Did you mean 'smoke'" in err


def test_runs_says_of_every_run_its_state(capsys, made):
    plan, out = made
    first, second = (run.name for run in plan.runs)
    about = unseal((out / second / "run.json").read_bytes(), RUN_FORMAT)
    seal_record(out / second, {**about, "stages": about["stages"][:3], "failures": {"diffusion": "NaN"}})
    for name, stages in (("cut", about["stages"][:-1]), ("taken", [s for s in about["stages"] if s["stage"] == "diffusion"])):
        shutil.copytree(out / first, out / name)
        seal_record(out / name, {**about, "run": name, "stages": stages})
    (out / "taken" / "experiment.yaml").write_text("run: taken\n")
    (out / "killed").mkdir()
    (out / "killed" / "lock").touch()
    (out / "broken").mkdir()
    (out / "broken" / "run.json").write_text("{")
    (out / "figures").mkdir()
    other = held(out / "killed" / "lock")
    try:
        status, text, err = call(capsys, "runs", "--out", out, "--format", "json")
    finally:
        other.kill()
        other.wait()
    assert status == 0, err
    rows = {row["name"]: row for row in json.loads(text)}
    states = {name: row["state"] for name, row in rows.items()}
    assert status == 0 and states == {first: "finished", second: "failed", "cut": "unfinished", "taken": "imported", "killed": "running",
                                      "broken": "damaged"}  # fmt: skip
    mine = next(run for run in plan.runs if run.name == first)
    used = sum(f.stat().st_size for key in mine.nodes for f in places(out, plan)[key].iterdir())
    assert rows[first]["bytes"] == used + sum(f.stat().st_size for f in (out / first).iterdir())
    assert rows[first]["done"] == rows[first]["wanted"] and rows["cut"]["done"] == rows["cut"]["wanted"] - 1
    _, text, _ = call(capsys, "runs", "--out", out)
    assert f"- {second}: NaN" in text and "| unfinished | -" in text  # 'killed', whose lock nobody holds any more


def test_gc_removes_what_no_run_needs_after_a_yes(capsys, made, monkeypatch):
    plan, out = made
    status, text, _ = call(capsys, "gc", "--out", out, "--format", "json")
    assert status == 0 and json.loads(text) == []
    gone, kept = plan.runs
    shutil.rmtree(out / gone.name)
    place, alone = places(out, plan), set(gone.nodes) - set(kept.nodes)
    wanted = sum(f.stat().st_size for key in alone for f in place[key].iterdir())
    for answer in ("", "n\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        status, text, err = call(capsys, "gc", "--out", out)
        assert (
            status == 0
            and f"Remove {len(alone)} entries" in err
            and "nothing was removed" in err
            and all(place[key].exists() for key in alone)
        )
    status, _, err = call(capsys, "gc", "--out", out, "--yes")
    assert status == 0 and f"({wanted:,} bytes)" in err
    assert not any(place[key].exists() for key in alone) and all(place[key].exists() for key in kept.nodes)
    assert not list((out / "store").rglob("*.lock"))[1:]  # use.lock alone


def test_gc_keeps_what_is_to_be_resumed_what_figures_measured_and_files_that_a_run_names(capsys, made, tmp_path):
    plan, out = made
    gone, kept = plan.runs
    place = places(out, plan)
    mine = next(key for key in kept.nodes if plan.nodes[key].stage == "diffusion")
    partial = place[mine].with_name(place[mine].name + ".partial")
    place[mine].rename(partial)  # the kept run is to be resumed
    (partial / "manifest.json").unlink()
    strange = out / "store" / "diffusion" / f"{'5' * 32}.partial"
    strange.mkdir()
    (strange / "checkpoint").write_bytes(b"x" * 100)
    shutil.rmtree(out / gone.name)
    assert call(capsys, "gc", "--out", out, "--yes")[0] == 0
    assert partial.is_dir() and strange.is_dir()  # begun by a run that was killed before its record
    status, _, err = call(capsys, "gc", "--out", out, "--yes", "--unfinished")
    assert status == 0 and partial.is_dir() and not strange.exists() and "100 B freed" in err


def test_gc_touches_nothing_while_a_process_works_or_a_record_is_unreadable(capsys, made):
    plan, out = made
    shutil.rmtree(out / plan.runs[0].name)
    before = sorted((out / "store").rglob("*"))
    other = held(out / "store" / "use.lock", "LOCK_SH")
    try:
        status, _, err = call(capsys, "gc", "--out", out, "--yes")
    finally:
        other.kill()
        other.wait()
    assert status == 7 and f"a process is at work in {out / 'store'}" in err
    (out / plan.runs[1].name / "run.json").write_text("{")
    status, _, err = call(capsys, "gc", "--out", out, "--yes")
    assert status == 2 and "what the run needs is unknown" in err
    assert [p for p in sorted((out / "store").rglob("*")) if p.name != "use.lock"] == before


def test_gc_leaves_an_artifact_that_a_live_process_makes(capsys, made):
    plan, out = made
    shutil.rmtree(out / plan.runs[0].name)
    alone = sorted(set(plan.runs[0].nodes) - set(plan.runs[1].nodes))
    place = places(out, plan)
    other = held(place[alone[0]].with_name(place[alone[0]].name + ".lock"))
    try:
        status, _, _ = call(capsys, "gc", "--out", out, "--yes")
    finally:
        other.kill()
        other.wait()
    assert status == 0 and place[alone[0]].is_dir() and not place[alone[1]].exists()


def test_runs_use_the_store_together_and_gc_alone(made, monkeypatch):
    plan, out = made
    store, seen = Store(out / "store"), []

    def during(*_, **__):
        with pytest.raises(Occupied, match="a process is at work"), store.in_use(alone=True):
            pass
        with store.in_use():
            seen.append("another run")

    monkeypatch.setattr(run_plan, "run_here", during)
    shutil.rmtree(places(out, plan)[plan.runs[0].nodes[-1]])
    bench = Bench(out=str(out), device="cpu")
    run_plan.run_plan(plan, out, bench, keep_going=False, shelf=None)
    with store.in_use(alone=True), pytest.raises(Occupied, match="'svgbench gc' is cleaning"):
        run_plan.run_plan(plan, out, bench, keep_going=False, shelf=None)
    assert seen == ["another run"]
