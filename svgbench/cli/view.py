"""Shows the progress of a plan: on a terminal a table of running nodes with place, rate and time; elsewhere a line for every node."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from svgbench.config.records import Score
from svgbench.errors import printable
from svgbench.lab.execute import text_of
from svgbench.lab.plan import Node, Plan
from svgbench.lab.run_plan import Display
from svgbench.lab.schedule import Report, Watch
from svgbench.lab.store import Store
from svgbench.machine.progress import duration, read_note
from svgbench.stages import graph

PLAIN_SECONDS = 30.0
"""Seconds between two lists of the running nodes if there is no terminal."""
SHOWN = 20
"""Most rows of the terminal's table."""
LAST_SCORES = 5


class View(Watch):
    """Counts the nodes of a plan as they end, and prints a line for each."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._total = self._done = self._failed = 0
        self._open: dict[str, Node] = {}
        self._away: dict[str, tuple[Node, float]] = {}
        self._seconds: dict[str, list[float]] = {}
        self._scores: deque[str] = deque(maxlen=LAST_SCORES)
        self._last = time.monotonic()

    def begin(self, plan: Plan, finished: set[str]) -> None:
        self._total, self._done = len(plan.nodes), len(finished)
        self._open = {key: node for key, node in plan.nodes.items() if key not in finished}
        self.notify(f"{self._total} nodes, {self._done} exist, {len(self._open)} to run")

    def submitted(self, nodes: list[Node]) -> None:
        self._away |= {node.key: (node, time.monotonic()) for node in nodes}

    def ended(self, node: Node, report: Report) -> None:
        _, since = self._away.pop(node.key)
        if report.state not in ("ran", "found"):
            self._failed += report.state == "failed"
            return
        now = time.monotonic()
        seconds = now - since
        self._done += 1
        self._open.pop(node.key, None)
        behind = {key: other for key, (other, _) in self._away.items() if node.key in other.inputs.values()}
        self._away |= {key: (other, now) for key, other in behind.items()}  # they waited until now
        self._seconds.setdefault(node.stage, []).append(seconds)
        if graph.by_name(node.stage).scores:
            self._scores.append(f"{text_of(node)}: {scores_text(self._store.scores(node.stage, node.key))}")
        self._announce(node, seconds)

    def _announce(self, node: Node, seconds: float) -> None:
        """Prints a line about a node that has finished."""
        what = self._scores[-1] if graph.by_name(node.stage).scores else text_of(node)
        self.notify(f"{self._done} of {self._total}: {what} ({duration(seconds)})")

    def tick(self) -> None:
        if time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            for row in self.rows():
                self.notify("  " + ", ".join(word for word in row if word))
            self.notify(self.summary())

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """The running nodes: node, place, progress, rate, time left; without nodes that wait in an engine for other nodes."""
        rows = []
        for key, (node, since) in self._under_way().items():
            note = read_note(self._store.note(node.stage, key))
            where = self.where(key)
            if note is None:
                rows.append((text_of(node), where, f"for {duration(time.monotonic() - since)}", "", ""))
                continue
            done, total, rate = note["done"], note["total"], note["rate"]
            left = f"{duration((total - done) / rate)} left" if rate > 0 else ""
            place = f"{where} on {note['host']}" if where else note["host"]
            rows.append((text_of(node), place, f"{done:,} of {total:,} {note['unit']}", f"{rate:,.1f}/s", left))
        return rows

    def _under_way(self) -> dict[str, tuple[Node, float]]:
        """Key -> (node, start time), for submitted nodes whose inputs exist."""
        away = list(self._away.items())  # another thread draws the terminal
        return {key: entry for key, entry in away if not any(needed in self._open for needed in entry[0].inputs.values())}

    def summary(self) -> str:
        """Counts of nodes, and the time left, estimated from finished nodes of the same stages."""
        now = len(self._under_way())
        words = [f"{self._done} of {self._total} nodes", f"{now} under way"]
        words += [f"{len(self._away) - now} behind them"] if len(self._away) > now else []
        words += [f"{self._failed} failed"] if self._failed else []
        left = self._left()
        return ", ".join(words + ([f"about {duration(left)} left"] if left else []))

    def _left(self) -> float | None:
        if not self._seconds or not self._open:
            return None
        means = {stage: sum(times) / len(times) for stage, times in self._seconds.items()}
        usual = sum(means.values()) / len(means)
        now = self._under_way()
        spent = sum(time.monotonic() - since for _, since in now.values())
        work = sum(means.get(node.stage, usual) for node in list(self._open.values()))
        return max(0.0, work - spent) / max(1, len(now))


class InPlace(View):
    """For a plan that runs in this process, whose stages draw progress bars: prints only scores, with the time left."""

    def __init__(self, store: Store, notify: Callable[[str], None]) -> None:
        super().__init__(store)
        self._above = notify  # the bars

    def notify(self, sentence: str) -> None:
        """Writes a line above the bars."""
        self._above(sentence)

    def _announce(self, node: Node, seconds: float) -> None:
        if graph.by_name(node.stage).scores:
            left = self._left()
            self.notify(f"{self._done} of {self._total}{f', about {duration(left)} left' if left else ''}: {self._scores[-1]}")

    def tick(self) -> None:
        """Does nothing: the bars show the progress."""


class LiveView(View):
    """A ``View`` drawn in place on a terminal, with printed lines above it."""

    def __init__(self, store: Store, console: Console) -> None:
        super().__init__(store)
        self._live = Live(console=console, refresh_per_second=2, transient=True, get_renderable=self._drawn)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._live.stop()

    def notify(self, sentence: str) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed
            self._live.console.print(escape(printable(sentence)), highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Does nothing: the view redraws itself."""

    def _drawn(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("under way", "where", "progress", "rate", "time left"):
            table.add_column(name, justify="left" if name in ("under way", "where") else "right", no_wrap=name != "under way")
        rows = self.rows()
        for row in rows[:SHOWN]:
            table.add_row(*(escape(printable(word)) for word in row))
        if len(rows) > SHOWN:
            table.add_row(f"and {len(rows) - SHOWN} more")
        scores = [Text(printable(line), style="dim") for line in self._scores]
        return Group(table, Text(self.summary(), style="bold"), *scores)


def scores_text(scores: list[Score]) -> str:
    """Scores as one line, e.g. ``gfid 43.6, kid 1.02`` or ``features: probe_top1 56.5; residual: probe_top1 23.8``."""
    groups: dict[str, list[str]] = {}
    for score in scores:
        groups.setdefault(score.detail.get("latents", ""), []).append(f"{score.metric} {score.value:.4g}")
    return "; ".join(f"{name}: {', '.join(texts)}" if name else ", ".join(texts) for name, texts in groups.items())


@contextlib.contextmanager
def view(store: Store) -> Iterator[View]:
    """The view for standard error: a ``LiveView`` on a terminal, else a plain ``View``."""
    if sys.stderr is not None and sys.stderr.isatty():
        with LiveView(store, Console(stderr=True)) as shown:
            yield shown
    else:
        yield View(store)


DISPLAY = Display(in_process=InPlace, elsewhere=view)
"""What ``run``, ``ablate``, ``figures`` and ``import`` show while they run."""
