"""The commands of ``svgbench`` and their options. Imports no torch until a stage runs."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from svgbench.cli import (
    audits,
    bench,
    costs,
    data,
    diagnose,
    encoders,
    evaluations,
    experiment_files,
    experiments,
    explain,
    figures,
    imports,
    machine,
    nodes,
    planning,
    reports,
    runs,
    samples,
)
from svgbench.machine.ranks import check_environment

app = typer.Typer(
    name="svgbench", no_args_is_help=True, add_completion=True, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Benchmark and ablate the latent spaces of image diffusion models (SVG: self-supervised representations for visual generation).",
)  # fmt: skip

COMPLETING = "_SVGBENCH_COMPLETE"
"""Environment variable with which a shell requests completions."""

app.command("run")(experiments.run)
app.command("ablate")(experiments.ablate)
app.command("plan")(planning.plan)
app.command("report")(reports.report)
app.command("figures")(figures.figures)
app.command("explain")(explain.explain)
app.command("sample")(samples.sample)
app.command("eval")(evaluations.evaluate)
app.command("audit")(audits.audit)
app.command("cost")(costs.cost)
app.command("diagnose")(diagnose.diagnose)
app.command("bench")(bench.bench)
app.command("import")(imports.import_)
app.command("fields")(planning.fields)
app.command("runs")(runs.runs)
app.command("gc")(runs.gc)
app.command("pretrain")(samples.pretrain)
app.command("doctor")(machine.doctor)
app.command("node", hidden=True)(nodes.node)
app.add_typer(encoders.app, name="encoders")
app.add_typer(experiment_files.app, name="experiments")
app.add_typer(data.app, name="data")


def _version(value: bool) -> None:
    if value:
        from svgbench import __version__

        typer.echo(f"svgbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", envvar="SVGBENCH_DEBUG")] = False,
) -> None:
    """``--debug`` is read in ``main``, so that it may also follow the command's name."""
    check_environment()


def call(words: list[str]) -> int:
    """Runs a command and gives its exit status. Errors are raised: typer's own ``main`` would hide Ctrl-C and a closed pipe."""
    try:
        command = typer.main.get_command(app)
        if COMPLETING in os.environ:  # a shell requests completions
            command.main(list(words), prog_name="svgbench")
        with command.make_context(app.info.name, list(words)) as context:
            return command.invoke(context) or 0
    except typer.Exit as ended:
        return ended.exit_code
    except typer.Abort as error:
        raise KeyboardInterrupt from error
