"""Times pieces of work under a budget: pieces that are in memory together take turns, each beside a large matrix product."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from svgbench.errors import BadInput
from svgbench.lab.measured import BenchRow
from svgbench.machine.measure import Precision, gemm, gemm_name, peak_memory, reset_peak, synchronise
from svgbench.machine.timing import LEAST, rank_of

MOST = 30
"""Largest number of repetitions of a piece."""
SHORTEST = 0.02
"""Seconds that a repetition takes at least: quicker calls are repeated within it."""
FULL_RATE = 0.9
"""Share of the rate of matrix products that no piece exceeds: what would take longer than its budget even so is not begun."""
FAILURES = (MemoryError, RuntimeError, BadInput)
"""Errors of a piece that may become its remark, while the others are measured."""


@dataclass(frozen=True, kw_only=True)
class BenchPiece:
    """One kind of call to time."""

    name: str
    call: Callable[[], Any]
    precision: Precision | None = None
    """Precision of its products."""
    batch: int | None = None
    """Images in one call."""
    flops: float | None = None
    """Operations of one call."""
    moved: int | None = None
    """Bytes that one call copies or reads."""
    sets_pace: bool = False
    first: bool = True
    """Whether its first call may compile, and is reported."""
    cpu: bool = False
    """Whether the host's own time matters: until the call returns."""
    after: Callable[[], str] | None = None
    """Called at the end, for a remark."""


@dataclass(frozen=True, kw_only=True)
class Bout:
    """Pieces that are in memory together; ``prepare`` builds them."""

    stage: str
    names: tuple[str, ...]
    """Names of its pieces, for those that cannot be built."""
    prepare: Callable[[], Sequence[BenchPiece]]
    weight: float
    """Its share of the time, relative to the other bouts."""
    flops: float = 0.0
    """Planned operations of one call of its largest piece."""
    peak: float = 0.0
    """Planned peak memory in bytes."""
    precision: Precision = "fp32"
    """Precision of its largest piece."""


@dataclass
class _Turns:
    """The measurements of one piece."""

    piece: BenchPiece
    first_seconds: float
    inner: int
    seconds: list[float] = field(default_factory=list)
    returned: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    peak: int | None = None
    idle: float | None = None


class Clock:
    """Measures bouts on one device."""

    def __init__(
        self, device: torch.device, *, free: Callable[[], int | None], rates: dict[str, float], stopped: Callable[[], bool]
    ) -> None:
        """``free``: bytes that may still be allocated; ``rates``: precision -> FLOP/s of matrix products, to plan with; ``stopped``:
        whether to end early."""
        self.device, self._free, self._rates, self._stopped = device, free, rates, stopped
        self._products: dict[Precision, Callable[[], Any]] = {}
        self._flops = 0

    def rows(self, bout: Bout, seconds: float, left: float | None = None) -> list[BenchRow]:
        """Measures a bout within about ``seconds``. Its preparation may delay the first round to twice that, within ``left``, the time for
        all bouts. A piece that does not fit in memory or in the time becomes a row that says so."""
        began = time.perf_counter()
        _clear(self.device, graphs=True)
        if why := self._refusal(bout, seconds):
            return [BenchRow(stage=bout.stage, name=name, said=why) for name in bout.names]
        made: list[BenchRow] = []
        turns: list[_Turns] = []
        try:
            pieces = bout.prepare()
        except FAILURES as error:
            pieces = ()
            made += [BenchRow(stage=bout.stage, name=name, said=_why(error)) for name in bout.names]
            _clear(self.device)
        for piece in pieces:
            if self._stopped():
                break
            try:
                turns.append(self._begin(piece))
            except FAILURES as error:
                made.append(_row(bout.stage, piece, said=_why(error)))
                _clear(self.device)
        for number in range(MOST):
            spent = time.perf_counter() - began
            round_seconds = sum(_longest(turn) * turn.inner for turn in turns)
            limit = seconds if number or left is None else min(2 * seconds, left)
            if not turns or self._stopped() or spent + round_seconds > limit:
                break
            for turn in list(turns):
                try:
                    self._turn(turn)
                except FAILURES as error:
                    made.append(_row(bout.stage, turn.piece, said=_why(error)))
                    turns.remove(turn)
                    _clear(self.device)
                if self._stopped():
                    break
        for turn in turns:
            if self.device.type == "cuda" and turn.piece.first and not self._stopped():
                turn.idle = idle_share(turn.piece.call, self.device)
            remark = turn.piece.after() if turn.piece.after and turn.seconds and not self._stopped() else ""
            made.append(self._row(bout.stage, turn, remark))
        return made

    def _refusal(self, bout: Bout, seconds: float) -> str:
        """Why a bout is not begun: its plan exceeds the memory that is free, or its time; empty if neither."""
        free = self._free()
        if free is not None and bout.peak > free:
            return f"does not fit: planned peak {bout.peak / 1e9:.3g} GB, {free / 1e9:.3g} GB are free"
        rate = self._rates.get(bout.precision)
        least = bout.flops / (FULL_RATE * rate) if rate else 0.0
        if least > seconds:
            spans = f"a call would take {_time(least)} or more, its budget is {_time(seconds)}"
            return f"not begun: {spans}; give more --minutes or a smaller --batch"
        return ""

    def _begin(self, piece: BenchPiece) -> _Turns:
        """The first call, which may compile."""
        synchronise(self.device)
        start = time.perf_counter()
        piece.call()
        synchronise(self.device)
        first = time.perf_counter() - start
        return _Turns(piece, first, max(1, math.ceil(SHORTEST / max(first, 1e-6))) if first < SHORTEST else 1)

    def _turn(self, turn: _Turns) -> None:
        """One repetition, after one matrix product of the same precision."""
        piece = turn.piece
        if piece.precision is not None:
            turn.products.append(self._product(piece.precision))
        first = turn.peak is None
        if first:
            reset_peak(self.device)
        synchronise(self.device)
        start = time.perf_counter()
        for _ in range(turn.inner):
            piece.call()
        back = time.perf_counter()
        synchronise(self.device)
        end = time.perf_counter()
        turn.seconds.append((end - start) / turn.inner)
        turn.returned.append((back - start) / turn.inner)
        if first:
            turn.peak = peak_memory(self.device)

    def _product(self, precision: Precision) -> float:
        """Seconds of one large matrix product."""
        if precision not in self._products:
            product = gemm(self.device, precision)
            self._products[precision], self._flops = product.call, product.flops
            product.call()
        synchronise(self.device)
        start = time.perf_counter()
        self._products[precision]()
        synchronise(self.device)
        return time.perf_counter() - start

    def _row(self, stage: str, turn: _Turns, remark: str) -> BenchRow:
        piece = turn.piece
        if not turn.seconds:
            said = "time for the first call only"
            return _row(stage, piece, said=said, first_seconds=turn.first_seconds)
        seconds, low, high = spread(turn.seconds)
        facts: dict[str, Any] = {"seconds": seconds, "low": low, "high": high, "repetitions": len(turn.seconds), **_speed(piece, seconds)}
        if turn.products and piece.precision is not None:
            pairs = list(zip(turn.seconds, turn.products, strict=True))
            middle, least, most = spread([own / product for own, product in pairs])
            facts |= {"relative": middle, "relative_low": least, "relative_high": most}
            facts |= {"share_of": gemm_name(self.device, piece.precision)}
            facts |= {"utilisation": piece.flops / self._flops / middle} if piece.flops else {}
        facts |= {"first_seconds": turn.first_seconds} if piece.first else {}
        facts |= {"cpu_seconds": median(turn.returned)} if piece.cpu and self.device.type == "cuda" else {}
        return _row(stage, piece, said=remark, peak_memory_bytes=turn.peak, idle_share=turn.idle, **facts)


