"""Figures that tests measure, gathered line by line in a file and made into the tables of ``reports/measured``:

SVGBENCH_PARITY=parity.jsonl pytest tests/releases tests/backends && python tests/helpers/measured.py parity.jsonl
SVGBENCH_AGREEMENT=agreement.jsonl pytest tests/agreement tests/test_mmseg.py && python tests/helpers/measured.py agreement.jsonl
SVGBENCH_RELIABILITY=faults.jsonl pytest --fault all && python tests/helpers/measured.py faults.jsonl
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from faults import FAULTS


def note(variable: str, **figures: object) -> None:
    """A line with the running test's name and its figures in the file that an environment variable names, if it names one."""
    if path := os.environ.get(variable):
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[2].removesuffix(" (call)")
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, **figures}) + "\n")


def agrees(metric: str, ours: float, theirs: float, *, against: str, rel: float = 0.0, off: float = 0.0) -> None:
    """Holds our number to another implementation's, within ``rel`` of theirs or ``off``, and notes both for the table of agreement."""
    note("SVGBENCH_AGREEMENT", metric=metric, against=against, ours=ours, theirs=theirs, rel=rel, off=off)
    assert abs(ours - theirs) <= max(rel * abs(theirs), off), f"{metric}: {ours!r} here, {theirs!r} by {against}"


def parity_table(lines: list[dict]) -> str:
    """Markdown: each test as the sentence it is, its cases and comparisons, the numbers compared, the largest relative error."""
    said = ["| what agrees | cases | comparisons | numbers | largest relative error |", "|---|---:|---:|---:|---:|"]
    for name, found in _by_sentence(lines).items():
        cases, numbers = len({line["case"] for line in found}), sum(line["numbers"] for line in found)
        said.append(f"| {name} | {cases} | {len(found)} | {numbers:,} | {max(line['error'] for line in found):.1e} |")
    return "\n".join(said)


def agreement_table(lines: list[dict]) -> str:
    """Markdown: each comparison with both numbers, their relative difference and the bound that the test holds."""
    said = ["| metric | on | against | ours | theirs | relative difference | bound |", "|---|---|---|---:|---:|---:|---:|"]
    for name, found in _by_sentence(lines).items():
        for line in found:
            ours, theirs = line["ours"], line["theirs"]
            difference = abs(ours - theirs) / abs(theirs) if theirs else abs(ours - theirs)
            bound = f"{line['rel']:.0e}" if line["rel"] else f"{line['off']:.0e} absolute"
            on = name + (f" ({line['case'].rstrip(']')})" if line["case"] else "")
            said.append(f"| {line['metric']} | {on} | {line['against']} | {ours:.8g} | {theirs:.8g} | {difference:.1e} | {bound} |")
    return "\n".join(said)


def reliability_table(lines: list[dict]) -> str:
    """Markdown: each row of the fault plan with its trials and violations, then fuzzing by loader and the soaks."""
    found = ["| | fault | trials | violations | command |", "|---|---|---:|---:|---|"]
    for row, fault in FAULTS.items():
        own = [line for line in lines if line.get("fault") == row]
        trials, bad = (sum(line[name] for line in own) for name in ("trials", "violations"))
        found.append(f"| {row} | {fault.what} | {trials:,} | {bad} | `pytest --fault {row}` |")
    fuzzed = [line for line in lines if line.get("fault") == "fuzzing"]
    found += ["", "| loader | damaged files | without a sentence | slowest (s) |", "|---|---:|---:|---:|"]
    found += [f"| {line['what']} | {line['trials']:,} | {line['violations']} | {line['seconds']:.2f} |" for line in fuzzed]
    for line in lines:
        if result := line.get("soak"):
            found += ["", f"| soak of {result['minutes']:g} minutes | |", "|---|---:|"]
            found += [f"| {name} | {value:,} |" for name, value in result.items() if isinstance(value, int) and name != "seed"]
            found.append(f"| violations | {len(result['violations'])} |")
    return "\n".join(found)


def _by_sentence(lines: list[dict]) -> dict[str, list[dict]]:
    """The lines of each test, by its name as a sentence."""
    rows: dict[str, list[dict]] = {}
    for line in lines:
        name, _, case = line["test"].removeprefix("test_").partition("[")
        rows.setdefault(name.replace("_", " "), []).append({**line, "case": case})
    return rows


if __name__ == "__main__":
    read = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    table = agreement_table if "theirs" in read[0] else parity_table if "error" in read[0] else reliability_table
    sys.stdout.write(table(read) + "\n")
