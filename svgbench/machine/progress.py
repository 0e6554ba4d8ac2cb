"""Progress of a long step: a rich bar on a terminal, a plain line every ten seconds elsewhere, or a note in a file that another process
shows. No torch."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from svgbench.errors import notify, notify_once, printable
from svgbench.machine.ranks import ranks
from svgbench.machine.signals import GUARD

PLAIN_SECONDS = 10.0
"""Time between two plain lines."""
NOTE_SECONDS = 1.0
"""Time between two writes of a note."""
BAR_AND_TIME = 10 + len("0:00:00") + 6
"""Columns of a terminal for the bar, the time left and the gaps."""
LABEL_LEAST = 8
"""A label is not shortened to fewer characters than this."""


class Bar:
    """Counts units of work; a subclass shows them. ``done`` units were finished by an earlier process; ``rate`` excludes them."""

    def __init__(self, label: str, total: int, *, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self._before = done, done
        self.figures: dict[str, float] = {}
        self._start = time.monotonic()

    def advance(self, count: int, **figures: float) -> None:
        """``count`` more units are done; ``figures`` (such as losses) are shown with them."""
        GUARD.check()
        self.done += count
        self.figures.update(figures)
        self.show()

    @property
    def rate(self) -> float:
        """Units per second since this process began."""
        return (self.done - self._before) / max(time.monotonic() - self._start, 1e-9)

    def show(self) -> None:
        """Draws the current state; the base class draws nothing."""

    def close(self) -> None:
        """Draws the final state."""


class PlainBar(Bar):
    """A line about every ten seconds and one at the end."""

    def __init__(self, label: str, total: int, *, unit: str, done: int, stream: TextIO) -> None:
        super().__init__(label, total, unit=unit, done=done)
        self._stream = stream
        self._last = self._start

    def show(self) -> None:
        if time.monotonic() - self._last >= PLAIN_SECONDS:
            self._line(f"{duration((self.total - self.done) / self.rate)} left" if self.rate > 0 else "")

    def close(self) -> None:
        self._line(f"{duration(time.monotonic() - self._start)} in all")

    def _line(self, time_text: str) -> None:
        self._last = time.monotonic()
        counted = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}"
        parts = [counted, f"{self.rate:,.1f} {self.unit}/s", time_text, figures_text(self.figures)]
        with contextlib.suppress(OSError, ValueError):  # a closed stderr never stops a training
            self._stream.write(printable(", ".join(part for part in parts if part)) + "\n")
            self._stream.flush()


class RichBar(Bar):
    """A bar drawn by rich on a terminal. On a narrow one the label is shortened and figures are left out; bar, count, rate and time left
    stay."""

    def __init__(self, label: str, total: int, *, unit: str, done: int, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(label, total, unit=unit, done=done)
        texts = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("label", "count", "rate", "figures")]
        self._console = Console(file=stream, stderr=False)
        columns = (texts[0], BarColumn(bar_width=None), *texts[1:3], TimeRemainingColumn(), texts[3])
        self._progress = Progress(*columns, console=self._console, refresh_per_second=4)
        self._task = self._progress.add_task("", total=total, completed=done, **self._texts())
        self._progress.start()

    def _texts(self) -> dict[str, Any]:
        """The texts of the line, shortened to fit beside the bar."""
        count, rate = f"{self.done:,}/{self.total:,} {self.unit}", f"{self.rate:,.1f}/s"
        room = self._console.width - len(count) - len(rate) - BAR_AND_TIME
        label = shortened(printable(self.label), max(room, LABEL_LEAST))
        figures = dict(self.figures)
        while figures and len(figures_text(figures)) > room - len(label):
            figures.popitem()
        return {"label": label, "count": count, "rate": rate, "figures": figures_text(figures)}

    def show(self) -> None:
        self._progress.update(self._task, completed=self.done, **self._texts())

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal no longer exists
            self._progress.stop()


class NoteBar(Bar):
    """Writes its state atomically to a small file, for the process that started this one."""

    def __init__(self, label: str, total: int, *, unit: str, done: int, note: Path) -> None:
        super().__init__(label, total, unit=unit, done=done)
        self._note = note
        self._last = self._start
        self._write()

    def show(self) -> None:
        if time.monotonic() - self._last >= NOTE_SECONDS:
            self._write()

    def close(self) -> None:
        self._write()

    def _write(self) -> None:
        self._last = time.monotonic()
        state = {"label": self.label, "done": self.done, "total": self.total, "unit": self.unit, "rate": self.rate, "figures": self.figures}
        temporary = self._note.with_name(f"{self._note.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a note that cannot be written never stops a training
            temporary.write_text(json.dumps({**state, "host": socket.gethostname()}))
            temporary.replace(self._note)


def read_note(note: Path) -> dict[str, Any] | None:
    """The last state that a ``NoteBar`` wrote: label, done, total, unit, rate, figures, host; None if there is none."""
    try:
        return json.loads(note.read_text())
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def open_bar(
    label: str, total: int, *, unit: str, done: int = 0, silent: bool = False, stream: TextIO | None = None, note: Path | None = None
) -> Iterator[Bar]:
    """The bar for the stream (default: standard error), or one that writes a ``note``."""
    stream = stream if stream is not None else sys.stderr
    bar: Bar
    if note is not None:
        bar = NoteBar(label, total, unit=unit, done=done, note=note)
    elif silent:
        bar = Bar(label, total, unit=unit, done=done)
    elif stream is not None and stream.isatty():
        bar = RichBar(label, total, unit=unit, done=done, stream=stream)
    else:
        bar = PlainBar(label, total, unit=unit, done=done, stream=stream)
    try:
        yield bar
    finally:
        bar.close()


def writes_to_user() -> bool:
    """Whether this process writes to the user: under torchrun only rank 0 does."""
    return ranks().rank == 0


def tell(sentence: str) -> None:
    """Writes one line to the user on standard error, with unprintable characters (in file names) escaped."""
    if writes_to_user():
        notify(sentence)


def tell_once(sentence: str) -> None:
    """Like ``tell``, but writes each sentence only once per process."""
    if writes_to_user():
        notify_once(sentence)


def shortened(text: str, length: int) -> str:
    """The text, shortened to ``length`` characters with an ellipsis if it is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def duration(seconds: float) -> str:
    """Seconds as text: ``42 s``, ``3 min 20 s``, ``5 h 10 min``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def figures_text(figures: dict[str, float]) -> str:
    """``l1 0.123, gan 0.5``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
