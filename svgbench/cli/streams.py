"""Standard output and error of the command: also where they are closed, full, or of a character set without the letters. No torch."""

from __future__ import annotations

import io
import os
import sys

from svgbench.errors import StorageError

SAID = "standard output {}, so the result is not printed; finished work is kept, run the same command again with another output."


class _Closed(io.TextIOBase):
    """A standard output that was closed before this program began."""

    encoding, errors = "utf-8", "replace"

    def write(self, text: str) -> int:
        raise StorageError(SAID.format("is closed"))


def prepare() -> None:
    """Makes the streams of this process fit for use: no file that is opened later takes a closed one's number, and a letter that the
    terminal's character set lacks is replaced."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    if sys.stdout is None:
        sys.stdout = _Closed()
    else:
        sys.stdout.reconfigure(errors="replace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    else:
        sys.stderr.reconfigure(errors="backslashreplace")


def flushed() -> None:
    """Brings the result to standard output; raises StorageError where that cannot hold it, BrokenPipeError where nobody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard()
        raise
    except OSError as error:
        discard()
        raise StorageError(SAID.format(f"cannot be written ({os.strerror(error.errno or 0)})")) from error


def discard() -> None:
    """What is left in standard output's buffer goes nowhere, so that nothing fails once more when the process ends."""
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
