"""What ``svgbench bench`` measured on a machine: ``bench.json`` in an output directory. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svgbench.config.part import Part
from svgbench.config.records import NewerRecord, seal, unseal
from svgbench.errors import BrokenArtifact
from svgbench.lab.forecast.requirements import gpus
from svgbench.machine.files import guarded, write_atomic
from svgbench.machine.processor import processor_name

NAME = "bench.json"
FORMAT = 2
"""Version of ``bench.json``; every version holds its digest."""


class BenchRow(Part):
    """One measured piece of work, or why it was not measured (``said``)."""

    stage: str
    """Stage or part of the machine: products, copies, images, encoding, autoencoder, diffusion, samples, scores."""
    name: str
    """What was run."""
    precision: str | None = None
    """Precision of its products."""
    batch: int | None = None
    """Images in one call."""
    seconds: float | None = None
    """Median time of a call over the repetitions."""
    low: float | None = None
    """Lower end of the interval of the median (95 %); none with fewer than six repetitions."""
    high: float | None = None
    """Upper end of that interval."""
    repetitions: int = 0
    """Number of timed repetitions."""
    relative: float | None = None
    """Median of the time of a call divided by that of a large matrix product timed beside it."""
    relative_low: float | None = None
    """Lower end of the interval of that median."""
    relative_high: float | None = None
    """Upper end of that interval."""
    images_per_second: float | None = None
    """Images of one call divided by its time."""
    flops_per_image: float | None = None
    """Operations of one image: a multiply-add is two."""
    utilisation: float | None = None
    """Share of the rate of large matrix products timed beside it."""
    share_of: str | None = None
    """Precision and shape of these products."""
    bytes_per_second: float | None = None
    """Bytes that were copied or read per second."""
    peak_memory_bytes: int | None = None
    """Peak memory: of the device's allocator, or of the process on a CPU."""
    first_seconds: float | None = None
    """Time of the first call, with compilation and cold caches."""
    cpu_seconds: float | None = None
    """Median time until a call returns, on a GPU: the host's own work."""
    idle_share: float | None = None
    """Share of a call's time in which the GPU runs no kernel; none on a CPU."""
    sets_pace: bool = False
    """Whether ``plan`` and ``doctor`` take their pace from this piece."""
    said: str = ""
    """Why it was not measured, or a remark."""

    @property
    def flops_per_second(self) -> float | None:
        """Operations per second that it reached."""
        if self.flops_per_image is None or self.images_per_second is None:
            return None
        return self.flops_per_image * self.images_per_second

    @property
    def key(self) -> tuple[str, str, str | None, int | None]:
        """What makes two pieces of two files comparable."""
        return self.stage, self.name, self.precision, self.batch


class BenchFile(Part):
    """The content of ``bench.json``."""

    format: int = FORMAT
    """Version of the file."""
    device: str
    """cpu or cuda."""
    device_name: str
    """The processor's or the GPU's model."""
    preset: str
    """The preset whose sizes were measured."""
    encoder: str
    """The encoder's card."""
    settings: dict[str, Any]
    """Options of the command: stages, batch, minutes."""
    host: dict[str, Any]
    """Host, threads, versions."""
    finished: str
    """UTC time."""
    seconds: float
    """Duration of the whole measurement."""
    complete: bool
    """Whether it ended by itself, not by a signal."""
    rows: tuple[BenchRow, ...]
    """The pieces."""

    @property
    def date(self) -> str:
        """The day on which it finished."""
        return self.finished.partition("T")[0]

    def rates(self) -> dict[str, float]:
        """Precision -> median FLOP/s of the pieces that set the pace; bf16 and fp32 alone, as in a plan (TF32 counts as fp32)."""
        found: dict[str, list[float]] = {}
        for row in self.rows:
            rate = row.flops_per_second if row.sets_pace else None
            if rate:
                found.setdefault("bf16" if row.precision == "bf16" else "fp32", []).append(rate)
        return {name: statistics.median(values) for name, values in found.items()}


def write_bench(out: Path, made: BenchFile) -> Path:
    """Writes ``bench.json``, replacing an earlier one."""
    place = out / NAME
    with guarded(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, seal(made.model_dump(mode="json")))
    return place


def read_bench(path: Path) -> BenchFile:
    """The content of a file, or of ``bench.json`` in a directory. Raises BrokenArtifact for one that is missing, damaged or newer."""
    path = path / NAME if path.is_dir() else path
    try:
        return BenchFile.model_validate(unseal(path.read_bytes(), FORMAT))
    except NewerRecord as error:
        raise BrokenArtifact(f"{path}: written by a newer svgbench (record {error}); update svgbench.") from None
    except FileNotFoundError:
        raise BrokenArtifact(f"{path}: does not exist; make it by 'svgbench bench'.") from None
    except (OSError, ValueError) as error:
        raise BrokenArtifact(f"{path}: is damaged or cannot be read ({error}); measure again: svgbench bench.") from None


def bench_of_this_machine(out: Path, device: str) -> tuple[BenchFile | None, str]:
    """The measurement in ``out`` if it is of this machine's ``device`` (cpu or cuda), and a sentence about one that is not used."""
    if not (out / NAME).exists():
        return None, ""
    made = read_bench(out)
    here = [processor_name()] if device == "cpu" else gpus()
    if made.device != device or made.device_name not in here:
        wanted = ", ".join(dict.fromkeys(here)) or "no GPU"
        return None, f"{out / NAME} was measured on {made.device_name} and is not used here ({wanted})"
    return made, ""


class Ratio(Part):
    """Speed of one piece in one file divided by that in another."""

    stage: str
    name: str
    precision: str | None
    batch: int | None
    ratio: float
    """Above 1: the first file is faster."""
    low: float | None
    high: float | None
    relative: float | None
    """The ratio of the times in units of the matrix product beside them, which other load on the machine moves less."""
    relative_low: float | None
    relative_high: float | None


def ratios(new: BenchFile, old: BenchFile) -> list[Ratio]:
    """The pieces that both files measured. An interval runs from the least to the most favourable ends of the two intervals, so its
    confidence is at least 90 %."""
    before = {row.key: row for row in old.rows if row.seconds}
    return [_ratio(row, before[row.key]) for row in new.rows if row.seconds and row.key in before]


def _ratio(new: BenchRow, old: BenchRow) -> Ratio:
    facts: Mapping[str, Any] = {"stage": new.stage, "name": new.name, "precision": new.precision, "batch": new.batch}
    assert new.seconds and old.seconds  # both are measured
    return Ratio(
        **facts, ratio=old.seconds / new.seconds, low=_over(old.low, new.high), high=_over(old.high, new.low),
        relative=_over(old.relative, new.relative), relative_low=_over(old.relative_low, new.relative_high),
        relative_high=_over(old.relative_high, new.relative_low),
    )  # fmt: skip


def _over(first: float | None, second: float | None) -> float | None:
    return first / second if first and second else None
