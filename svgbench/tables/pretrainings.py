"""The notes of tables whose seeds do not repeat everything: the weights of an encoder come from one pretraining, and the seeds of a row may
share one autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

from svgbench.tables.collect import RunRecord
from svgbench.tables.labels import row_numbers, row_of
from svgbench.tables.table import Table

ABOUT = (
    "the seeds train autoencoder and SiT again on the same encoder weights, so a difference between these rows holds for these weights, "
    "not for the method that pretrained them"
)
PAIR = f"two encoders, each pretrained once: {ABOUT}"


def weights_of(record: RunRecord) -> set[str]:
    """Digest of the encoder's weights of a run; empty if its record does not hold it."""
    encoder = record.config().get("encoder") or {}
    return {str(encoder["identity"])} if encoder.get("identity") else set()


def note_pretrainings(tables: Sequence[Table], records: Sequence[RunRecord]) -> None:
    """Adds a note to every table of measured numbers with rows of two or more encoders: the rows whose seeds all share one pretraining."""
    rows = row_numbers(records)
    weights: dict[str, set[str]] = {}
    for record in records:
        weights.setdefault(record.row, set()).update(weights_of(record))
    for table in tables:
        if table.kind not in ("measured", "differences"):
            continue
        shown = list(dict.fromkeys(row for texts in table.rows if (row := row_of(texts[0], rows)) is not None))
        if len(set().union(*(weights[row] for row in shown))) < 2:
            continue
        single = [row for row in shown if len(weights[row]) == 1]
        if single:
            who = "each row uses" if len(single) == len(shown) else f"{', '.join(single)}: each uses"
            table.notes.append(f"{who} one pretrained encoder; {ABOUT}")


SHARED = "share one trained autoencoder, so intervals over seeds are those of SiT's training and sampling; its own scores are measured once"


def note_shared_autoencoders(tables: Sequence[Table], records: Sequence[RunRecord]) -> None:
    """Adds a note to every table of measured numbers with rows whose seeds share one trained autoencoder."""
    rows = row_numbers(records)
    keys: dict[str, list[str]] = {}
    for record in records:
        if (stage := record.stage("autoencoder")) is not None:
            keys.setdefault(record.row, []).append(stage["key"])
    for table in tables:
        if table.kind not in ("measured", "differences"):
            continue
        shown = list(dict.fromkeys(row for texts in table.rows if (row := row_of(texts[0], rows)) is not None))
        sharing = [row for row in shown if len(keys.get(row, [])) > len(set(keys.get(row, [])))]
        if sharing:
            who = "the seeds of each row" if len(sharing) == len(shown) else f"{', '.join(sharing)}: the seeds"
            table.notes.append(f"{who} {SHARED}")
