"""Handles stop signals: current work is saved, and the process ends within seconds, whatever its main thread does.

Python runs signal handlers in the main thread, between two bytecode instructions: a handler waits while a C function computes, and an
exception that it raises inside an import, a callback or a destructor may be lost. ``GUARD`` therefore has a thread that the interpreter
wakes directly (``signal.set_wakeup_fd``) and that ends the process if the main thread has not done so in time. No torch.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from svgbench.errors import Interrupted

SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2") if hasattr(signal, n))
GRACE_SECONDS = 5.0
"""A process ends within this time after a stop signal; current work is saved or abandoned."""
CHILD_SECONDS = 7.0
"""How long a process waits for its child processes, which have ``GRACE_SECONDS`` themselves."""
SAVE_SECONDS = 120.0
"""The longest time that a stop waits for a checkpoint being written, or for an update that usually takes this long."""
AGAIN_SECONDS = 1.0
"""A Ctrl-C at least this long after the first signal ends the process at once; torchrun sends the same signal twice in a shorter time."""
LOOK_SECONDS = 0.1
IMPORTS = "<frozen importlib._bootstrap"
SHOW_CURSOR = "\x1b[?25h"


class StopSignal(KeyboardInterrupt):
    """Raised in the main thread by a signal; ``except Exception`` in a library does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return sentence_of(self.number)


def name_of(number: int) -> str:
    """The readable name of a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def sentence_of(number: int) -> str:
    """The message for a signal."""
    return f"stopped by {name_of(number)}; finished work is kept, run the same command again to resume."


class Guard:
    """Handlers of all stop signals, and the thread that ensures that a signal ends the process. There is one per process."""

    def __init__(self) -> None:
        self._fork_hook = False
        self._reset()

    def _reset(self) -> None:
        self.received = 0
        """The first signal received; 0 if none."""
        self.status: int | None = None
        """Exit status of a command that is done: a signal then ends the process with it."""
        self.working = False
        """Whether there may be something to save; while False, a signal ends the process at once."""
        self._main_thread_notified = False
        self._since = 0.0
        self._holds = 0
        self._released = 0.0
        self._stops: list[Stop] = []
        self._children: set[int] = set()
        self._announced = threading.Lock()
        self._writes = -1
        self._before: dict[int, object] = {}
        self._thread: threading.Thread | None = None

    @property
    def installed(self) -> bool:
        """Whether it guards this process."""
        return self._writes >= 0

    def install(self) -> None:
        """Installs the handlers and starts the thread; only in the main thread. A signal that ``nohup`` made ignored stays ignored."""
        if self.installed or threading.current_thread() is not threading.main_thread():
            return
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        self._writes = writes
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        self.handle()
        self._thread = threading.Thread(target=self._watch, args=(reads,), daemon=True, name="svgbench-signals")
        self._thread.start()
        if not self._fork_hook:
            self._fork_hook = True
            os.register_at_fork(after_in_child=self._forked)

    def uninstall(self) -> None:
        """Restores the previous handlers, for a program that calls ``main`` and continues."""
        if self.installed:
            for number, handler in self._before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]
            signal.set_wakeup_fd(-1)
            os.close(self._writes)  # the thread then reads the end of the pipe and returns
            if self._thread is not None:
                self._thread.join()
            self._reset()

    def retire(self) -> None:
        """Ignores stop signals from now on. The interpreter drops its handlers at shutdown, which may take a second; a signal in this time
        would end a finished command as if it had failed."""
        for number in _handled_signals() if self.installed else ():
            signal.signal(number, signal.SIG_IGN)

    def handle(self) -> None:
        """Sets the handlers; called again after a library has set its own."""
        for number in _handled_signals() if self.installed else ():
            signal.signal(number, self._handle)

    def _forked(self) -> None:
        """Stops a forked child from writing into its parent's pipe."""
        if self.installed:
            signal.set_wakeup_fd(-1)
            self._reset()

    # --- what the main thread does ---

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.note(number)
        if not self.working or self.status is not None or _importing(frame):
            self.end()
        if first:
            raise StopSignal(number)

    def check(self) -> None:
        """Raises StopSignal again if a library has suppressed it; called between two units of work."""
        if self.received and not self._stops and self.working:
            raise StopSignal(self.received)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Context for writing a checkpoint or waiting for other processes: the process ends at most ``SAVE_SECONDS`` after a signal."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._released = time.monotonic()

    @contextlib.contextmanager
    def child(self, pid: int) -> Iterator[None]:
        """Context in which a child process is also asked to stop when this one ends."""
        self._children.add(pid)
        try:
            yield
        finally:
            self._children.discard(pid)

    def adopt(self, pid: int) -> None:
        """Like ``child``, but until ``leave`` or the end of this process."""
        self._children.add(pid)

    def leave(self, pid: int) -> None:
        """Forgets a child that has ended."""
        self._children.discard(pid)

    def announced(self) -> bool:
        """Whether the message about the stop was already written; the first caller must write it."""
        return not self._announced.acquire(blocking=False)

    # --- what the thread does ---

    def _watch(self, reads: int) -> None:
        while True:
            if select.select([reads], [], [], LOOK_SECONDS if self.received else None)[0]:
                come = os.read(reads, 4096)
                if not come:
                    os.close(reads)
                    return
                for number in come:
                    if number in SIGNALS:
                        self._arrived(number)
            if self.received and time.monotonic() >= self._limit():
                self.end()

    def _arrived(self, number: int) -> None:
        before = self._since
        self.note(number)
        if not self.working or self.status is not None:
            self.end()
        if number == signal.SIGINT and before and time.monotonic() - before >= AGAIN_SECONDS:
            self.end(signal.SIGKILL)

    def _limit(self) -> float:
        if self._holds:
            return self._since + SAVE_SECONDS
        patience = max((stop.patience for stop in self._stops), default=0.0)
        return max(self._since + max(GRACE_SECONDS, patience), self._released + GRACE_SECONDS if self._released > self._since else 0.0)

    def note(self, number: int) -> bool:
        """Remembers the first signal; returns whether the main thread receives one for the first time."""
        if not self.received:
            self.received, self._since = number, time.monotonic()
        notified = self._main_thread_notified
        self._main_thread_notified = notified or threading.current_thread() is threading.main_thread()
        return not notified

    def end(self, children: int = signal.SIGTERM) -> None:
        """Signals the child processes, writes the message, and ends this process now."""
        for pid in list(self._children):
            with contextlib.suppress(OSError):
                (os.killpg if children == signal.SIGKILL and os.getpgid(pid) == pid else os.kill)(pid, children)
        if self.status is not None:
            os._exit(self.status)
        if self._announced.acquire(timeout=1.0):  # else the other thread is ending the process, or has written the message
            with contextlib.suppress(OSError):
                text = (SHOW_CURSOR if os.isatty(2) else "") + f"Interrupted: {sentence_of(self.received)}\n"
                if select.select([], [2], [], 0.5)[1]:  # does not block on a full pipe that nobody reads
                    os.write(2, text.encode())
        os._exit(Interrupted.exit_status)


