"""The walk of a plan: nodes whose inputs are there go to an engine, what it reports opens the next ones. No torch.

Equal work is done once (nodes are merged by key), a node that failed is tried once in one command, and what stands on it is left out; all
else goes on. A node that another process works on is waited for; one whose worker died is given out again.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from svgbench.errors import StorageError, SvgbenchError, say
from svgbench.lab.plan import Node, Plan
from svgbench.machine.signals import GUARD

LOST_TRIES = 3
"""How often a node is given out whose worker dies under it."""
OCCUPIED_SECONDS = 1.0
"""Time between two looks at a node that another process works on."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Report:
    """What became of a node that an engine was given."""

    key: str
    state: Literal["ran", "found", "failed", "occupied", "unready", "lost"]
    """``found``: another process had finished it; ``unready``: one of its inputs is not there; ``lost``: its worker is gone."""
    error: SvgbenchError | None = None
    """Why, where it failed, is occupied or was lost."""


class Engine(Protocol):
    """Where nodes are executed."""

    slots: int | None
    """Nodes it works on at once; None where it queues them itself."""
    ahead: bool
    """Whether it takes nodes whose inputs are still under way, and keeps their order itself."""

    def submit(self, nodes: list[Node]) -> None:
        """Takes nodes of equal depth."""

    def poll(self, seconds: float) -> list[Report]:
        """What ended, after at most about so many seconds."""

    def where(self, key: str) -> str:
        """Who works on a node, in a few words."""

    def stop(self) -> None:
        """Passes a request to stop on to what is under way and waits until its work is saved."""

    def close(self) -> None:
        """Gives back what the engine holds; nothing is under way any more."""


class Watch:
    """Is told of the progress; a subclass shows it."""

    where: Callable[[str], str] = staticmethod(lambda key: "")
    """Who works on a node, in a few words; set to the engine's."""

    def say(self, sentence: str) -> None:
        """Writes a line to standard error."""
        say(sentence)

    def begin(self, plan: Plan, finished: set[str]) -> None:
        """The walk starts; these nodes were there."""

    def submitted(self, nodes: list[Node]) -> None:
        """Nodes were given out."""

    def ended(self, node: Node, report: Report) -> None:
        """A node came back."""

    def tick(self) -> None:
        """Some time went by."""


@dataclass
class Outcome:
    """What an execution did."""

    executed: list[str] = field(default_factory=list)
    """Keys of the nodes run by this command."""
    failed: dict[str, SvgbenchError] = field(default_factory=dict)
    """Keys of the nodes that failed -> why."""
    skipped: set[str] = field(default_factory=set)
    """Keys of the nodes behind a failed one."""
    left: set[str] = field(default_factory=set)
    """Keys of the nodes that an engine goes on with after this command."""


class Walk:
    """One walk of a plan; ``finished`` nodes are not given out."""

    def __init__(
        self, plan: Plan, engine: Engine, outcome: Outcome, *,
        finished: set[str], say: Callable[[str], None], keep_going: bool, watch: Watch,
    ) -> None:  # fmt: skip
        self._nodes = {key: node for key, node in plan.nodes.items() if key not in finished}
        self._order = {key: i for i, key in enumerate(self._nodes)}
        self._lacks = {key: {k for k in node.inputs.values() if k not in finished} for key, node in self._nodes.items()}
        self._stands_on_it: dict[str, list[str]] = {}
        for key, lacks in self._lacks.items():
            for needed in lacks:
                self._stands_on_it.setdefault(needed, []).append(key)
        self._ready = [self._order[key] for key, lacks in self._lacks.items() if not lacks]
        self._keys = list(self._nodes)
        self._open = set(self._nodes)
        self._away: set[str] = set()
        self._elsewhere: set[str] = set()
        self._waiting: list[tuple[float, str]] = []
        self._lost: dict[str, int] = {}
        self._engine, self._outcome, self._say, self._keep_going, self._watch = engine, outcome, say, keep_going, watch
        watch.begin(plan, finished)

    def go(self, *, leave: bool = False) -> None:
        """Until every node is done, failed or left out; ``leave`` ends as soon as an engine that keeps their order has them all."""
        try:
            while self._open:
                GUARD.check()
                self._give()
                if leave and self._engine.ahead and self._open <= self._away:
                    for report in self._engine.poll(0):  # what an earlier command gave out may have ended
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
        """Hands out what is ready, as far as the engine has room; to one that looks ahead everything, depth by depth."""
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
                self._say(f"waiting: {report.error}")
            self._elsewhere.add(key)  # nothing is given out behind it until it is there
            self._waiting.append((time.monotonic(), key))
        elif report.state == "unready":
            if key in self._open and not self._lacks[key]:  # its inputs came later than its turn
                heapq.heappush(self._ready, self._order[key])
        elif report.state == "lost" and self._lost.get(key, 0) + 1 < LOST_TRIES:
            self._lost[key] = self._lost.get(key, 0) + 1
            self._say(f"{node.stage} {key[:12]} is given out again: {report.error}")
            heapq.heappush(self._ready, self._order[key])
        else:
            self._failed(key, report.error or SvgbenchError(f"stage {node.stage} failed without a word; see its log."))

    def _done(self, key: str, *, ran: bool) -> None:
        if ran:
            self._outcome.executed.append(key)
        self._open.discard(key)
        for behind in self._stands_on_it.get(key, ()):
            self._lacks[behind].discard(key)
            if not self._lacks[behind] and behind in self._open and behind not in self._away:
                heapq.heappush(self._ready, self._order[behind])

    def _failed(self, key: str, error: SvgbenchError) -> None:
        node = self._nodes[key]
        self._outcome.failed[key] = error
        self._open.discard(key)
        if not self._keep_going or isinstance(error, StorageError):
            raise error
        self._say(f"failed: {node.stage} {key[:12]}: {error}")
        behind = list(self._stands_on_it.get(key, ()))
        while behind:
            one = behind.pop()
            if one in self._open:
                self._open.discard(one)
                self._outcome.skipped.add(one)
                behind += self._stands_on_it.get(one, ())
