"""Every node of a plan is executed once, in order, whatever the engine does with it."""

from __future__ import annotations

from collections import Counter

import pytest

from svgbench.errors import Interrupted, NumericalError, Occupied, StorageError, SvgbenchError
from svgbench.lab import run_plan, schedule
from svgbench.lab.plan import Node, Plan, Run
from svgbench.lab.schedule import LOST_TRIES, Outcome, Report, Walk, Watch
from svgbench.lab.worker import Bench

STANDS_ON = {
    "images": [], "ae-1": ["images"], "ae-2": ["images"], "sit-1": ["ae-1"], "sit-2": ["ae-2"],
    "samples-1": ["sit-1"], "samples-2": ["sit-2"], "fid-1": ["samples-1", "images"], "fid-2": ["samples-2", "images"],
}  # fmt: skip
PLAN = Plan({k: Node(k.partition("-")[0], k, {}, {}, {n: n for n in needs}) for k, needs in STANDS_ON.items()}, ())


class Fake:
    """An engine that takes one poll for a node; ``says`` maps a key to what becomes of its tries, after which it is fine."""

    def __init__(self, slots: int | None = 2, *, ahead: bool = False, says: dict[str, list] | None = None) -> None:
        self.slots, self.ahead, self.says = slots, ahead, {k: list(v) for k, v in (says or {}).items()}
        self.away: list[Node] = []
        self.given: list[str] = []
        self.batches: list[set[str]] = []
        self.done: set[str] = set()
        self.most = 0
        self.stopped = False

    def submit(self, nodes):
        self.given += [node.key for node in nodes]
        self.batches.append({node.key for node in nodes})
        self.away += nodes
        self.most = max(self.most, len(self.away))

    def poll(self, seconds):
        if not self.away:
            return []
        node = self.away.pop(0)
        missing = [k for k in node.inputs.values() if k not in self.done]
        assert self.ahead or not missing, f"{node.key} was given out before {missing}"
        if missing:
            return [Report(node.key, "unready", SvgbenchError("not there"))]
        what = self.says.get(node.key)
        if what:
            word = what.pop(0)
            if isinstance(word, BaseException) and not isinstance(word, SvgbenchError):
                raise word
            if isinstance(word, Occupied):
                return [Report(node.key, "occupied", word)]
            if isinstance(word, SvgbenchError):
                return [Report(node.key, "failed", word)]
            return [Report(node.key, word, SvgbenchError("worker gone"))]
        self.done.add(node.key)
        return [Report(node.key, "ran")]

    def where(self, key):
        return ""

    def stop(self):
        self.stopped = True

    def close(self):
        pass


def test_nothing_is_given_out_again_and_again_behind_a_node_of_another_process(monkeypatch):
    monkeypatch.setattr(schedule, "OCCUPIED_SECONDS", 0.0)
    engine = Fake(None, ahead=True, says={"ae-1": [Occupied("another works on it")] * 50})
    outcome, _ = walked(engine)
    assert set(outcome.executed) == set(PLAN.nodes) and engine.given.count("ae-1") == 51
    assert all(engine.given.count(key) <= 2 for key in ("sit-1", "samples-1", "fid-1"))


def walked(engine: Fake, *, finished: set[str] = frozenset(), keep_going: bool = True, leave: bool = False) -> tuple[Outcome, list[str]]:
    said: list[str] = []
    outcome = Outcome()
    engine.done |= finished
    try:
        Walk(PLAN, engine, outcome, finished=set(finished), notify=said.append, keep_going=keep_going, watch=Watch()).go(leave=leave)
    finally:
        engine.said = said
    return outcome, said


@pytest.mark.parametrize("slots", [1, 2, 5, None])
def test_executions_are_the_distinct_keys_and_no_more_are_out_than_there_are_slots(slots):
    engine = Fake(slots)
    outcome, _ = walked(engine)
    assert sorted(outcome.executed) == sorted(PLAN.nodes) and Counter(engine.given) == Counter(list(PLAN.nodes))
    assert engine.most <= (slots or 9)
    if slots == 2:
        assert engine.most == 2


