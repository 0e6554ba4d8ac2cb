"""The ``svgbench`` command: its verbs, their options, and the exit status of every failure. Imports no torch until a stage runs."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from svgbench.cli import data, encoders, evaluations, experiments, figures, imports, machine, nodes, reports, samples
from svgbench.errors import Interrupted, SvgbenchError

app = typer.Typer(
    name="svgbench", no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Benchmark and ablate the latent spaces of image diffusion models (SVG: self-supervised representations for visual generation).",
)  # fmt: skip

app.command("run")(experiments.run)
app.command("ablate")(experiments.ablate)
app.command("plan")(experiments.plan)
app.command("report")(reports.report)
app.command("figures")(figures.figures)
app.command("sample")(samples.sample)
app.command("eval")(evaluations.evaluate)
app.command("import")(imports.import_)
app.command("pretrain")(samples.pretrain)
app.command("doctor")(machine.doctor)
app.command("node", hidden=True)(nodes.node)
app.add_typer(encoders.app, name="encoders")
app.add_typer(data.app, name="data")


def _version(value: bool) -> None:
    if value:
        from svgbench import __version__

        typer.echo(f"svgbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.", envvar="SVGBENCH_DEBUG")] = False,
) -> None:
    """``--debug`` is read in ``main``, so that it may stand behind the verb too."""


def _stopped(signum: int, frame: object) -> None:
    raise Interrupted(f"stopped by {signal.Signals(signum).name}; run the same command again to go on.")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with the contract's status; one sentence on standard error, a traceback only with ``--debug``."""
    words = sys.argv[1:] if arguments is None else arguments
    if "--debug" in words:  # before or behind the verb
        os.environ["SVGBENCH_DEBUG"] = "1"
        words = [word for word in words if word != "--debug"]
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), _stopped)
    try:
        status = app(words, standalone_mode=False) or 0
    except SvgbenchError as error:
        status = _say(error, error.exit_status)
    except KeyboardInterrupt as error:
        status = _say(error, Interrupted.exit_status, "stopped by Ctrl-C; what was finished is kept, run the same command again to go on.")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        status = _foreign(error)
    sys.exit(status)


def _foreign(error: Exception) -> int:
    """The status of an error that is not ours: typer's own words about a wrong option, else a bug worth a report."""
    if isinstance(error, typer.Abort):
        return Interrupted.exit_status
    if hasattr(error, "format_message"):  # a usage error of the option parser
        return _say(error, 2, error.format_message().replace("\n", " "))
    return _say(error, 1, f"{type(error).__name__}: {error}. This is a fault of svgbench; run it with --debug and report what it prints.")


def _say(error: BaseException, status: int, sentence: str | None = None) -> int:
    if os.environ.get("SVGBENCH_DEBUG"):
        import traceback

        sys.stderr.write("".join(traceback.format_exception(error)))
    kind = type(error).__name__ if isinstance(error, SvgbenchError) else "svgbench"
    sys.stderr.write(f"{kind}: {sentence or error}\n")
    return status
