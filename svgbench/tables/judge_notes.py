"""The note under tables in which judges that were trained on the drawn images score other images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svgbench.config.schema import DRAWN
from svgbench.errors import BrokenArtifact
from svgbench.metrics import judges
from svgbench.stages import graph
from svgbench.tables.collect import RunRecord
from svgbench.tables.table import Table


def drawn_source(source: str) -> str | None:
    """The source of a run's images, if they are drawn: the run's own, or that of the packed images."""
    if source in DRAWN:
        return source
    from svgbench.images import packed  # needs numpy

    place = Path(source).expanduser()
    try:
        of_packed = packed.read(place).get("source") if packed.holds(place) else None
    except BrokenArtifact:
        return None
    return of_packed if of_packed in DRAWN else None


def unfamiliar(record: RunRecord) -> list[str]:
    """The judges that were trained on other drawn images than the run uses, each with its role."""
    config = record.config()
    if "data" not in config:
        return []
    drawn = drawn_source(config["data"]["source"])
    judging = graph.judging(config, trains_autoencoder=record.stage("autoencoder") is not None)
    return [f"{judge} ({name})" for name, kind, judge, *_ in judging if not judges.is_familiar(kind, judge, drawn)]


def note_judges(tables: Sequence[Table], records: Sequence[RunRecord]) -> None:
    """Adds a note to every table of measured numbers: the runs that such judges scored."""
    runs: dict[str, list[str]] = {}
    for record in records:
        unfamiliar_judges = unfamiliar(record)
        if unfamiliar_judges:
            runs.setdefault(judges.unfamiliar(unfamiliar_judges), []).append(record.name)
    for table in tables:
        if table.kind != "published":
            table.notes += [note if len(names) == len(records) else f"{', '.join(names)}: {note}" for note, names in runs.items()]


def noted_scores(record: RunRecord) -> list[dict[str, Any]]:
    """The run's scores, with this note in the details of each."""
    unfamiliar_judges = unfamiliar(record)
    more = {"judges": judges.unfamiliar(unfamiliar_judges)} if unfamiliar_judges else {}
    return [{**row, "detail": {**row["detail"], **more}} for row in record.scores]
