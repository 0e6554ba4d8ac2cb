"""Walks a plan: submits nodes to an engine as soon as their inputs are finished. No torch.

Equal work is done once (nodes are merged by key). A node that failed is not tried again in the same command, and its dependent nodes are
skipped; all others run. If another process works on a node, this process waits; a node whose worker died is submitted again.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from svgbench.errors import StorageError, SvgbenchError, notify
from svgbench.lab.plan import Node, Plan, Run
from svgbench.machine.signals import GUARD

LOST_TRIES = 3
"""Largest number of submissions of a node whose worker dies."""
OCCUPIED_SECONDS = 1.0
"""Seconds between two attempts at a node that another process works on."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Report:
    """The result of a node that was submitted to an engine."""

    key: str
    state: Literal["ran", "found", "failed", "occupied", "unready", "lost"]
    """``found``: another process had finished it; ``unready``: one of its inputs is not finished; ``lost``: its worker died."""
    error: SvgbenchError | None = None
    """The reason if it failed, is occupied or was lost."""


class Engine(Protocol):
    """Where nodes are executed."""

    @property
    def slots(self) -> int | None:
        """Number of nodes it runs at once; None if it queues nodes itself."""

    @property
    def ahead(self) -> bool:
        """Whether it accepts nodes with unfinished inputs and orders them itself."""

    def submit(self, nodes: list[Node]) -> None:
        """Submits nodes of equal depth."""

    def poll(self, seconds: float) -> list[Report]:
        """Reports on nodes that ended; waits at most about ``seconds`` for one."""

    def where(self, key: str) -> str:
        """Who works on a node, in a few words."""

    def stop(self) -> None:
        """Stops running nodes and waits until their work is saved."""

    def close(self) -> None:
        """Frees the engine's resources; called when no node is running."""


class Watch:
    """Gets the events of a walk; a subclass shows them."""

    where: Callable[[str], str] = staticmethod(lambda key: "")
    """Who works on a node, in a few words; set to ``Engine.where``."""

    def notify(self, sentence: str) -> None:
        """Writes a line to standard error."""
        notify(sentence)

    def begin(self, plan: Plan, finished: set[str]) -> None:
        """The walk starts; these nodes were finished before."""

    def submitted(self, nodes: list[Node]) -> None:
        """Nodes were submitted."""

    def ended(self, node: Node, report: Report) -> None:
        """A node ended."""

    def tick(self) -> None:
        """Called between two polls."""


@dataclass
class Outcome:
    """The result of running a plan."""

    executed: list[str] = field(default_factory=list)
    """Keys of the nodes run by this command."""
    failed: dict[str, SvgbenchError] = field(default_factory=dict)
    """Key of a failed node -> its error."""
    skipped: set[str] = field(default_factory=set)
    """Keys of the nodes that depend on a failed one."""
    left: set[str] = field(default_factory=set)
    """Keys of the nodes that an engine continues after this command."""


