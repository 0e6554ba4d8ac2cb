"""The items of an audit as one table, and the tables of an audit. A new item is a function and a row of ``ITEMS``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from svgbench.tables.audit.contradictions import contradictory_rows
from svgbench.tables.audit.findings import AuditFinding, CannotTell
from svgbench.tables.audit.latents import latent_and_batch, latent_statistics, standardise_and_back
from svgbench.tables.audit.sampling import (
    duplicates_of_run,
    duplicates_of_set,
    labels_of_run,
    labels_of_set,
    time_and_shift,
    tuning_seed,
)
from svgbench.tables.audit.scoring import counts_of_run, counts_of_set, reference_images, rounding_of_run, rounding_of_set
from svgbench.tables.audit.subjects import AuditedNumbers, AuditedRun, AuditedSet, Subject
from svgbench.tables.audit.training import averaged_weights, decoder_at_plateau, seeds_and_pretraining, width_of_transformer
from svgbench.tables.table import Cell, Table


@dataclass(frozen=True)
class Item:
    """One trap. An item without a function for a kind of subject is not asked of it."""

    name: str
    """In JSON and documents."""
    title: str
    """In tables."""
    of_run: Callable[[AuditedRun], AuditFinding] | None = None
    of_set: Callable[[AuditedSet], AuditFinding] | None = None
    of_numbers: Callable[[AuditedNumbers], AuditFinding] | None = None


ITEMS: tuple[Item, ...] = (
    Item("batch", "latent and batch", latent_and_batch),
    Item("statistics", "latent statistics", latent_statistics),
    Item("round-trip", "standardise and back", standardise_and_back),
    Item("time", "time and shift", time_and_shift),
    Item("averages", "averaged weights", averaged_weights),
    Item("labels", "labels of samples", labels_of_run, labels_of_set),
    Item("rounding", "size and rounding", rounding_of_run, rounding_of_set),
    Item("reference", "reference images", reference_images),
    Item("duplicates", "duplicates", duplicates_of_run, duplicates_of_set),
    Item("width", "width of SiT", width_of_transformer),
    Item("plateau", "decoder at plateau", decoder_at_plateau),
    Item("seeds", "seeds, pretraining", seeds_and_pretraining),
    Item("tuning", "tuning seed", tuning_seed),
    Item("contradictions", "contradictions", of_numbers=contradictory_rows),
    Item("counts", "enough images", counts_of_run, counts_of_set),
)
"""In the order in which they are asked."""


@dataclass(frozen=True)
class Answer:
    """An item's finding about a subject."""

    item: Item
    finding: AuditFinding


def answer(item: Item, subject: Subject) -> AuditFinding | None:
    """The finding of an item about a subject; None if the item is about other kinds of subjects."""
    try:
        if isinstance(subject, AuditedRun):
            return item.of_run and item.of_run(subject)
        if isinstance(subject, AuditedSet):
            return item.of_set and item.of_set(subject)
        return item.of_numbers and item.of_numbers(subject)
    except CannotTell as reason:
        return AuditFinding("cannot tell", str(reason))


def audit(subject: Subject) -> list[Answer]:
    """The findings of all items that are about this kind of subject."""
    findings = [(item, answer(item, subject)) for item in ITEMS]
    return [Answer(item, finding) for item, finding in findings if finding is not None]


def audit_table(subject: Subject, answers: Sequence[Answer]) -> Table:
    """The findings as a table; what to do follows the evidence of an item that fails."""
    rows: list[list[str]] = []
    for one in answers:
        finding = one.finding
        verdict = Cell(finding.verdict, place=int(finding.verdict == "fail"))
        rows.append(
            [one.item.title, verdict, f"{finding.evidence}. To do: {finding.advice}." if finding.advice else f"{finding.evidence}."]
        )
    counts = Counter(one.finding.verdict for one in answers)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("pass", "fail", "cannot tell"))
    return Table(
        f"Audit of {subject.title}", ["item", "verdict", "evidence"], rows, [f"{len(answers)} item{'s' * (len(answers) != 1)}: {summary}"]
    )


def content(subject: Subject, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The findings as JSON objects."""
    return [
        {
            "subject": subject.title, "kind": subject.kind, "item": one.item.name, "title": one.item.title, "verdict": one.finding.verdict,
            "evidence": one.finding.evidence, "advice": one.finding.advice,
        }
        for one in answers
    ]  # fmt: skip
