"""``explain``: where the gFID of a finished run comes from."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from svgbench.cli.console import Format
from svgbench.cli.experiments import Device, Threads
from svgbench.cli.output import Formatted, facts
from svgbench.cli.selection import directory
from svgbench.cli.view import DISPLAY
from svgbench.config.parse import validate
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput, notify
from svgbench.lab.diagnosis import diagnosis_plan, sampled, without_velocity
from svgbench.lab.plan import Node
from svgbench.lab.run_plan import complete
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench
from svgbench.machine.files import guarded, regular, write_atomic
from svgbench.metrics.judges import row
from svgbench.stages.graph import EXPLANATION
from svgbench.tables.collect import RunRecord, collect, without_digests
from svgbench.tables.explanation import explained_cell, explanation_content, explanation_of, explanation_tables


def explain(
    names: Annotated[list[str], typer.Argument(help="Finished runs under --out.", metavar="RUN...")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", callback=directory, help="The output directory of the runs.")] = Path("runs"),
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE.png", help="Also draw the levels as a waterfall (extra: figures).")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    format: Formatted = Format.auto,
) -> None:
    """Say where a run's gFID comes from: real images, decoder, the model's error, diffusion, sampler, guidance, number of samples and
    memorised images, each measured. What is missing is computed once and kept in the store; nothing is trained."""
    if to is not None:
        _check_target(to)
    records = collect(out, list(dict.fromkeys(names)))
    if unchecked := without_digests(records):
        notify(unchecked)
    store, configs, metrics, given = Store(out / "store"), {}, {}, {}
    for record in records:
        config = validate(RunConfig, record.config(), where=str(record.place / "config.yaml"))
        if reason := without_velocity(record.name, config):
            raise BadInput(f"{reason}, so its gFID cannot be explained; name other runs.")
        configs[record.name] = config, record.about["stages"]
        metrics[record.name] = row("features", config.scores.extractor)["frechet"]
        given[record.name] = _samples(record, metrics[record.name])
    plan = diagnosis_plan(configs, store, {EXPLANATION}, given)
    complete(plan, out, Bench(out=str(out), device=device, threads=threads), DISPLAY)
    found, contents = [], []
    for record, run in zip(records, plan.runs, strict=True):
        (key,) = run.nodes
        store.verify(EXPLANATION, key)
        content = json.loads((store.place(EXPLANATION, key) / "explanation.json").read_bytes())
        found.append(explanation_of(record, metrics[record.name], content))
        contents.append(explanation_content(found[-1], content))
    if to is not None:
        from svgbench.tables.figures.waterfall import waterfall

        with guarded(to):
            write_atomic(to, waterfall(found))
        notify(f"written: {to}")
    facts([table for one in found for table in explanation_tables(one)], contents, format)


def _check_target(to: Path) -> None:
    """Raises BadInput for a file that cannot become the figure, before anything is measured."""
    regular(to, instead="give the path of a .png file, or leave out --to")
    if to.suffix.lower() != ".png":
        raise BadInput(f"--to {to} must end in .png; tables are printed, for example with --format csv.")
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInput("the figure needs matplotlib; install it: pip install 'svgbench[figures]', or leave out --to.")


def _samples(record: RunRecord, metric: str) -> dict[str, Node]:
    """The inputs ``samples`` of a run's explanation; if there are fewer validation images than samples, also those of each number of steps,
    whose gFIDs are then measured on as many samples. Raises BadInput if the run has no score to explain."""
    steps, guidance = explained_cell(record.name, record.scores, metric)
    cells = sampled(record.about["stages"])
    if (steps, guidance) not in cells:
        raise BadInput(f"run '{record.name}' has no finished samples at {steps} steps and guidance {guidance:g}; run its command again.")
    inputs = {"samples": cells[steps, guidance]}
    if _validation(record) < next(one["count"] for one in record.scores if one["metric"] == metric):
        scored = {(one["steps"], one["guidance"]) for one in record.scores if one["metric"] == metric}
        inputs |= {f"samples {n}": node for (n, scale), node in cells.items() if scale == guidance and (n, scale) in scored}
    return inputs


def _validation(record: RunRecord) -> float:
    """Number of the run's validation images."""
    counts: dict[str, Any] = next((one["cost"].get("counts", {}) for one in record.about["stages"] if one["stage"] == "images"), {})
    return counts.get("val", float("inf"))
