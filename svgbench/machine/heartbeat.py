"""Heartbeats between the ranks under torchrun: when one of them freezes or its machine fails, the others end with an error.

One rank may work alone for hours while the others wait, so the wait itself cannot have a short timeout. Instead, each rank has a thread
that sends a heartbeat independently of the main thread: it increases a counter in the key-value store that connects torch's processes, and
reads the counters of the other ranks. Torch is imported when first needed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from svgbench.errors import SvgbenchError, notify

GONE = "gone"
"""A rank that has finished stores this instead of its count."""
LONGEST_BEAT = 5.0
"""Longest time between two heartbeats, in seconds."""


class Heartbeat:
    """Sends this process's heartbeat and checks those of the others. There is one per process, like torch's process group."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None
        self._key = ""
        self._seen: dict[int, str] = {}
        """Rank -> its last heartbeat: count, process, host."""
        self._quiet: dict[int, float] = {}
        """Rank -> seconds since its last heartbeat, counted only while this process runs."""

    def start(self, rank: int, world: int, timeout: float) -> None:
        """Starts both threads once all processes are connected; ``timeout`` in seconds."""
        import torch.distributed as group

        beat = min(timeout / 6, LONGEST_BEAT)
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # a separate connection: torch's may be blocked in a wait, which would stop the heartbeat
        self._store = group.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout))
        self._key = f"svgbench/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '')}"
        self._ended = threading.Event()
        self._seen = {}
        self._quiet = dict.fromkeys(range(world), 0.0)
        self._thread = threading.Thread(target=self._beat, args=(rank, world, beat, self._ended), daemon=True, name="svgbench-beat")
        self._thread.start()
        watch = threading.Thread(target=self._watch, args=(rank, world, beat, timeout, self._ended), daemon=True, name="svgbench-watch")
        watch.start()

    def stop(self) -> None:
        """This rank has finished: the others no longer expect its heartbeat."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(2.0)
            self._thread = None

    def _beat(self, rank: int, world: int, beat: float, ended: threading.Event) -> None:
        count = 0
        others = [other for other in range(world) if other != rank]
        while not ended.is_set():
            try:
                count += 1
                self._store.set(f"{self._key}/{rank}", f"{count} {os.getpid()} {socket.gethostname()}")
                for other in others:
                    key = f"{self._key}/{other}"
                    beat_of_other = self._store.get(key).decode() if self._store.check([key]) else ""
                    if beat_of_other == GONE:
                        self._quiet.pop(other, None)
                    elif beat_of_other != self._seen.get(other) and other in self._quiet:
                        self._quiet[other], self._seen[other] = 0.0, beat_of_other
                self._quiet[rank] = 0.0
            except RuntimeError:  # the store's process has ended or does not answer: the watch thread notices
                pass
            ended.wait(beat)
        with contextlib.suppress(RuntimeError):
            self._store.set(f"{self._key}/{rank}", GONE)

    def _watch(self, rank: int, world: int, beat: float, timeout: float, ended: threading.Event) -> None:
        """Counts the time since each rank's last heartbeat, but only while this process itself runs: one that was suspended did not miss
        the others' heartbeats."""
        last = time.monotonic()
        while not ended.wait(beat):
            now = time.monotonic()
            for other in list(self._quiet):
                self._quiet[other] += min(now - last, 2 * beat)
            last = now
            lost = sorted(other for other, seconds in self._quiet.items() if seconds >= timeout and other != rank)
            if lost and not ended.is_set():
                self._end(rank, world, lost, timeout, alone=self._quiet.get(rank, 0.0) >= timeout)

    def _end(self, rank: int, world: int, lost: list[int], timeout: float, *, alone: bool) -> None:
        who = "the process that connects the ranks (rank 0, or torchrun)" if alone else f"rank {', '.join(map(str, lost))} of {world}"
        notify(
            f"SvgbenchError: {who} sent no heartbeat for {timeout / 60:g} minutes (it is frozen, or its machine is gone), "
            f"so rank {rank} ends; run the same command again, saved work is kept."
        )
        for other in lost if not alone else ():
            self._kill(other)
        os._exit(SvgbenchError.exit_status)

    def _kill(self, other: int) -> None:
        """Kills a frozen rank on this machine, because it reacts to no other signal; checks first that the process is the one that sent the
        heartbeats."""
        with contextlib.suppress(OSError, ValueError):
            _, process, host = self._seen.get(other, "").split(maxsplit=2)
            environ = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            mine = {f"RANK={other}".encode(), f"MASTER_PORT={os.environ['MASTER_PORT']}".encode()}
            if host == socket.gethostname() and mine <= set(environ):
                os.kill(int(process), signal.SIGKILL)


HEARTBEAT = Heartbeat()
