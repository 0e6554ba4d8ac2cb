"""The item about published numbers: rows that print different values for one thing."""

from __future__ import annotations

from svgbench.metrics.declared import METRICS
from svgbench.tables.audit.findings import AuditFinding, failed, passed
from svgbench.tables.audit.subjects import AuditedNumbers
from svgbench.tables.layouts import contested
from svgbench.tables.published import Published, disagreements


def contradictory_rows(numbers: AuditedNumbers) -> AuditFinding:
    """Whether rows of the same system, network, metric, guidance, epochs and steps print different values without a remark in
    ``reports/contested.yaml``."""
    groups: list[list[Published]] = []
    for row in numbers.rows:
        if others := disagreements(row, numbers.rows):
            groups = _united(groups, [row, *others])
    if not groups:
        return passed(f"No two of {len(numbers.rows):,} rows contradict each other")
    facts = [wanted for fact in contested() for wanted in fact.where]
    plain = [group for group in groups if not any(wanted.holds(row) for wanted in facts for row in group)]
    counted = f"Rows contradict each other about {len(groups)} thing{'s' * (len(groups) > 1)}"
    if not plain:
        return passed(f"{counted}, each with a remark in reports/contested.yaml")
    first = sorted(plain[0], key=lambda row: row.line)
    metric = METRICS[first[0].metric].title if first[0].metric in METRICS else first[0].metric
    values = ", ".join(f"{row.text} (line {row.line})" for row in first[:3])
    return failed(
        f"{counted}, {len(plain)} without a remark in reports/contested.yaml; first: {metric} of {first[0].system}: {values}",
        "compare the sources, and state what differs",
    )


def _united(groups: list[list[Published]], rows: list[Published]) -> list[list[Published]]:
    """The groups with ``rows`` as one more, united with those that share a row with it."""
    lines = {row.line for row in rows}
    meeting = [group for group in groups if any(row.line in lines for row in group)]
    whole = {row.line: row for group in (*meeting, rows) for row in group}
    return [*(group for group in groups if group not in meeting), list(whole.values())]
