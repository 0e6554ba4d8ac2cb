"""Walks a plan: reuse what is finished, run what is not, record every run. Several processes may walk one plan."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from svgbench.config import cards
from svgbench.config.records import Manifest
from svgbench.errors import Interrupted, Occupied, SvgbenchError
from svgbench.lab.plan import Node, Plan, Run
from svgbench.lab.store import Store, files_of, locked
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


def execute(plan: Plan, out: Path, runtime: Runtime, *, say: Callable[[str], None], keep_going: bool = False) -> Outcome:
    """Runs what the plan lacks. With ``keep_going`` a failed node stops only what depends on it; else its error is raised."""
    store = Store(out / "store")
    outcome = Outcome()
    done: set[str] = set()
    open_nodes = dict(plan.nodes)
    waiting_said = False
    while open_nodes:
        progressed = False
        for key, node in list(open_nodes.items()):
            broken = [k for k in node.inputs.values() if k in outcome.failed or k in outcome.skipped]
            if broken:
                outcome.skipped.add(key)
                del open_nodes[key]
                progressed = True
                continue
            if not all(k in done for k in node.inputs.values()):
                continue
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
            except Interrupted:
                raise
            except SvgbenchError as error:
                if not keep_going:
                    raise
                outcome.failed[key] = error
                say(f"failed: {node.stage} {key[:12]}: {error}")
            del open_nodes[key]
            progressed = True
        if not progressed:
            time.sleep(0.5)
    return outcome


def run_node(node: Node, plan: Plan, store: Store, runtime: Runtime, say: Callable[[str], None]) -> bool:
    """Makes sure that one node is finished; whether it was run here. Under torchrun the main process decides and owns the directory, the
    others help inside it where the stage says so, and all leave together."""
    finished = store.manifest(node.stage, node.key) is not None if runtime.is_main else False
    if runtime.world == 1 and finished:
        store.verify(node.stage, node.key)
        return False
    runtime.start()
    if not runtime.all_agree(not (runtime.is_main and finished)):
        if runtime.is_main:
            store.verify(node.stage, node.key)
        return False
    stage = graph.by_name(node.stage)
    error: BaseException | None = None
    if runtime.is_main:
        with store.claim(node.stage, node.key) as partial:
            if runtime.world == 1 and store.manifest(node.stage, node.key) is not None:  # finished by another process meanwhile
                remove_tree(partial)
                return False
            runtime.barrier()
            try:
                say(f"{node.stage}{_cell_text(node)}")
                _work(stage, node, plan, store, partial, runtime)
            except BaseException as caught:
                error = caught
    else:
        runtime.barrier()
        place = store.place(node.stage, node.key)
        try:
            if stage.ranks == "all":
                _call(stage, node, plan, store, place.with_name(place.name + ".partial"), runtime)
        except BaseException as caught:
            error = caught
    agreed = runtime.all_agree(error is None) if runtime.world > 1 and not isinstance(error, KeyboardInterrupt) else error is None
    if error is not None:
        raise error
    if not agreed:
        raise SvgbenchError(f"stage {node.stage} failed in another process.")
    return True


def _work(stage: graph.Stage, node: Node, plan: Plan, store: Store, partial: Path, runtime: Runtime) -> None:
    from svgbench.world.measure import peak_memory

    started = time.perf_counter()
    with guarded(partial):
        cost = _call(stage, node, plan, store, partial, runtime)
        seconds = time.perf_counter() - started
        digests, sizes = files_of(partial)
    manifest = Manifest(
        stage=node.stage, version=stage.version, key=node.key, slice=node.identity, inputs=node.inputs,
        files=digests, sizes=sizes, seconds=seconds,
        cost={"peak_memory_bytes": peak_memory(runtime.torch_device), **(cost or {})}, host=runtime.describe(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    store.commit(manifest, partial)


def _call(stage: graph.Stage, node: Node, plan: Plan, store: Store, partial: Path, runtime: Runtime) -> dict[str, Any] | None:
    inputs = {name: store.place(plan.nodes[key].stage, key) for name, key in node.inputs.items()}
    try:
        return graph.worker(stage)(node.slice, inputs, partial, runtime)
    except (SvgbenchError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        write_atomic(partial / "error.txt", text.encode())
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SvgbenchError(
            f"stage {stage.name} failed: {type(error).__name__}: {first}; the trace is in {partial / 'error.txt'}."
        ) from error


def _cell_text(node: Node) -> str:
    return " " + " ".join(f"{path.rsplit('.', 1)[-1]} {value:g}" for path, value in node.cell.items()) if node.cell else ""


@contextmanager
def owned(out: Path, run: Run) -> Iterator[Path]:
    """The run's own directory, owned by this process; Occupied (exit 7) when another process works on the run."""
    with guarded(out):
        place = out / run.name
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / "lock", what=f"run '{run.name}'"):
            yield place


def record(plan: Plan, run: Run, out: Path, outcome: Outcome, extra: Path | None = None) -> None:
    """Writes the run's directory: config.yaml, scores.json, run.json, overview.png; readable without this program."""
    store = Store(out / "store")
    place = out / run.name
    with guarded(place):
        place.mkdir(parents=True, exist_ok=True)
    card = cards.find(run.config.encoder.card, run.config.preset, extra)
    config = run.config.model_dump(mode="json")
    rows: list[dict[str, Any]] = []
    stages = []
    failures = {}
    for key in run.nodes:
        node = plan.nodes[key]
        if key in outcome.failed:
            failures[node.stage] = str(outcome.failed[key])
        manifest = store.manifest(node.stage, key)
        if manifest is None:
            continue
        stages.append(
            {"stage": node.stage, "key": key, "cell": node.cell, "seconds": manifest.seconds, "cost": manifest.cost, "host": manifest.host}
        )
        if graph.by_name(node.stage).scores:
            for score in store.scores(node.stage, key):
                rows.append(_row(run, card, node, manifest, score))
        if node.stage == "overview":
            shutil.copyfile(store.place(node.stage, key) / "overview.png", place / "overview.png")
    trained = next((s["cost"].get("images_seen") for s in stages if s["stage"] == "diffusion"), None)
    for row in rows:
        row["images_seen"] = trained
    with guarded(place):
        write_atomic(place / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
        write_atomic(place / "scores.json", (json.dumps(rows, indent=1) + "\n").encode())
        content = {"run": run.name, "encoder": card.name, "family": card.family, "kind": card.kind, "stages": stages, "failures": failures}
        write_atomic(place / "run.json", (json.dumps(content, indent=1) + "\n").encode())


def _row(run: Run, card: cards.EncoderCard, node: Node, manifest: Manifest, score: dict[str, Any]) -> dict[str, Any]:
    """One score as ``report --format json`` prints it."""
    autoencoder = run.config.autoencoder
    codec = card.kind == "codec"
    return {
        "run": run.name, "encoder": card.name, "family": card.family, "align": None if codec else autoencoder.align,
        "residual_channels": 0 if codec else autoencoder.residual.channels, "preset": run.config.preset, "seed": run.config.seed,
        "metric": score["metric"], "value": score["value"], "low": score["low"], "high": score["high"], "count": score["count"],
        "steps": node.cell.get("sampling.steps"), "guidance": node.cell.get("sampling.guidance"), "protocol": score["protocol"],
        "detail": score["detail"], "key": node.key, "images_seen": None, "seconds": manifest.seconds,
    }  # fmt: skip
