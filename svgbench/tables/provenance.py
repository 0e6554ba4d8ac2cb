"""The provenance of a report's numbers: number of runs, seeds, version and commit of svgbench, and date."""

from __future__ import annotations

import re
from collections.abc import Sequence

from svgbench import __version__
from svgbench.lab.store import Store
from svgbench.tables.collect import RunRecord

DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?=T)")
DIGITS = 12
"""Number of digits shown of a commit."""


def made_by(records: Sequence[RunRecord], store: Store) -> str:
    """``12 runs, seeds 0, 1; svgbench 0.1.0, commit 4ba8e9709d25; finished 2026-01-31``. Facts that records of earlier versions lack are
    omitted; the version is then that of the svgbench that writes the report."""
    stages = [stage for record in records for stage in record.about["stages"]]
    hosts = [stage["host"] for stage in stages]
    versions = list(dict.fromkeys(host["svgbench"] for host in hosts if host.get("svgbench"))) or [__version__]
    commits = list(dict.fromkeys(host["commit"][:DIGITS] for host in hosts if host.get("commit")))
    manifests = [store.manifest(stage["stage"], stage["key"]) for stage in stages]
    dates = sorted({match[0] for manifest in manifests if manifest and (match := DATE.match(manifest.finished))})
    seeds = sorted({record.seed for record in records})
    parts = [f"{_count(len(records), 'run')}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"]
    parts.append(f"svgbench {', '.join(versions)}" + (f", commit {', '.join(commits)}" if commits else ""))
    if dates:
        parts.append(f"finished {dates[0]}" if len(dates) == 1 else f"finished {dates[0]} to {dates[-1]}")
    return "; ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