def spread(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The median, and its interval of 95 % if there are enough values for one."""
    ordered = sorted(values)
    if len(ordered) < LEAST:
        return median(ordered), None, None
    rank = rank_of(len(ordered))
    return median(ordered), ordered[rank], ordered[-1 - rank]


def idle_share(call: Callable[[], Any], device: torch.device) -> float | None:
    """The share of one call's time, from 0 to 1, in which the GPU runs nothing, by torch's profiler."""
    from torch.profiler import DeviceType, ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        spent = time.perf_counter() - start
    times = [(event.time_range.start, event.time_range.end) for event in profiler.events() if event.device_type == DeviceType.CUDA]
    busy = sum(end - start for start, end in united(times)) / 1e6
    return max(0.0, 1 - busy / spent) if times else None


def united(intervals: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The union of intervals (start, end) as disjoint ones, in order."""
    start: float | None = None
    end = 0.0
    for begin, finish in sorted(intervals):
        if start is None or begin > end:
            if start is not None:
                yield start, end
            start, end = begin, finish
        else:
            end = max(end, finish)
    if start is not None:
        yield start, end


def _row(stage: str, piece: BenchPiece, *, said: str = "", **facts: Any) -> BenchRow:
    return BenchRow(
        stage=stage, name=piece.name, precision=piece.precision, batch=piece.batch, sets_pace=piece.sets_pace, said=said, **facts
    )


def _speed(piece: BenchPiece, seconds: float) -> dict[str, float]:
    """Images, operations and bytes per second of a call."""
    facts: dict[str, float] = {}
    if piece.batch:
        facts["images_per_second"] = piece.batch / seconds
        facts |= {"flops_per_image": piece.flops / piece.batch} if piece.flops else {}
    return facts | ({"bytes_per_second": piece.moved / seconds} if piece.moved else {})


def _longest(turn: _Turns) -> float:
    return max(turn.seconds, default=turn.first_seconds)


def _why(error: BaseException) -> str:
    """The remark for a lack of memory, for a kernel that this device does not have, or for an input that a piece refuses; any other error
    is raised again."""
    text = str(error)
    if isinstance(error, BadInput):
        return text.rstrip(".")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text or "out of memory" in text:
        return "out of memory"
    if "No available kernel" in text:
        return "this device has no such kernel"
    raise error


def _clear(device: torch.device, *, graphs: bool = False) -> None:
    """Gives the memory of pieces that ended back. ``graphs``: also what torch.compile keeps of them, so that the next bout's first calls
    compile, and torch's limit of recompilations counts from zero."""
    import gc

    if graphs and "torch._dynamo" in sys.modules:  # importing it takes seconds
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s"