class Stop(contextlib.AbstractContextManager["Stop"]):
    """Context in which a signal only sets ``received``, so that the current unit of work can be finished and saved; a second Ctrl-C
    interrupts at once. Does nothing outside the main thread.
    """

    def __init__(self) -> None:
        self.received: int = GUARD.received
        self._since = time.monotonic()
        self._before: dict[int, object] = {}
        self._unit = 0.0
        self._last = 0.0

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            GUARD._stops.append(self)
            self._before = {number: signal.signal(number, self._note) for number in _handled_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        if self in GUARD._stops:
            GUARD._stops.remove(self)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if GUARD.installed:
            GUARD.note(number)
        if self.received and number == signal.SIGINT and time.monotonic() - self._since >= AGAIN_SECONDS:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._since = number, time.monotonic()

    def unit(self) -> None:
        """Records that a unit of work is done; the longest one determines how long a stop waits for the next."""
        now = time.monotonic()
        self._unit, self._last = max(self._unit, now - self._last if self._last else 0.0), now

    @property
    def patience(self) -> float:
        """Seconds that a stop waits for the current unit: twice the longest so far, at most ``SAVE_SECONDS``."""
        return min(2 * self._unit, SAVE_SECONDS)

    @property
    def name(self) -> str:
        """The signal's name, for messages."""
        return name_of(self.received) if self.received else ""


def _handled_signals() -> list[int]:
    """The handled signals: all but a SIGHUP that ``nohup`` had the process ignore."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN]


def _importing(frame: FrameType | None) -> bool:
    """Whether the main thread is inside an import: interrupting it leaves a partly imported module, with which later code fails."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORTS):
            return True
        frame = frame.f_back
    return False


GUARD = Guard()
