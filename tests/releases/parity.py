"""The table of ``reports/measured/parity.md`` from what the parity tests measured:

    SVGBENCH_PARITY=parity.jsonl pytest tests/releases tests/backends && python tests/releases/parity.py parity.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def table(lines: list[dict]) -> str:
    """Markdown: each test as the sentence it is, its comparisons, the numbers compared, the largest relative error."""
    rows: dict[str, list[dict]] = {}
    for line in lines:
        rows.setdefault(line["test"].removeprefix("test_").replace("_", " "), []).append(line)
    said = ["| what agrees | comparisons | numbers | largest relative error |", "|---|---:|---:|---:|"]
    for name, found in rows.items():
        said.append(f"| {name} | {len(found)} | {sum(x['numbers'] for x in found):,} | {max(x['error'] for x in found):.1e} |")
    return "\n".join(said)


if __name__ == "__main__":
    sys.stdout.write(table([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]) + "\n")
