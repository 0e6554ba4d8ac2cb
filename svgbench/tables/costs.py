"""Measured costs of tokenizers in a layout of costs (table 7 of the paper), beside the published ones."""

from __future__ import annotations

from pathlib import Path

from svgbench.config.records import Protocol
from svgbench.errors import BadInput
from svgbench.lab.costs import read_costs
from svgbench.tables.collect import RunRecord
from svgbench.tables.layouts import Layout, contested
from svgbench.tables.paper_tables import paper_tables
from svgbench.tables.published import published
from svgbench.tables.standings import BY_IMAGES
from svgbench.tables.table import Cell, Table

INTERVAL = "value (low, high): the median of the repetitions and its 95 % confidence interval"
LAYOUT = "cost"
"""Name of the layout that shows costs."""
BY_REPETITIONS = "by their intervals over repetitions (5 %, Holm's correction over the column); counts have none"
WHOLE = "the whole process"
"""Scope of the peak memory on a CPU: it includes Python, the libraries and the networks measured before."""
NOT_RANKED = "peak memory of the whole process is not ranked: Python, its libraries and networks that were measured before are in it"
RANDOM = "random weights: what a network costs does not depend on their values"


def cost_records(out: Path) -> list[RunRecord]:
    """A record (as of a run) for each measured cost under ``out``. Its row has the name of the tokenizer and notes random weights."""
    records = []
    for path, about in read_costs(out).items():
        name = about["name"] + (" (random weights)" if about["random_weights"] else "")
        fixed = {"run": name, "seed": 0, "steps": None, "guidance": None, "images_seen": None, "residual_channels": None, "seconds": 0.0}
        fixed |= {"encoder": about["encoder"], "family": about["family"]}
        protocols = [Protocol.model_validate(score["protocol"]) for score in about["scores"]]
        scores = [
            {**fixed, **score, "protocol": made.text, "protocol_fields": made.model_dump(mode="json")}
            for made, score in zip(protocols, about["scores"], strict=True)
        ]
        content = {"run": name, "encoder": about["encoder"], "family": about["family"], "kind": about["kind"], "stages": [], "failures": {}}
        records.append(RunRecord(name, path.parent, content, scores, label=name))
    return records


def cost_tables(out: Path, layout: Layout, *, against: str | None = None) -> list[Table]:
    """The costs measured under ``out`` in a layout, differences from the row ``against``, and published costs. Raises BadInput when none
    was measured."""
    records = cost_records(out)
    if not records:
        raise BadInput(f"{out} holds no measured cost; measure one first, for example: svgbench cost dinov3.")
    tables = paper_tables(layout, records, published(), contested(), against=against)
    notes = [INTERVAL if note.startswith("value (low, high)") else note for note in tables[0].notes]
    tables[0].notes = [note.replace(BY_IMAGES, BY_REPETITIONS) for note in notes]
    if any(_of_the_process(cell) for row in tables[0].rows for cell in row):
        tables[0].rows = [[_unmarked(cell) if _of_the_process(cell) else cell for cell in row] for row in tables[0].rows]
        tables[0].notes.append(NOT_RANKED)
    if any("(random weights)" in record.name for record in records):
        tables[0].notes.append(RANDOM)
    return tables


def _of_the_process(cell: str) -> bool:
    return isinstance(cell, Cell) and str(cell.facts.get("metric", "")).endswith("_peak_gb") and WHOLE in cell.facts["protocol"]


def _unmarked(cell: str) -> str:
    """The same cell without a rank in its column."""
    return Cell(cell, value=cell.value, hint=cell.hint, **cell.facts) if isinstance(cell, Cell) else cell
