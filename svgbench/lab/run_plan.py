"""Runs a plan: the chosen engine executes the missing nodes, and every run's directory is written when its last node is finished."""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from svgbench.errors import CellsFailed, Interrupted, Occupied
from svgbench.lab.engines import Choice, Inline, opened
from svgbench.lab.execute import Executor
from svgbench.lab.finished import Finished
from svgbench.lab.plan import Plan, Run
from svgbench.lab.preflight import check, slow_on_cpu
from svgbench.lab.processes import slots_here
from svgbench.lab.record import record
from svgbench.lab.schedule import Outcome, Walk, Watch
from svgbench.lab.shipped import install
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench
from svgbench.machine.ranks import check_several, ranks
from svgbench.machine.signals import sentence_of


@dataclass(frozen=True)
class Display:
    """How progress is shown; by default only by the stages' progress bars and errors."""

    in_process: Callable[[Store, Callable[[str], None]], Watch] = lambda store, notify: Watch()
    """For nodes that run in this process; its second argument writes a line above the progress bars."""
    elsewhere: Callable[[Store], AbstractContextManager[Watch]] = lambda store: contextlib.nullcontext(Watch())
    """For nodes that run in other processes."""


def run_plan(
    plan: Plan, out: Path, bench: Bench, *,
    keep_going: bool, shelf: Path | None, choice: Choice | None = None, display: Display | None = None,
) -> Outcome:  # fmt: skip
    """Executes the missing nodes of a plan. Each run's directory is written as soon as its nodes are finished, and those of all runs at the
    end, also after a failure or a stop.

    ``keep_going``: a failed node does not stop the others. Raises BadInput if one process should shard, BadWeights before the first node if
    weights are missing, and Interrupted after a stop signal.
    """
    choice, display = choice or Choice(slots=1), display or Display()
    if bench.shard and "nodes" not in choice.sbatch:
        check_several(world() * bench.ranks)
    store, outcome, using = Store(out / "store"), Outcome(), contextlib.ExitStack()
    finished, missing = _swept(plan, store)

    def write(run: Run) -> None:
        with contextlib.suppress(Occupied):  # another process writes it; at the end it is written again
            if is_main():
                record(plan, run, out, outcome, shelf, finished=finished)

    try:
        if missing:
            check(plan, missing)
            using.enter_context(store.in_use())
            alone = choice.engine == "local" and bench.ranks == 1 and (choice.slots or (1 if world() > 1 else slots_here(bench))) == 1
            if alone:
                run_here(plan, missing, out, bench, outcome, keep_going=keep_going, display=display, complete=write)
            else:
                _run_elsewhere(plan, missing, out, bench, outcome, choice, keep_going, display, write)
    except KeyboardInterrupt as error:
        raise Interrupted(sentence_of(getattr(error, "number", signal.SIGINT))) from None
    finally:
        if is_main():
            with gc_paused():
                for one in plan.runs:
                    record(plan, one, out, outcome, shelf, finished=finished)
        using.close()
    return outcome


def complete(plan: Plan, out: Path, bench: Bench, display: Display | None = None) -> None:
    """Executes the missing nodes of a plan in this process, such as the diagnoses of finished runs. Writes no run's directory."""
    store = Store(out / "store")
    _, missing = _swept(plan, store)
    if missing:
        check(plan, missing)
        with store.in_use():
            run_here(plan, missing, out, bench, Outcome(), display=display)


def _swept(plan: Plan, store: Store) -> tuple[Finished, set[str]]:
    """The finished nodes of a plan, with shipped ones copied into the store and leftovers removed, and the keys of the missing ones."""
    with gc_paused():
        if is_main():
            install(plan.nodes.values(), store)
        finished = Finished(plan, store)
    if is_main():
        store.sweep(finished.all())
    return finished, set(plan.nodes) - finished.keys()


def raise_failures(plan: Plan, outcome: Outcome) -> None:
    """Raises the first failure if no run was finished, else CellsFailed with the runs that were not finished."""
    if not outcome.failed:
        return
    first = next(iter(outcome.failed.values()))
    bad = [run.name for run in plan.runs if any(key in outcome.failed or key in outcome.skipped for key in run.nodes)]
    if len(bad) == len(plan.runs):
        raise first
    raise CellsFailed(f"{len(bad)} of {len(plan.runs)} cells failed ({', '.join(bad[:5])}): {first}")


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pauses Python's cyclic garbage collector, which would repeatedly traverse all objects of a large plan."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def run_here(
    plan: Plan, missing: set[str], out: Path, bench: Bench, outcome: Outcome, *,
    keep_going: bool = False, display: Display | None = None, complete: Callable[[Run], None] | None = None,
) -> None:  # fmt: skip
    """Executes the missing nodes of a plan in this process, with the stages' progress bars. ``complete`` gets each finished run."""
    runtime = bench.runtime()
    if (slow := slow_on_cpu(plan, missing)) and runtime.torch_device.type == "cpu":
        runtime.notify(slow)
    store = Store(out / "store")
    engine = Inline(Executor(plan.nodes, store, runtime, runtime.notify))
    done = set(plan.nodes) - missing if world() == 1 else set()  # under torchrun the ranks decide together on each node
    watch = (display or Display()).in_process(store, runtime.notify)
    Walk(plan, engine, outcome, finished=done, notify=runtime.notify, keep_going=keep_going, watch=watch, complete=complete).go()
    runtime.stop()


def _run_elsewhere(
    plan: Plan, missing: set[str], out: Path, bench: Bench, outcome: Outcome, choice: Choice, keep_going: bool, display: Display,
    complete: Callable[[Run], None],
) -> None:  # fmt: skip
    """Executes the missing nodes in other processes."""
    with display.elsewhere(Store(out / "store")) as watch, opened(choice, plan, missing, out, bench, notify=watch.notify) as engine:
        watch.where = engine.where
        done = set(plan.nodes) - missing
        walk = Walk(
            plan, engine, outcome, finished=done, notify=watch.notify, keep_going=keep_going, watch=watch, complete=complete
        )  # fmt: skip
        walk.go(leave=choice.leave)


def world() -> int:
    """Number of processes that run the plan together under torchrun; 1 without torchrun."""
    return ranks().world


def is_main() -> bool:
    """Whether this process writes directories and messages: rank 0 under torchrun, or the only one."""
    return ranks().rank == 0
