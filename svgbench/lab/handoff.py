"""Files for communication between an engine and its workers: the plan and one report per node, as JSON in a shared folder. No torch."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from svgbench import errors
from svgbench.config.records import canonical
from svgbench.errors import BadInput, SvgbenchError
from svgbench.lab.plan import Node
from svgbench.lab.schedule import Report
from svgbench.machine.files import guarded, write_atomic


def write_plan(nodes: Mapping[str, Node], wanted: Iterable[str], folder: Path) -> Path:
    """Writes ``folder/NAME/plan.json`` with the ``wanted`` nodes and their inputs; each call uses a new NAME."""
    keys = {k for key in wanted for k in (key, *nodes[key].inputs.values())}
    content = [asdict(node) for key, node in nodes.items() if key in keys]
    path = (folder / uuid.uuid4().hex[:12] / "plan.json").absolute()
    with guarded(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, canonical(content).encode())
    return path


def read_plan(path: Path) -> dict[str, Node]:
    """The nodes of a plan file by key."""
    try:
        return {content["key"]: Node(**content) for content in json.loads(path.read_text())}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path} is not a plan of svgbench ({error}); 'svgbench ablate' writes and removes them.") from None


def report_file(plan: Path, key: str) -> Path:
    """The path of a node's report."""
    return plan.parent / f"{key[:32]}.json"


def write_report(plan: Path, report: Report) -> None:
    """Writes a report next to the plan."""
    error = report.error
    content = {"key": report.key, "state": report.state, "kind": type(error).__name__ if error else None, "sentence": str(error or "")}
    path = report_file(plan, report.key)
    with guarded(path):
        write_atomic(path, canonical(content).encode())


def read_report(plan: Path, key: str) -> Report | None:
    """The report of a node; None until it is written."""
    try:
        content = json.loads(report_file(plan, key).read_text())
    except FileNotFoundError:
        return None
    kind = getattr(errors, content["kind"] or "", SvgbenchError)
    return Report(key, content["state"], kind(content["sentence"]) if content["kind"] else None)


def clear_report(plan: Path, key: str) -> None:
    """Removes the report of an earlier attempt."""
    report_file(plan, key).unlink(missing_ok=True)
