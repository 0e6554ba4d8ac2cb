"""Walks a plan: reuse what is finished, run what is not. Several processes may walk one plan; under torchrun all ranks walk together."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svgbench.config.records import Manifest
from svgbench.errors import Interrupted, Occupied, StorageError, SvgbenchError
from svgbench.lab.plan import Node, Plan
from svgbench.lab.store import Store, files_of
from svgbench.stages import graph
from svgbench.world.files import guarded, remove_tree, write_atomic

if TYPE_CHECKING:
    from svgbench.world.runtime import Runtime


@dataclass
class Outcome:
    """What an execution did."""

    executed: list[str] = field(default_factory=list)
    """Keys of the nodes run here."""
    failed: dict[str, SvgbenchError] = field(default_factory=dict)
    """Keys of the nodes that failed -> why."""
    skipped: set[str] = field(default_factory=set)
    """Keys of the nodes behind a failed one."""


def execute(plan: Plan, out: Path, runtime: Runtime, outcome: Outcome, *, say: Callable[[str], None], keep_going: bool = False) -> None:
    """Runs what the plan lacks and notes it in ``outcome``. With ``keep_going`` a failed node stops only what depends on it; a signal or a
    disk that cannot be written stops everything."""
    store = Store(out / "store")
    done: set[str] = set()
    open_nodes = dict(plan.nodes)
    waiting_said = False
    while open_nodes:
        progressed = False
        for key, node in list(open_nodes.items()):
            if any(k in outcome.failed or k in outcome.skipped for k in node.inputs.values()):
                outcome.skipped.add(key)
            elif not all(k in done for k in node.inputs.values()):
                continue
            else:
                try:
                    if run_node(node, plan, store, runtime, say):
                        outcome.executed.append(key)
                    done.add(key)
                except Occupied as error:
                    if runtime.world > 1:
                        raise  # the other processes of a torchrun cannot wait with this one
                    if not waiting_said:
                        say(f"waiting: {error}")
                    waiting_said = True
                    continue
                except SvgbenchError as error:
                    if isinstance(error, Interrupted):
                        raise
                    outcome.failed[key] = error
                    if not keep_going or isinstance(error, StorageError):
                        raise
                    say(f"failed: {node.stage} {key[:12]}: {error}")
            del open_nodes[key]
            progressed = True
        if not progressed:
            time.sleep(0.5)


def run_node(node: Node, plan: Plan, store: Store, runtime: Runtime, say: Callable[[str], None]) -> bool:
    """Makes sure that one node is finished; whether it was run here."""
    stage = graph.by_name(node.stage)
    finished = runtime.is_main and store.manifest(node.stage, node.key) is not None
    if runtime.world > 1:
        return _run_together(stage, node, plan, store, runtime, say, finished)
    if finished:
        store.verify(node.stage, node.key)
        store.sweep(node.stage, node.key)
        return False
    runtime.start()
    with store.claim(node.stage, node.key) as partial:
        if store.manifest(node.stage, node.key) is not None:  # finished by another process meanwhile
            remove_tree(partial)
            return False
        say(f"{node.stage}{_cell_text(node)}")
        _finish(node, stage, store, partial, runtime, *_work(stage, node, plan, store, partial, runtime))
    return True


def _run_together(
    stage: graph.Stage, node: Node, plan: Plan, store: Store, runtime: Runtime, say: Callable[[str], None], finished: bool
) -> bool:
    """The same under torchrun: the main process decides and owns the directory, the others help inside it where the stage says so, and
    nothing is committed before all have done their part."""
    runtime.start()
    with runtime.together(node.stage):
        if not runtime.meet(not finished):
            if runtime.is_main:
                store.verify(node.stage, node.key)
            return False
        if not runtime.is_main:
            runtime.meet(True)
            place = store.place(node.stage, node.key)
            error = None
            if stage.ranks == "all":
                error = _caught(lambda: _call(stage, node, plan, store, place.with_name(place.name + ".partial"), runtime))[1]
            agreed = runtime.meet(error is None)
        else:
            with store.claim(node.stage, node.key) as partial:
                runtime.meet(True)
                say(f"{node.stage}{_cell_text(node)}")
                found, error = _caught(lambda: _work(stage, node, plan, store, partial, runtime))
                agreed = runtime.meet(error is None)
                if agreed:
                    _, error = _caught(lambda: _finish(node, stage, store, partial, runtime, *found))
        if error is None and not agreed:
            error = SvgbenchError(f"stage {node.stage} failed in another process, which says why.")
        committed = runtime.meet(error is None)
        if error is not None:
            raise error
        if not committed:
            raise SvgbenchError(f"stage {node.stage} was not committed by the main process, which says why.")
    return True


def _caught(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a function gave, or what it raised, so that the ranks can meet before it goes on."""
    try:
        return function(), None
    except BaseException as error:
        return None, error


def _work(stage: graph.Stage, node: Node, plan: Plan, store: Store, partial: Path, runtime: Runtime) -> tuple[dict[str, Any], float]:
    """The stage's own cost, with its peak memory, and its seconds."""
    from svgbench.world.measure import peak_memory, reset_peak

    reset_peak(runtime.torch_device)
    started = time.perf_counter()
    cost = _call(stage, node, plan, store, partial, runtime) or {}
    return {"peak_memory_bytes": peak_memory(runtime.torch_device), **cost}, time.perf_counter() - started


def _finish(node: Node, stage: graph.Stage, store: Store, partial: Path, runtime: Runtime, cost: dict[str, Any], seconds: float) -> None:
    """Digests, manifest, commit."""
    with guarded(partial):
        digests, sizes = files_of(partial)
    manifest = Manifest(
        stage=node.stage, version=stage.version, key=node.key, slice=node.identity, inputs=node.inputs,
        files=digests, sizes=sizes, seconds=cost.pop("seconds", seconds), cost=cost, host=runtime.describe(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    store.commit(manifest, partial)


def _call(stage: graph.Stage, node: Node, plan: Plan, store: Store, partial: Path, runtime: Runtime) -> dict[str, Any] | None:
    """The stage's function; what it raises becomes one sentence, its trace a file in the unfinished artifact."""
    inputs = {name: store.place(plan.nodes[key].stage, key) for name, key in node.inputs.items()}
    try:
        with guarded(partial):
            return graph.worker(stage)(node.slice, inputs, partial, runtime)
    except (SvgbenchError, KeyboardInterrupt):
        raise
    except Exception as error:
        if runtime.is_main:
            write_atomic(partial / "error.txt", "".join(traceback.format_exception(error)).encode())
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = partial / "error.txt"
        raise SvgbenchError(f"stage {stage.name} failed: {type(error).__name__}: {first}; the trace is in {where}.") from error


def _cell_text(node: Node) -> str:
    return " " + " ".join(f"{path.rsplit('.', 1)[-1]} {value:g}" for path, value in node.cell.items()) if node.cell else ""
