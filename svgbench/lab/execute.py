"""Executes one node unless it is finished. Under torchrun all ranks work on it together."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svgbench.config.records import Manifest
from svgbench.errors import SvgbenchError
from svgbench.lab.digests import check_files
from svgbench.lab.plan import Node, shown_cell
from svgbench.lab.store import TRACE, Store, files_of
from svgbench.machine.files import guarded, remove_tree, write_atomic
from svgbench.stages import graph

if TYPE_CHECKING:
    from svgbench.machine.runtime import Runtime


class Executor:
    """Executes nodes in this process. An input's digests are checked before its first use, unless this process wrote it."""

    def __init__(
        self, nodes: Mapping[str, Node], store: Store, runtime: Runtime, notify: Callable[[str], None], *, noted: bool = False
    ) -> None:
        """``noted``: write progress to a file next to the artifact, which another process shows."""
        self._nodes, self._store, self._runtime, self._notify, self._noted = nodes, store, runtime, notify, noted
        self._trusted: set[str] = set()

    @property
    def world(self) -> int:
        """Number of processes under torchrun; 1 without torchrun."""
        return self._runtime.world

    def unready(self, key: str) -> list[str]:
        """Keys of the node's inputs that are not finished."""
        inputs = self._nodes[key].inputs.values()
        return [k for k in inputs if k not in self._trusted and self._store.manifest(self._nodes[k].stage, k) is None]

    def run(self, key: str) -> bool:
        """Finishes a node; returns whether it was run here."""
        node = self._nodes[key]
        finished = self._store.look(node.stage, key) if self._runtime.is_main else None
        if finished is not None:
            self._store.sweep([finished])
        if self._runtime.world > 1:
            return self._run_together(node, finished is not None)
        if finished is not None:
            return False
        self._check_inputs(node)
        self._runtime.start()
        with self._store.claim(node.stage, key) as partial:
            if self._store.manifest(node.stage, key) is not None:  # finished by another process meanwhile
                remove_tree(partial)
                return False
            self._notify(text_of(node))
            self._finish(node, partial, *self._work(node, partial))
        return True

    def _check_inputs(self, node: Node) -> None:
        for key in node.inputs.values():
            if key not in self._trusted:
                self._store.verify(self._nodes[key].stage, key)
                self._trusted.add(key)

    def _run_together(self, node: Node, finished: bool) -> bool:
        """``run`` under torchrun: the main process decides and owns the directory; the others work in it if the stage runs on all
        ranks. Commits only after all ranks are done."""
        runtime = self._runtime.start()
        with runtime.together(node.stage):
            if not runtime.meet(not finished):
                return False
            _, error = _caught(lambda: self._check_inputs(node)) if runtime.is_main else (None, None)
            if not runtime.meet(error is None):
                raise error or SvgbenchError(f"stage {node.stage} lacks an input; see the main process's error.")
            if not runtime.is_main:
                runtime.meet(True)
                place = self._store.place(node.stage, node.key)
                if graph.by_name(node.stage).ranks == "all":
                    error = _caught(lambda: self._call(node, place.with_name(place.name + ".partial")))[1]
                agreed = runtime.meet(error is None)
            else:
                with self._store.claim(node.stage, node.key) as partial:
                    runtime.meet(True)
                    self._notify(text_of(node))
                    result, error = _caught(lambda: self._work(node, partial))
                    agreed = runtime.meet(error is None)
                    if agreed:
                        _, error = _caught(lambda: self._finish(node, partial, *result))
            if error is None and not agreed:
                error = SvgbenchError(f"stage {node.stage} failed in another process; see its error.")
            committed = runtime.meet(error is None)
            if error is not None:
                raise error
            if not committed:
                raise SvgbenchError(f"stage {node.stage} was not committed; see the main process's error.")
        return True

    def _work(self, node: Node, partial: Path) -> tuple[dict[str, Any], float]:
        """Runs the stage; returns its cost, with the peak memory in bytes, and its duration in seconds."""
        from svgbench.machine.measure import peak_memory, reset_peak

        device = self._runtime.torch_device
        reset_peak(device)
        started = time.perf_counter()
        cost = self._call(node, partial) or {}
        return {"peak_memory_bytes": peak_memory(device), **cost}, time.perf_counter() - started

    def _finish(self, node: Node, partial: Path, cost: dict[str, Any], seconds: float) -> None:
        """Checks that the stage wrote its files, then writes the manifest with their digests and commits the artifact."""
        with guarded(partial, vanished=True):
            digests, sizes = files_of(partial)
        for name in graph.left(node.stage, node.slice):
            if not sizes.get(name):
                what = f"an empty {name}" if name in sizes else f"no {name}"
                raise SvgbenchError(f"stage {node.stage} left {what}, so nothing was stored; its unfinished work is kept in {partial}.")
        manifest = Manifest(
            stage=node.stage, version=graph.by_name(node.stage).version, key=node.key, slice=node.identity, inputs=node.inputs,
            files=digests, sizes=sizes, seconds=cost.pop("seconds", seconds), cost=cost, host=self._runtime.describe(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        self._store.commit(manifest, partial)
        self._trusted.add(node.key)

    def _call(self, node: Node, partial: Path) -> dict[str, Any] | None:
        """Calls the stage's function, and checks before and after it that the files it opens are unchanged. An unexpected error is
        reported in one sentence; its traceback is written to a file in the unfinished artifact."""
        stage = graph.by_name(node.stage)
        inputs = {name: self._store.place(self._nodes[key].stage, key) for name, key in node.inputs.items()}
        note = self._store.note(node.stage, node.key) if self._noted else None
        try:
            with guarded(partial):
                check_files(node)
                cost = graph.worker(stage)(node.slice, inputs, partial, replace(self._runtime, note=note))
                check_files(node)
                return cost
        except (SvgbenchError, KeyboardInterrupt):
            raise
        except Exception as error:
            if self._runtime.is_main:
                write_atomic(partial / TRACE, "".join(traceback.format_exception(error)).encode())
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            where = partial / TRACE
            raise SvgbenchError(f"stage {stage.name} failed: {type(error).__name__}: {first}; the traceback is in {where}.") from error
        finally:
            if note is not None and self._runtime.is_main:
                with contextlib.suppress(OSError):
                    note.unlink(missing_ok=True)


def text_of(node: Node) -> str:
    """A node as text: its stage and cell, such as ``samples steps 25 guidance 4``."""
    return " ".join([node.stage, *(f"{name} {value:g}" for name, value in shown_cell(node.cell).items())])


def _caught(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """The result of a function, or the error it raised, so that all ranks can meet before the error is raised."""
    try:
        return function(), None
    except BaseException as error:
        return None, error
