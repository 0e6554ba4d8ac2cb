"""``runs``: lists the runs of an output directory. ``gc``: removes from its store what no run needs."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svgbench.cli.console import Format
from svgbench.cli.output import Formatted, facts
from svgbench.cli.selection import Shelf, directory
from svgbench.errors import BadInput, notify, write
from svgbench.lab.inventory import RunState, Unused, needed, remove, runs_in, unused
from svgbench.lab.store import Store
from svgbench.tables.planned import size
from svgbench.tables.table import Table

Out = Annotated[Path, typer.Option("--out", metavar="DIR", callback=directory, help="The output directory: runs and their store.")]


def runs(out: Out = Path("runs"), format: Formatted = Format.auto) -> None:
    """List the runs of an output directory with state, size and age; failed, unfinished and imported ones too."""
    _exists(out)
    states = runs_in(out)
    now = time.time()
    rows = [[one.name, one.state, one.encoder, _share(one), size(one.bytes), age(now - one.changed)] for one in states]
    notes = [f"{one.name}: {one.reason}" for one in states if one.reason]
    notes += ["artifacts that several runs share count in the size of each"] if len(states) > 1 else []
    columns = ["run", "state", "encoder", "stages", "size", "age"]
    facts([Table(f"Runs in {out}", columns, rows, notes)], [asdict(one) for one in states], format)


def gc(
    out: Out = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also remove unfinished work, with its checkpoints, that no run on record needs.")
    ] = False,
    shelf: Shelf = None,
    format: Formatted = Format.auto,
) -> None:
    """Remove from the store what no run needs, after listing it and asking. Work of running processes is kept. To delete a run, remove its
    directory, then run this."""
    _exists(out)
    if not (out / "store").is_dir():
        raise BadInput(f"{out} holds no store; give --out a directory in which runs were made.")
    with Store(out / "store").in_use(alone=True):
        keys, unplanned = needed(out, shelf)
        for sentence in unplanned:
            notify(sentence)
        if unplanned and unfinished:
            raise BadInput(
                "--unfinished: what the runs named above still need is unknown; correct or remove them, or leave --unfinished out."
            )
        entries = unused(out, keys, unfinished=unfinished)
        now = time.time()
        rows = [[one.stage, one.key[:12], _kind(one), size(one.bytes), age(now - one.changed)] for one in entries]
        total = size(sum(one.bytes for one in entries))
        table = Table(f"Unused in {out / 'store'}", ["stage", "key", "what", "size", "age"], rows, [f"{len(entries)} entries, {total}"])
        facts([table], [one.content() for one in entries], format)
        sys.stdout.flush()
        if not entries:
            return
        if not yes and not _agreed(f"Remove {len(entries)} entries ({total})? [y/N] "):
            notify("nothing was removed; --yes removes without asking.")
            return
        freed, kept = remove(entries)
    for sentence in kept:
        notify(f"kept: {sentence}")
    notify(f"{size(freed)} freed ({freed:,} bytes).")


def _agreed(question: str) -> bool:
    """Whether the user answers yes on standard input; False without an answer."""
    write(question)
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer:
        write("\n")
    return answer.strip().lower() in ("y", "yes")


def _exists(out: Path) -> None:
    if not out.is_dir():
        raise BadInput(f"{out} does not exist; run something first, for example: svgbench run --encoder dinov3.")


def _kind(one: Unused) -> str:
    return "artifact" if one.finished else "unfinished work" if any(path.suffix == ".partial" for path in one.paths) else "leftovers"


def _share(one: RunState) -> str:
    return f"{one.done} of {one.wanted}" if one.wanted else str(one.done)


def age(seconds: float) -> str:
    """An age in its largest unit: ``5 min``, ``3 h``, ``12 d``."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
