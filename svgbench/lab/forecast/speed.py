"""Speed of a machine: measured by ``svgbench bench``, else in finished trainings of a store, else assumed. No torch."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svgbench.config.records import Manifest
from svgbench.errors import BrokenArtifact
from svgbench.lab.forecast.estimate import Estimate
from svgbench.lab.measured import bench_of_this_machine
from svgbench.stages import graph

H200 = {"bf16": 790e12, "fp32": 60e12}
"""FLOP/s of large matrix products on one H200: bfloat16 as measured; float32 without TF32, below the datasheet's 67. The time of operations
that run in TF32 (convolutions, by torch's default) is therefore overestimated."""
SHARE = 0.4
"""Assumed share of this rate that training or sampling reaches."""
CORE = {"bf16": 10e9, "fp32": 50e9}
"""FLOP/s of one CPU core averaged over a run, measured with the tiny preset; bfloat16 is emulated on a CPU."""
LONG = 20.0
"""Shortest training, in seconds, that counts as a measurement; shorter ones are mostly start-up."""
GPUS = {"tiny": 0, "mini": 0, "small": 1, "paper": 8}
"""Number of GPUs that a preset is designed for; 0: the CPU."""


@dataclass(frozen=True)
class Pace:
    """The speed of the machine that is planned for."""

    gpus: int
    """0: this machine's CPU."""
    rates: dict[str, float]
    """FLOP/s of one GPU, or of the CPU, by precision."""
    source: str
    """Source of the rates, shown to the user."""

    @property
    def unit(self) -> str:
        """The unit of device time."""
        return "GPU-hours" if self.gpus else "CPU-hours"

    def device_seconds(self, estimate: Estimate) -> float:
        """Seconds of one device for a node's operations."""
        return estimate.bf16 / self.rates["bf16"] + estimate.fp32 / self.rates["fp32"]

    def seconds(self, estimate: Estimate, stage: str) -> float:
        """Wall-clock seconds: devices share a stage that runs on all ranks; one core draws or decodes images."""
        named = [row for row in graph.STAGES if row.name == stage]
        together = self.gpus if self.gpus and named and named[0].ranks == "all" else 1
        return estimate.core_seconds + self.device_seconds(estimate) / together


def pace_of(gpus: int, store: Path | None = None) -> Pace:
    """The speed of ``gpus`` H200s (0: this CPU). ``store``: the store beside which ``bench.json`` of this machine may lie. It sets the
    rates that it measured, and finished trainings in the store set the others."""
    cores, device = os.cpu_count() or 1, "cuda" if gpus else "cpu"
    rates = {name: rate * SHARE for name, rate in H200.items()} if gpus else {name: rate * cores for name, rate in CORE.items()}
    benched, about, ignored = _benched(store, device) if store else ({}, "", "")
    trained = {name: values for name, values in (_measured(store, device) if store else {}).items() if name not in benched}
    rates |= benched | {name: statistics.median(values) for name, values in trained.items()}
    words = [about] if benched else []
    if trained:
        tried = ", ".join(f"{len(values)} in {name}" for name, values in sorted(trained.items()))
        words.append(f"the median of the longer finished trainings in {store} ({tried})")
    if missing := [name for name in ("bf16", "fp32") if name not in {*benched, *trained}]:
        words.append(_assumption(gpus, cores, missing))
    return Pace(gpus, rates, "; ".join([*words, *([ignored] if ignored else [])]))


def _benched(store: Path, device: str) -> tuple[dict[str, float], str, str]:
    """FLOP/s by precision that ``svgbench bench`` measured on this machine, what to say of them, and why a file is not used."""
    try:
        made, ignored = bench_of_this_machine(store.parent, device)
    except BrokenArtifact as error:
        return {}, "", f"{str(error).rstrip('.')}; it is not used"
    if made is None or not (rates := made.rates()):
        return {}, "", ignored
    return rates, f"measured by svgbench bench on {made.date} (preset {made.preset}, {' and '.join(sorted(rates))})", ""


def _assumption(gpus: int, cores: int, precisions: list[str]) -> str:
    if gpus:
        rates = " and ".join(f"{H200[name] / 1e12:g} TFLOP/s in {name}" for name in precisions)
        return f"assumed: {gpus} x H200 at {SHARE:.0%} of {rates}"
    rates = " and ".join(f"{CORE[name] / 1e9:g} GFLOP/s in {name}" for name in precisions)
    return f"assumed: {cores} CPU cores at {rates} each"


def _measured(store: Path, device: str) -> dict[str, list[float]]:
    """Precision -> FLOP/s that each finished training on such a device reached, per process."""
    rates: dict[str, list[float]] = {}
    for path in sorted(store.glob("*/*/manifest.json")):
        try:
            manifest = Manifest.read(path.read_bytes())
        except (OSError, ValueError):
            continue  # using a damaged artifact raises an error
        cost, alike = manifest.cost, manifest.seconds >= LONG and manifest.host.get("device") == device
        if alike and cost.get("flops_per_image") and cost.get("images_per_second"):
            rate = cost["flops_per_image"] * cost["images_per_second"] / max(1, int(manifest.host.get("ranks", 1)))
            rates.setdefault(_precision(manifest.slice), []).append(rate)
    return rates


def _precision(part: dict[str, Any]) -> str:
    """The precision of the training in a stage's slice."""
    for name in ("diffusion", "autoencoder"):
        if name in part:
            return str(part[name].get("training", {}).get("precision", "fp32"))
    return "fp32"
