"""A request to stop (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2) that waits until the work in hand is saved. No torch."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType


class Stop(contextlib.AbstractContextManager["Stop"]):
    """While inside, the first signal only sets ``received``; a second Ctrl-C interrupts at once.

    Outside the main thread it does nothing.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.received: int = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    @property
    def name(self) -> str:
        """The signal's name, for the user's sentence."""
        return signal.Signals(self.received).name if self.received else ""
