"""``audit``: known traps of runs, samples and published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from svgbench.cli.console import Format
from svgbench.cli.experiments import Device
from svgbench.cli.output import Formatted, facts
from svgbench.cli.selection import directory
from svgbench.errors import BadInput


def audit(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_FILE...",
            help="Finished runs (names under --out, or their directories), sets of images or statistics as eval takes them, or .csv files "
            "of published numbers.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", callback=directory, help="The output directory of the runs.")] = Path("runs"),
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="PATH", help="For sets of images: the images with which eval will compare them."),
    ] = None,
    extractor: Annotated[
        str, typer.Option("--extractor", metavar="NAME", help="For sets of images: the network with which eval will compare them.")
    ] = "inception",
    device: Device = "auto",
    format: Formatted = Format.auto,
) -> None:
    """Look for known traps: each item passes, fails or cannot be told, with its evidence and, where it fails, what to do. The exit status
    is 1 if an item fails, else 0."""
    from svgbench.metrics import judges  # numpy, like the ones below
    from svgbench.tables.audit.items import audit as audited
    from svgbench.tables.audit.items import audit_table, content
    from svgbench.tables.audit.subjects import AuditedSet, subject_of

    judges.row("features", extractor)
    opened = [subject_of(name, out, reference=reference, extractor=extractor, device=device) for name in dict.fromkeys(subjects)]
    if reference is not None and not any(isinstance(one, AuditedSet) for one in opened):
        raise BadInput("--reference is for sets of images, and none is given; leave it out.")
    answers = [(one, audited(one)) for one in opened]
    rows = [row for one, found in answers for row in content(one, found)]
    facts([audit_table(one, found) for one, found in answers], rows, format)
    if any(row["verdict"] == "fail" for row in rows):
        raise typer.Exit(1)
