"""The command line as a test types it: in this process, where torch is open already, or in one of its own."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import forks  # noqa: F401
import torch

from svgbench.cli.main import main
from svgbench.machine.signals import GUARD, SIGNALS


def svgbench(*words: object) -> subprocess.CompletedProcess[str]:
    """The command with its status and what it said. Importing torch and timm costs a process more than a small stage does, so tests that
    look at what a command makes, and not at how its process starts or ends, call it here."""
    told, said = io.StringIO(), io.StringIO()
    with _as_it_was(), contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            status = int(ended.code or 0)
    return subprocess.CompletedProcess(words, status, told.getvalue(), said.getvalue())


def alone(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "svgbench", *map(str, words)], capture_output=True, text=True, env={**os.environ, **env}, timeout=500
    )


def forked(said: Path, *words: object) -> int:
    """The process number of a fork of this process that runs the command and writes all its output to a file: no imports to wait for. Stop
    signals wait until the program listens to them."""
    said.write_text("")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child
    status = 99
    try:
        os.setsid()
        target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        faulthandler.enable(sys.stderr)  # SIGABRT prints where every thread is
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        GUARD.install()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            status = int(ended.code or 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Gives back what a command sets for its process: handlers of signals, threads, the random state."""
    handlers, threads = {number: signal.getsignal(number) for number in SIGNALS}, torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        for number, handler in handlers.items():
            signal.signal(number, handler)