def test_a_run_is_complete_when_its_last_node_is_finished_and_only_once(monkeypatch):
    monkeypatch.setattr(schedule, "OCCUPIED_SECONDS", 0.0)
    one, two, both = (Run(name, None, tuple(keys)) for name, keys in (
        ("one", ["images", "ae-1", "sit-1", "samples-1", "fid-1"]),
        ("two", ["images", "ae-2", "sit-2", "samples-2", "fid-2"]),
        ("both", list(PLAN.nodes)),
    ))  # fmt: skip
    engine, outcome, seen = Fake(1, says={"sit-2": [Occupied("another works on it")] * 3}), Outcome(), []
    engine.done |= {"images"}

    def complete(run):
        assert set(run.nodes) <= engine.done
        seen.append((run.name, len(engine.done)))

    plan = Plan(PLAN.nodes, (one, two, both))
    walk = Walk(plan, engine, outcome, finished={"images"}, notify=print, keep_going=True, watch=Watch(), complete=complete)
    walk.go()
    assert [name for name, _ in seen] == ["one", "two", "both"] and seen[0][1] < 9


def test_a_run_with_a_failed_node_is_never_complete():
    runs = tuple(Run(name, None, (f"ae-{name}", f"sit-{name}")) for name in ("1", "2"))
    engine, seen = Fake(2, says={"sit-2": [NumericalError("NaN")]}), []
    walk = Walk(
        Plan(PLAN.nodes, runs), engine, Outcome(), finished=set(), notify=lambda said: None, keep_going=True, watch=Watch(),
        complete=lambda run: seen.append(run.name),
    )  # fmt: skip
    walk.go()
    assert seen == ["1"]


def test_the_directory_of_a_run_is_written_before_the_plan_ends(monkeypatch, tmp_path):
    """So a report shows the finished runs of a grid that still runs, or whose machine died."""
    runs, written = tuple(Run(name, None, (name,)) for name in ("ae-1", "ae-2")), []
    monkeypatch.setattr(run_plan, "_swept", lambda plan, store: (None, set(plan.nodes)))
    monkeypatch.setattr(run_plan, "check", lambda plan, missing: None)
    monkeypatch.setattr(run_plan, "record", lambda plan, run, *more, **how: written.append(run.name))

    def here(plan, missing, out, bench, outcome, *, complete, **how):
        complete(runs[1])
        assert written == ["ae-2"]

    monkeypatch.setattr(run_plan, "run_here", here)
    run_plan.run_plan(Plan(PLAN.nodes, runs), tmp_path, Bench(out=str(tmp_path), threads=1), keep_going=True, shelf=None)
    assert written == ["ae-2", "ae-1", "ae-2"]


def test_a_run_that_another_process_writes_does_not_stop_the_plan(monkeypatch, tmp_path):
    runs, tries = (Run("ae-1", None, ("ae-1",)),), []
    monkeypatch.setattr(run_plan, "_swept", lambda plan, store: (None, set(plan.nodes)))
    monkeypatch.setattr(run_plan, "check", lambda plan, missing: None)

    def record(plan, run, *more, **how):
        tries.append(run.name)
        if len(tries) == 1:
            raise Occupied("the record is being worked on")

    monkeypatch.setattr(run_plan, "record", record)
    monkeypatch.setattr(run_plan, "run_here", lambda *more, complete, **how: complete(runs[0]))
    run_plan.run_plan(Plan(PLAN.nodes, runs), tmp_path, Bench(out=str(tmp_path), threads=1), keep_going=True, shelf=None)
    assert tries == ["ae-1", "ae-1"]


def test_what_is_finished_is_not_given_out():
    engine = Fake(2)
    outcome, _ = walked(engine, finished={"images", "ae-1", "fid-2"})
    assert set(engine.given) == set(PLAN.nodes) - {"images", "ae-1", "fid-2"} and len(outcome.executed) == 6


