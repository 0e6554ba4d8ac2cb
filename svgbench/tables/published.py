"""Published numbers: ``reports/published.csv`` (or a file of the same format) as typed rows, each with its source.

Papers state neither reference statistics nor rounding, and often not the sampler. A published number therefore has no protocol here: it is
shown beside measured numbers, but never ranked with them. ``disagreements`` finds rows that print another number for the same thing.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from svgbench.errors import BadInput, closest
from svgbench.metrics.declared import published_names
from svgbench.shelf import folder

COLUMNS = (
    "system", "tokenizer_or_encoder", "dataset", "resolution", "model", "params_m", "epochs", "sampler", "steps", "guidance", "metric",
    "value", "source",
)  # fmt: skip

OTHERS = (
    "FDr_inception", "FDr_convnext", "FDr_dinov2", "FDr_mae", "FDr_siglip", "FDr_clip", "FDr6", "epochs_to_gFID_le_2", "gflops", "params_m",
    "rIS", "IN_ReaL", "GenEval", "GenEval_ft", "DPG", "DPG_ft", "GenAI-Bench", "GenAI-Bench_ft", "claim_speedup_train_x",
    "claim_speedup_infer_x",
)  # fmt: skip
"""Metrics that papers print and svgbench does not measure; they keep their printed names."""

UNGUIDED, UNSTATED = ("none",), ("", "unstated", "n/a", "guided?")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published number."""

    line: int
    """Its line in the file."""
    system: str
    tokenizer: str
    dataset: str
    resolution: int | None
    model: str
    params_m: int | None
    """Millions of parameters."""
    epochs: int | None
    """Epochs of the transformer's training; for a reconstruction, of the autoencoder's."""
    sampler: str
    steps: int | None
    guidance: str
    """As printed: none, cfg, autoguidance, unstated, ..."""
    metric: str
    """svgbench's name of the metric if it is measured here, else the printed one."""
    value: float
    bound: str
    """``>`` where only a bound was printed, else empty."""
    text: str
    """The value as printed."""
    source: str

    @property
    def digitised(self) -> bool:
        """Whether the value was read off a plot."""
        return "digitised" in self.source

    @property
    def guided(self) -> bool | None:
        """Whether guidance was used; None if the source does not state it."""
        return None if self.guidance in UNSTATED else self.guidance not in UNGUIDED

    @property
    def network(self) -> str:
        """The model's name without its patch size and remarks: papers write SiT-XL and SiT-XL/2 for one network."""
        return re.sub(r"/\d+$", "", re.sub(r" \(.*\)$", "", self.model))


def published(path: Path | None = None) -> list[Published]:
    """The rows of ``reports/published.csv`` or of a file of the same format."""
    path = path or folder("reports") / "published.csv"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist.") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: byte {error.start} is not UTF-8.") from None
    lines = csv.reader(text.splitlines())
    head = next(lines, [])
    if tuple(head) != COLUMNS:
        raise BadInput(f"{path}:1: the columns are {', '.join(head) or 'missing'}; they must be {', '.join(COLUMNS)}.")
    return [_row(path, lines.line_num, cells) for cells in lines if cells]


def _row(path: Path, line: int, cells: list[str]) -> Published:
    """One row; an error names file and line."""
    where = f"{path}:{line}"
    if len(cells) != len(COLUMNS):
        raise BadInput(f"{where}: has {len(cells)} cells, the file has {len(COLUMNS)} columns; quote a cell that contains a comma.")
    cell = dict(zip(COLUMNS, (c.strip() for c in cells), strict=True))
    if not cell["source"]:
        raise BadInput(f"{where}: has no source; give the paper and the table that the number is from.")
    metric = cell["metric"]
    measured = published_names()
    if metric not in measured and metric not in OTHERS:
        raise BadInput(f"{where}: no metric named '{metric}'.{closest(metric, [*measured, *OTHERS])}")
    bound, number = (">", cell["value"][1:]) if cell["value"].startswith(">") else ("", cell["value"])

    return Published(
        line=line, system=cell["system"], tokenizer=cell["tokenizer_or_encoder"], dataset=cell["dataset"],
        resolution=_count(where, "resolution", cell["resolution"]), model=cell["model"],
        params_m=_count(where, "params_m", cell["params_m"]), epochs=_count(where, "epochs", cell["epochs"]), sampler=cell["sampler"],
        steps=_count(where, "steps", cell["steps"]), guidance=cell["guidance"], metric=measured.get(metric, metric),
        value=_number(where, number), bound=bound, text=cell["value"], source=cell["source"],
    )  # fmt: skip


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{where}: value must be a number, or a bound such as >800, got '{text}'.")
    return value


def _count(where: str, name: str, text: str) -> int | None:
    if text and not (text.isascii() and text.isdigit()):
        raise BadInput(f"{where}: {name} must be a whole number or empty, got '{text}'.")
    return int(text) if text else None


def disagreements(row: Published, rows: Iterable[Published]) -> list[Published]:
    """Other rows that print another value for the same system, tokenizer, network, epochs, metric, kind of guidance and steps. If one of
    two rows states no steps, they are compared if both state their epochs, unless a third row prints its value at other steps. Rounding
    and values read off plots do not count as disagreement."""
    near = [other for other in rows if (other.metric, other.system) == (row.metric, row.system) and _same_thing(row, other)]
    others = [other for other in near if _steps_meet(row, other) and not _same_value(row, other)]
    return [other for other in others if not _of_other_steps(row, other, near) and not _of_other_steps(other, row, near)]


def _same_thing(one: Published, other: Published) -> bool:
    """Whether two rows describe the same thing, apart from their steps."""
    things = [(r.tokenizer, r.dataset, r.resolution, r.network, r.epochs, r.guided) for r in (one, other)]
    kinds = {r.guidance.split(" ")[0] for r in (one, other)}
    return things[0] == things[1] and (not one.guided or len(kinds - {"guided"}) < 2)


def _steps_meet(one: Published, other: Published) -> bool:
    return one.steps == other.steps or (None in (one.steps, other.steps) and one.epochs is not None)


def _of_other_steps(stated: Published, unstated: Published, near: Iterable[Published]) -> bool:
    """Whether the value of a row without steps is printed by a third row at steps other than those of ``stated``."""
    if stated.steps is None or unstated.steps is not None:
        return False
    printed = [third for third in near if third.steps not in (None, stated.steps) and not third.digitised]
    return any(_same_value(third, unstated) for third in printed)


def _same_value(one: Published, other: Published) -> bool:
    digits = min(len(r.text.partition(".")[2]) for r in (one, other))
    read = one.digitised or other.digitised
    return read or (one.bound == other.bound and math.isclose(one.value, other.value, abs_tol=0.51 * 10**-digits))
