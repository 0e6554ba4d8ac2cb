"""Tables of ``svgbench bench``: the machine, the pieces of a run, and two files compared."""

from __future__ import annotations

from collections.abc import Iterable

from svgbench.lab.measured import BenchFile, BenchRow, Ratio
from svgbench.tables.table import Table

NOT_MEASURED = "not measured"
MACHINE = ("products", "copies", "images")
"""Parts whose rows have rates instead of images per second and utilisation."""


def bench_tables(made: BenchFile) -> list[Table]:
    """Tables of what was measured; what was not is named in a note with the reason."""
    about = f"{made.device_name}, preset {made.preset}, {made.encoder}, random weights and images"
    machine = [row for row in made.rows if row.stage in MACHINE]
    pieces = [row for row in made.rows if row.stage not in MACHINE]
    tables = []
    if machine:
        rows = [[row.name, _time(row.seconds), _spread(row), _rate(row)] for row in machine if row.seconds]
        tables.append(Table("Machine", ["what", "time", "±", "rate"], rows, [about, *_remarks(machine)], kind="cost"))
    if pieces:
        timed = [row for row in pieces if row.seconds or row.first_seconds]
        speed = [[*_names(row), _time(row.seconds), _spread(row), _number(row.images_per_second), _share(row.utilisation)] for row in timed]
        notes = [
            "time: median of a call; ±: half the interval of the median (95 %) in percent of it, none below 6 repetitions.",
            *_shares(timed), *([] if machine else [about]), *_remarks(pieces),
        ]  # fmt: skip
        tables.append(Table("Speed", ["stage", "what", "images, in", "time", "±", "images/s", "MFU"], speed, notes, kind="cost", keys=2))
    if pieces and timed:
        gpu = made.device == "cuda"
        columns, whose = ["peak", "first", *(["idle", "host"] if gpu else [])], "of PyTorch's allocator" if gpu else "of the whole process"
        memory = [
            [*_names(row), _bytes(row.peak_memory_bytes), _time(row.first_seconds), *([_idle(row), _time(row.cpu_seconds)] if gpu else [])]
            for row in timed
        ]
        on_gpu = "idle: share of a call in which the GPU runs no kernel; host: time until the call returns."
        notes = [f"peak: {whose}; first: the first call, with compilation and cold caches."]
        notes.append(on_gpu if gpu else f"idle share: {NOT_MEASURED} on a CPU.")
        tables.append(Table("Memory and first call", ["stage", "what", "images, in", *columns], memory, notes, kind="cost", keys=2))
    return tables


def ratio_table(ratios: list[Ratio], new: BenchFile, old: BenchFile) -> Table:
    """Speed of the pieces of one file relative to another."""
    rows = []
    for one in ratios:
        relative = _ratio(one.relative, one.relative_low, one.relative_high)
        rows.append([one.stage, one.name, _kind(one.batch, one.precision), *_ratio(one.ratio, one.low, one.high), *relative])
    notes = [
        f"above 1: faster than on {old.date} ({old.device_name}, svgbench {old.host.get('svgbench', '?')}).",
        "relative: times in units of a matrix product timed beside each call, so that other load on the machine matters less.",
        "intervals of at least 90 %; none where either file has fewer than 6 repetitions.",
    ]
    missing = [row for row in new.rows if row.seconds and row.key not in {(r.stage, r.name, r.precision, r.batch) for r in ratios}]
    notes += [f"in one file alone: {', '.join(f'{row.stage}, {row.name}' for row in missing)}"] if missing else []
    columns = ["stage", "what", "images, in", "ratio", "interval", "relative", "its interval"]
    return Table("Speed against the other file", columns, rows, notes, kind="cost", keys=2)


def duration_note(made: BenchFile) -> str:
    """How long the measurement took, and whether it ended by itself."""
    ended = "" if made.complete else "; stopped before its end"
    return f"measured in {made.seconds:.0f} s of {60 * made.settings['minutes']:.0f} s{ended}"


def _remarks(rows: Iterable[BenchRow]) -> list[str]:
    """What was said of the pieces; those of a stage with the same words share a line."""
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.said:
            said.setdefault((row.stage, row.said), []).append(f"{row.name}{_in(row)}")
    return [f"{stage} ({'; '.join(names)}): {words}" for (stage, words), names in said.items()]


def _in(row: BenchRow) -> str:
    return f" ({_kind(row.batch, row.precision)})" if row.batch and row.stage != "products" else ""


def _shares(rows: Iterable[BenchRow]) -> list[str]:
    """What the utilisation is a share of."""
    products = dict.fromkeys(row.share_of for row in rows if row.share_of)
    named = "; ".join(text for text in products if text)
    return [f"MFU: operations of the networks, as share of matrix products timed beside each call ({named})."] if named else []


def _names(row: BenchRow) -> list[str]:
    return [row.stage, row.name, _kind(row.batch, row.precision)]


def _kind(batch: int | None, precision: str | None) -> str:
    return ", ".join([*([str(batch)] if batch else []), *([precision] if precision else [])]) or "-"


def _rate(row: BenchRow) -> str:
    if row.stage == "products" and row.flops_per_second:
        return f"{row.flops_per_second / 1e12:.3g} TFLOP/s"
    rate = f"{row.bytes_per_second / 1e9:.3g} GB/s" if row.bytes_per_second else "-"
    return f"{rate}, {_number(row.images_per_second)} images/s" if row.images_per_second else rate


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{1e6 * seconds:.3g} µs"
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _spread(row: BenchRow) -> str:
    if row.low is None or row.high is None or not row.seconds:
        return "-"
    return f"{50 * (row.high - row.low) / row.seconds:.0f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e9:.3g} GB"


def _idle(row: BenchRow) -> str:
    return NOT_MEASURED if row.idle_share is None else _share(row.idle_share)


def _ratio(value: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    if value is None:
        return "-", "-"
    return f"{value:.3f}", "-" if low is None or high is None else f"({low:.2f}, {high:.2f})"
