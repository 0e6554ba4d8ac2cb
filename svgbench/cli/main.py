"""The ``svgbench`` command: every failure gives one sentence and a documented exit status. Signal handlers are installed first; commands
and the libraries that they need are imported afterwards."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import Any

from svgbench.errors import Interrupted, SvgbenchError, debugging, notify, write
from svgbench.machine.signals import GUARD, sentence_of


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with the documented status. Errors print one sentence on standard error; a traceback only with
    ``--debug``."""
    GUARD.install()
    try:
        if arguments is None:  # the process runs only this command
            atexit.register(GUARD.retire)  # registered first, so it runs last
            from svgbench.cli.streams import prepare

            prepare()
        status = _status(sys.argv[1:] if arguments is None else arguments)
    finally:
        if arguments is not None:
            GUARD.uninstall()
    if arguments is None:
        GUARD.status = status
        if GUARD.received:  # everything is printed; unloading the libraries may take seconds
            os._exit(status)
    sys.exit(status)


def _status(words: list[str]) -> int:
    """Runs the command, prints its result or its error, and returns the exit status."""
    from svgbench.cli.streams import flushed

    if "--debug" in words:  # before or after the command's name
        os.environ["SVGBENCH_DEBUG"] = "1"
        words = [word for word in words if word != "--debug"]
    try:
        from svgbench.cli import commands

        GUARD.working = True
        status = commands.call(words)
        flushed()
        return status
    except BaseException as error:
        return _report(error)


def _report(error: BaseException) -> int:
    """Prints the error that ended the command; returns its exit status."""
    from svgbench.cli.failures import explained
    from svgbench.cli.streams import flushed

    if debugging():
        import traceback

        write("".join(traceback.format_exception(error)))
    number = GUARD.received
    if number and not isinstance(error, Interrupted):  # an interrupted system call raised this error
        error = Interrupted(sentence_of(number))
    with contextlib.suppress(BrokenPipeError, SvgbenchError):  # the first error is reported, not this one
        flushed()
    status, kind, sentence = explained(error)
    if sentence and not (number and GUARD.announced()):
        notify(f"{kind}: {sentence}")
    return status


def __getattr__(name: str) -> Any:
    if name == "app":
        from svgbench.cli.commands import app

        return app
    raise AttributeError(f"module 'svgbench.cli.main' has no attribute '{name}'")
