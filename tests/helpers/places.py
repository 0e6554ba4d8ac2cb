"""The places to touch to add one thing. The table in CONTRIBUTING.md and docs/extending.md is rendered from it; a test compares them."""

from __future__ import annotations

from typing import NamedTuple


class Places(NamedTuple):
    """One row: what is added, and the files that are touched or made, NAME standing for a new one."""

    what: str
    files: tuple[str, ...]


PLACES = (
    Places("an experiment", ("ablations/NAME.yaml",)),
    Places("a table layout", ("reports/table-NAME.yaml",)),
    Places("an encoder", ("encoders/NAME.yaml",)),
    Places("a backend in your own package", ()),
    Places("a backend", ("svgbench/backends/from_NAME.py", "svgbench/backends/open.py", "svgbench/config/foreign.py",
                         "svgbench/lab/forecast/requirements.py")),
    Places("an alignment", ("svgbench/config/schema.py", "svgbench/nets/alignment.py", "svgbench/lab/forecast/estimate.py")),
    Places("a sampler", ("svgbench/config/schema.py", "svgbench/nets/sampler.py", "svgbench/config/build.py",
                         "svgbench/lab/forecast/estimate.py")),
    Places("a metric in an existing stage", ("svgbench/metrics/NAME.py", "svgbench/tables/measures.py", "svgbench/tables/report.py",
                                             "svgbench/stages/graph.py")),
)  # fmt: skip


COLUMNS = 100


def table() -> str:
    """The table in Markdown; files that do not fit a line go into rows of their own below."""
    lines = ["| to add | files | which |", "|---|---:|---|"]
    for row in PLACES:
        files = [f"`{file.removeprefix('svgbench/')}`" for file in row.files] or ["an entry point in `svgbench.backends`, and a card"]
        start = f"| {row.what} | {len(row.files)} | "
        line = start + files[0]
        for file in files[1:]:
            longer = f"{line}, {file}"
            if len(longer) + len(" |") > COLUMNS:
                lines.append(f"{line} |")
                longer = f"| | | {file}"
            line = longer
        lines.append(f"{line} |")
    return "\n".join(lines)