def test_a_failed_node_is_tried_once_and_stops_only_what_stands_on_it():
    engine = Fake(2, says={"ae-2": [NumericalError("NaN")] * 9})
    outcome, said = walked(engine)
    assert list(outcome.failed) == ["ae-2"] and outcome.skipped == {"sit-2", "samples-2", "fid-2"}
    assert engine.given.count("ae-2") == 1 and set(outcome.executed) == {"images", "ae-1", "sit-1", "samples-1", "fid-1"}
    assert outcome.failed["ae-2"].exit_status == 6 and "NaN" in said[0]


def test_without_keep_going_the_first_failure_ends_it_and_the_engine_is_stopped():
    engine = Fake(2, says={"ae-1": [NumericalError("NaN")]})
    with pytest.raises(NumericalError):
        walked(engine, keep_going=False)
    assert engine.stopped


def test_a_full_disk_ends_it_even_when_it_keeps_going():
    engine = Fake(2, says={"ae-1": [StorageError("full")]})
    with pytest.raises(StorageError):
        walked(engine)
    assert engine.stopped


@pytest.mark.parametrize("error", [Interrupted("SIGTERM"), KeyboardInterrupt()])
def test_a_signal_is_passed_on_to_the_engine(error):
    engine = Fake(2)
    ordinary = engine.poll

    def poll(seconds):
        if len(engine.done) == 3:
            raise error
        return ordinary(seconds)

    engine.poll = poll
    with pytest.raises(type(error)):
        walked(engine)
    assert engine.stopped


def test_a_node_whose_worker_dies_is_given_out_again_and_fails_when_it_keeps_dying():
    engine = Fake(2, says={"sit-1": ["lost"] * (LOST_TRIES - 1), "sit-2": ["lost"] * 99})
    outcome, _ = walked(engine)
    assert engine.given.count("sit-1") == engine.given.count("sit-2") == LOST_TRIES
    assert "sit-1" in outcome.executed and set(outcome.failed) == {"sit-2"} and outcome.skipped == {"samples-2", "fid-2"}


def test_an_occupied_node_is_waited_for_and_the_wait_is_said_once(monkeypatch):
    monkeypatch.setattr(schedule, "OCCUPIED_SECONDS", 0.01)
    engine = Fake(2, says={"ae-1": [Occupied("process 7 has it")] * 3})
    outcome, said = walked(engine)
    assert len(outcome.executed) == 9 and engine.given.count("ae-1") == 4
    assert sum("process 7" in line for line in said) >= 1


@pytest.mark.parametrize("leave", [False, True])
def test_an_engine_that_looks_ahead_gets_every_node_at_once_depth_by_depth(leave):
    engine = Fake(None, ahead=True)
    outcome, _ = walked(engine, leave=leave)
    depths = [{"images"}, {"ae-1", "ae-2"}, {"sit-1", "sit-2"}, {"samples-1", "samples-2"}, {"fid-1", "fid-2"}]
    assert engine.batches == depths
    assert outcome.left == (set(PLAN.nodes) - engine.done if leave else set())
    assert leave or len(outcome.executed) == 9


def test_ahead_what_stands_on_a_failed_node_is_left_out_and_the_rest_is_done():
    engine = Fake(None, ahead=True, says={"ae-2": [NumericalError("NaN")]})
    outcome, _ = walked(engine)
    assert set(outcome.failed) == {"ae-2"} and outcome.skipped == {"sit-2", "samples-2", "fid-2"} and len(outcome.executed) == 5
    assert Counter(engine.given) == Counter(list(PLAN.nodes))


def test_ahead_a_lost_node_runs_again_and_so_does_what_ran_too_early_behind_it():
    engine = Fake(None, ahead=True, says={"ae-2": ["lost"]})
    outcome, _ = walked(engine)
    assert sorted(outcome.executed) == sorted(PLAN.nodes) and not outcome.failed