class Walk:
    """One walk of a plan; ``finished`` nodes are not submitted."""

    def __init__(
        self, plan: Plan, engine: Engine, outcome: Outcome, *,
        finished: set[str], notify: Callable[[str], None], keep_going: bool, watch: Watch, complete: Callable[[Run], None] | None = None,
    ) -> None:  # fmt: skip
        """``complete`` gets each run as soon as its last node is finished."""
        self._nodes = {key: node for key, node in plan.nodes.items() if key not in finished}
        self._order = {key: i for i, key in enumerate(self._nodes)}
        self._lacks = {key: {k for k in node.inputs.values() if k not in finished} for key, node in self._nodes.items()}
        self._dependents: dict[str, list[str]] = {}
        for key, lacks in self._lacks.items():
            for needed in lacks:
                self._dependents.setdefault(needed, []).append(key)
        self._ready = [self._order[key] for key, lacks in self._lacks.items() if not lacks]
        self._keys = list(self._nodes)
        self._open = set(self._nodes)
        self._complete = complete
        self._missing = {run.name: len(self._open.intersection(run.nodes)) for run in plan.runs}  # number of unfinished nodes
        self._runs: dict[str, list[Run]] = {}  # of each key
        for run in plan.runs:
            for key in run.nodes:
                self._runs.setdefault(key, []).append(run)
        self._away: set[str] = set()
        self._elsewhere: set[str] = set()
        self._waiting: list[tuple[float, str]] = []
        self._lost: dict[str, int] = {}
        self._engine, self._outcome, self._notify, self._keep_going, self._watch = engine, outcome, notify, keep_going, watch
        watch.begin(plan, finished)

    def go(self, *, leave: bool = False) -> None:
        """Runs until every node is done, failed or skipped. With ``leave`` it returns as soon as all nodes are submitted, if the engine
        orders them itself (``ahead``)."""
        try:
            while self._open:
                GUARD.check()
                self._give()
                if leave and self._engine.ahead and self._open <= self._away:
                    for report in self._engine.poll(0):  # jobs of an earlier command may have ended
                        self._take(report)
                    self._outcome.left = set(self._open)
                    return
                for report in self._engine.poll(POLL_SECONDS):
                    self._take(report)
                self._watch.tick()
        except BaseException:
            self._engine.stop()
            raise

    def _give(self) -> None:
        """Submits ready nodes while the engine has free slots; all nodes, depth by depth, if the engine orders them itself."""
        now = time.monotonic()
        for since, key in list(self._waiting):
            if now - since >= OCCUPIED_SECONDS:
                self._waiting.remove((since, key))
                heapq.heappush(self._ready, self._order[key])
        room = len(self._ready) if self._engine.slots is None else self._engine.slots - len(self._away)
        batch = [self._keys[heapq.heappop(self._ready)] for _ in range(min(room, len(self._ready)))]
        while batch:
            nodes = [self._nodes[key] for key in batch]
            self._away.update(batch)
            self._watch.submitted(nodes)
            self._engine.submit(nodes)
            free = (key for key in self._keys if key in self._open and key not in self._away) if self._engine.ahead else ()
            batch = [key for key in free if self._lacks[key] <= self._away - self._elsewhere]

    def _take(self, report: Report) -> None:
        key, node = report.key, self._nodes[report.key]
        self._away.discard(key)
        self._watch.ended(node, report)
        if report.state in ("ran", "found"):
            self._done(key, ran=report.state == "ran")
        elif report.state == "occupied":
            if not self._waiting:
                self._notify(f"waiting: {report.error}")
            self._elsewhere.add(key)  # no dependent node is submitted until it is finished
            self._waiting.append((time.monotonic(), key))
        elif report.state == "unready":
            if key in self._open and not self._lacks[key]:  # its inputs were finished in the meantime
                heapq.heappush(self._ready, self._order[key])
        elif report.state == "lost" and self._lost.get(key, 0) + 1 < LOST_TRIES:
            self._lost[key] = self._lost.get(key, 0) + 1
            self._notify(f"{node.stage} {key[:12]} is submitted again: {report.error}")
            heapq.heappush(self._ready, self._order[key])
        else:
            self._failed(key, report.error or SvgbenchError(f"stage {node.stage} failed without a message; see its log."))

    def _done(self, key: str, *, ran: bool) -> None:
        if ran:
            self._outcome.executed.append(key)
        if key in self._open:
            self._count(key)
        self._open.discard(key)
        for behind in self._dependents.get(key, ()):
            self._lacks[behind].discard(key)
            if not self._lacks[behind] and behind in self._open and behind not in self._away:
                heapq.heappush(self._ready, self._order[behind])

    def _count(self, key: str) -> None:
        """Counts a finished node, and hands over the runs of which it was the last."""
        for run in self._runs.get(key, ()):
            self._missing[run.name] -= 1
            if self._complete is not None and self._missing[run.name] == 0:
                self._complete(run)

    def _failed(self, key: str, error: SvgbenchError) -> None:
        node = self._nodes[key]
        self._outcome.failed[key] = error
        self._open.discard(key)
        if not self._keep_going or isinstance(error, StorageError):
            raise error
        self._notify(f"failed: {node.stage} {key[:12]}: {error}")
        behind = list(self._dependents.get(key, ()))
        while behind:
            one = behind.pop()
            if one in self._open:
                self._open.discard(one)
                self._outcome.skipped.add(one)
                behind += self._dependents.get(one, ())
