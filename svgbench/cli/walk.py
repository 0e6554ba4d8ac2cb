"""From a plan to finished runs: what is missing is executed by the chosen engine, then every run's directory is written."""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Iterator
from pathlib import Path

from svgbench.cli.view import InPlace, view
from svgbench.errors import Interrupted
from svgbench.lab.engines import Choice, Inline, opened
from svgbench.lab.execute import Executor
from svgbench.lab.plan import Finished, Plan
from svgbench.lab.preflight import check
from svgbench.lab.processes import slots_here
from svgbench.lab.record import record
from svgbench.lab.schedule import Outcome, Walk
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench
from svgbench.machine.ranks import ranks
from svgbench.machine.signals import sentence_of


def walk(plan: Plan, out: Path, bench: Bench, *, keep_going: bool, shelf: Path | None, choice: Choice | None = None) -> Outcome:
    """Executes what is missing, then writes every run's directory, also after a failure or a stop."""
    choice = choice or Choice(slots=1)
    store, outcome = Store(out / "store"), Outcome()
    with uncollected():
        finished = Finished(plan, store)
    missing = set(plan.nodes) - finished.keys()
    if is_main():
        store.sweep(finished.all())
    try:
        if missing:
            check(plan, missing)
            alone = choice.engine == "local" and bench.ranks == 1 and (choice.slots or (1 if world() > 1 else slots_here(bench))) == 1
            if alone:
                work_here(plan, missing, out, bench, outcome, keep_going=keep_going)
            else:
                _there(plan, missing, out, bench, outcome, choice, keep_going)
    except KeyboardInterrupt as error:
        raise Interrupted(sentence_of(getattr(error, "number", signal.SIGINT))) from None
    finally:
        if is_main():
            with uncollected():
                for one in plan.runs:
                    record(plan, one, out, outcome, shelf, finished=finished)
    return outcome


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pauses Python's search for garbage cycles, which goes through all objects of a large plan again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def work_here(plan: Plan, missing: set[str], out: Path, bench: Bench, outcome: Outcome, *, keep_going: bool = False) -> None:
    """Executes the missing nodes of a plan in this process, with its own bars."""
    from svgbench.machine.runtime import Runtime

    runtime = Runtime(device=bench.device, threads=bench.threads, micro_batch=bench.micro_batch, compile=bench.compile)
    store = Store(out / "store")
    engine = Inline(Executor(plan.nodes, store, runtime, runtime.say))
    done = set(plan.nodes) - missing if world() == 1 else set()  # the ranks of a torchrun agree on each node, so they are asked about all
    Walk(plan, engine, outcome, finished=done, say=runtime.say, keep_going=keep_going, watch=InPlace(store, runtime.say)).go()
    runtime.stop()


def _there(plan: Plan, missing: set[str], out: Path, bench: Bench, outcome: Outcome, choice: Choice, keep_going: bool) -> None:
    """By processes elsewhere, with a view of them."""
    with view(Store(out / "store")) as shown, opened(choice, plan, missing, out, bench, say=shown.say) as engine:
        shown.where = engine.where
        walk_ = Walk(plan, engine, outcome, finished=set(plan.nodes) - missing, say=shown.say, keep_going=keep_going, watch=shown)
        walk_.go(leave=choice.leave)


def world() -> int:
    """How many processes walk together."""
    return ranks().world


def is_main() -> bool:
    """Whether this is the process that owns directories and speaks, also under torchrun."""
    return ranks().rank == 0
