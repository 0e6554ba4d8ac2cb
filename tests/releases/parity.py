"""The table of ``reports/measured/parity.md`` from what the parity tests measured:

    SVGBENCH_PARITY=parity.jsonl pytest tests/releases tests/backends && python tests/releases/parity.py parity.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def table(lines: list[dict]) -> str:
    """Markdown: each test as the sentence it is, its cases and comparisons, the numbers compared, the largest relative error."""
    rows: dict[str, list[dict]] = {}
    for line in lines:
        name, _, case = line["test"].removeprefix("test_").partition("[")
        rows.setdefault(name.replace("_", " "), []).append({**line, "case": case})
    said = ["| what agrees | cases | comparisons | numbers | largest relative error |", "|---|---:|---:|---:|---:|"]
    for name, found in rows.items():
        cases, numbers = len({line["case"] for line in found}), sum(line["numbers"] for line in found)
        said.append(f"| {name} | {cases} | {len(found)} | {numbers:,} | {max(line['error'] for line in found):.1e} |")
    return "\n".join(said)


if __name__ == "__main__":
    sys.stdout.write(table([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]) + "\n")
