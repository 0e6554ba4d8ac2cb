"""The sentence and the exit status of an error that ends a command. No torch."""

from __future__ import annotations

import errno
import os
import select
import signal

from svgbench.errors import BadInput, Interrupted, StorageError, SvgbenchError
from svgbench.machine import files
from svgbench.machine.signals import sentence_of

PATHS = {
    **files.PATHS,
    errno.ENOENT: "does not exist.",
    errno.EISDIR: "is a directory, and a file is needed.",
    errno.ENOTDIR: "a part of that path is a file; give another path.",
    errno.EACCES: "permission is denied; change its permissions, or give another path.",
    errno.EPERM: "permission is denied; change its permissions, or give another path.",
}
"""errno -> the problem with a path that the system refuses, and what to do."""
FAULT = "This is a fault of svgbench; run it with --debug and report what it prints."


def explained(error: BaseException) -> tuple[int, str, str]:
    """Exit status, the error's kind, and one sentence; an empty sentence if there is nothing to report, as for a closed pipe."""
    if isinstance(error, SvgbenchError):
        return error.exit_status, type(error).__name__, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.exit_status, Interrupted.__name__, sentence_of(getattr(error, "number", signal.SIGINT))
    if isinstance(error, SystemExit):
        return int(error.code or 0) if isinstance(error.code, int | None) else 1, "svgbench", ""
    if isinstance(error, BrokenPipeError) and reader_is_gone():
        return 0, "svgbench", ""
    if hasattr(error, "format_message"):  # a usage error of the option parser
        return BadInput.exit_status, "svgbench", error.format_message().replace("\n", " ")
    known = _of_the_system(error)
    if known is not None:
        return known.exit_status, type(known).__name__, str(known)
    return 1, "svgbench", f"{type(error).__name__}: {error}. {FAULT}"


def _of_the_system(error: BaseException) -> SvgbenchError | None:
    """Explains errors of paths, disks and memory that were not handled closer to their cause."""
    if isinstance(error, OSError) and error.errno is not None:
        where = _shown(error.filename)
        if error.errno in PATHS:
            return BadInput(f"{where}{PATHS[error.errno]}")
        if error.errno in files.REASONS:
            return StorageError(f"{where}{files.REASONS[error.errno]}")
        return StorageError(f"{where}{os.strerror(error.errno)}; correct that, then run the same command again.")
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # Path.resolve
        return BadInput(f"{str(error).partition(' from ')[2]}: {PATHS[errno.ELOOP]}")
    if isinstance(error, ValueError) and any(word in str(error) for word in ("null byte", "null character")):
        return BadInput("a path contains a zero byte, which no file system allows; correct it.")
    if isinstance(error, ValueError) and "surrogates not allowed" in str(error):  # UnicodeEncodeError, or pydantic's equivalent
        name = f"{error.object!a}" if isinstance(error, UnicodeEncodeError) else "a name"
        return BadInput(f"{name} contains bytes that are not UTF-8; rename the file, or give another name.")
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return SvgbenchError("the GPU is out of memory; give a smaller --micro-batch, or --checkpoint-activations.")
    if type(error).__module__ in ("torch._dynamo.exc", "torch._inductor.exc"):
        return SvgbenchError(f"torch.compile failed ({str(error).splitlines()[0][:160]}); give --no-compile, or install a C compiler.")
    if isinstance(error, MemoryError):
        return SvgbenchError("this machine is out of memory; give a smaller --micro-batch, or free some memory.")
    return None


def _shown(name: object) -> str:
    if name is None:
        return ""
    return (os.fsdecode(name) if isinstance(name, bytes | str) else str(name)) + ": "


def reader_is_gone() -> bool:
    """Whether standard output is a pipe whose reader has exited, as with ``| head``."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in poll.poll(0))
