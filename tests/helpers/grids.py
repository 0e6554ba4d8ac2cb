"""The grid that every engine's test runs, and what is compared afterwards: three cells with one autoencoder and two trainings, of which one
cell's generation scores fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path

GRID = """base: smoke
run: g
set:
  scores: {segmentation.enabled: false, probe.epochs: 1}
  sampling: {steps: [2], guidance: [1.0]}
axes:
  cell:
    good: {diffusion.shift: 0.3}
    other: {diffusion.shift: 0.5}
    bad: {diffusion.shift: 0.5, scores.neighbours: 500}
"""


def grid_file(folder: Path) -> Path:
    path = folder / "grid.yaml"
    path.write_text(GRID)
    return path


def ablate(grid: Path, out: Path, *more: str) -> list[str]:
    """The command, on one thread so that bits are equal."""
    return [sys.executable, "-m", "svgbench", "ablate", str(grid), "--out", str(out), "--threads", "1", *more]


def numbers(out: Path) -> dict[str, list]:
    """Every run's scores, without what times tell."""
    found = {}
    for path in sorted(out.glob("*/scores.json")):
        rows = json.loads(path.read_text())
        found[path.parent.name] = [(r["metric"], r["value"], r["low"], r["high"], r["key"], r["protocol"]) for r in rows]
    return found


def digests(out: Path) -> dict[str, dict[str, str]]:
    """Key -> digests of the artifact's files, without logs, which hold times."""
    manifests = [json.loads(path.read_text()) for path in out.glob("store/*/*/manifest.json")]
    return {m["key"]: {name: d for name, d in m["files"].items() if name != "log.jsonl"} for m in manifests}


def workers(out: Path, stage: str = "*") -> list[int]:
    """Numbers of the processes that work on unfinished nodes of a stage now."""
    found = []
    for partial in out.glob(f"store/{stage}/*.partial"):
        text = partial.with_name(partial.name.replace(".partial", ".lock")).read_text()
        if text.startswith("process "):
            found.append(int(text.split()[1]))
    return found
