"""Standard output and error of the command. Handles closed and full streams, and character sets that lack a character. No torch."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

from svgbench.errors import StorageError

NOT_PRINTED = "standard output {}, so the result is not printed; finished work is kept, run the same command again with another output."


class _Closed(io.TextIOBase):
    """A standard output that was closed before this program began."""

    encoding, errors = "utf-8", "replace"

    def write(self, text: str) -> int:
        raise StorageError(NOT_PRINTED.format("is closed"))


class _Output(io.TextIOWrapper):
    """A standard output whose errors are distinguished from errors of files."""

    def write(self, text: str) -> int:
        with _as_output_error():
            return super().write(text)

    def flush(self) -> None:
        with _as_output_error():
            super().flush()


@contextlib.contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(NOT_PRINTED.format(f"cannot be written ({os.strerror(error.errno or 0)})")) from error


def prepare() -> None:
    """Prepares the streams of this process: a closed one is replaced, so that no file opened later gets its number, and a character that
    the terminal's character set lacks is replaced when printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    if sys.stdout is None:
        sys.stdout = _Closed()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        encoding, by_line, through = sys.stdout.encoding, sys.stdout.line_buffering, sys.stdout.write_through
        buffer = sys.stdout.detach()
        sys.stdout = _Output(buffer, encoding=encoding, errors="replace", line_buffering=by_line, write_through=through)
        sys.__stdout__ = sys.stdout  # type: ignore[misc]
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    elif isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def flushed() -> None:
    """Flushes standard output. Raises StorageError if it cannot be written, BrokenPipeError if its reader has exited."""
    try:
        sys.stdout.flush()
    except BaseException:
        discard()
        raise


def discard() -> None:
    """Discards the rest of standard output's buffer, so that flushing it at the end of the process does not fail again."""
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
