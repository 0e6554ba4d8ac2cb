"""The clock: turns under a budget, and what cannot be measured as a row that says why. Time and matrix products are faked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from svgbench.bench import clock
from svgbench.bench.clock import BenchPiece, Bout, Clock, spread, united
from svgbench.machine.measure import Gemm

CPU = torch.device("cpu")


class Hands:
    """A clock that moves only when a piece says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def work(self, name, seconds, first=0.0):
        """A call that takes this long, and the first time longer."""
        calls = []

        def call():
            self.now += seconds + (0.0 if calls else first)
            calls.append(name)
            self.order.append(name)

        return call


@pytest.fixture
def hands(monkeypatch):
    made = Hands()
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: made.now))
    monkeypatch.setattr(clock, "_clear", lambda device, graphs=False: None)
    monkeypatch.setattr(clock, "gemm", lambda device, kind: Gemm(made.work("product", 0.5), 100))
    return made


def measured(bout, seconds, *, free=None, rates=None, stopped=lambda: False, left=None):
    return Clock(CPU, free=lambda: free, rates=rates or {}, stopped=stopped).rows(bout, seconds, left)


def bout(*pieces, **more):
    names = tuple(piece.name for piece in pieces) or ("a",)
    return Bout(**{"stage": "diffusion", "names": names, "prepare": lambda: pieces, "weight": 1.0, **more})


def test_pieces_take_turns_until_the_time_is_used(hands):
    one = BenchPiece(name="one", call=hands.work("one", 1.0, first=9.0), precision="fp32", batch=8, flops=400.0, sets_pace=True)
    two = BenchPiece(name="two", call=hands.work("two", 2.0), moved=6)
    first, second = measured(bout(one, two), 60.0)
    assert hands.order[:8] == ["one", "two", "product", "product", "one", "two", "product", "one"]
    assert first.repetitions == second.repetitions > clock.LEAST and hands.now <= 60.0
    assert (first.seconds, first.low, first.high, first.first_seconds) == (1.0, 1.0, 1.0, 10.0)
    assert (first.images_per_second, first.flops_per_image, first.flops_per_second) == (8.0, 50.0, 400.0)
    assert first.relative == 2.0 and first.utilisation == pytest.approx(400 / 100 / 2)  # its operations take 2 s at the products' rate
    assert first.share_of == "fp32, 1024 x 1024 x 1024" and first.sets_pace and first.idle_share is None
    assert (second.bytes_per_second, second.images_per_second, second.utilisation) == (3.0, None, None)


def test_a_quick_call_is_repeated_within_a_repetition(hands):
    piece = BenchPiece(name="quick", call=hands.work("quick", 0.001))
    (row,) = measured(bout(piece), 1.0)
    assert row.seconds == pytest.approx(0.001) and hands.order.count("quick") == 1 + 20 * row.repetitions


def test_a_piece_whose_first_call_used_the_time_has_no_number(hands):
    (row,) = measured(bout(BenchPiece(name="slow", call=hands.work("slow", 5.0))), 6.0)
    assert row.seconds is None and row.first_seconds == 5.0 and row.said == "time for the first call only"
    (row,) = measured(bout(BenchPiece(name="slow", call=hands.work("slow", 5.0))), 6.0, left=20.0)  # other bouts' time serves one round
    assert row.repetitions == 1 and row.seconds == 5.0 and row.low is None


def test_what_the_plan_says_cannot_fit_is_not_begun(hands):
    never = lambda: pytest.fail("it was begun")  # noqa: E731
    (row,) = measured(bout(prepare=never, peak=200e9), 60.0, free=149 * 10**9)
    assert row.said == "does not fit: planned peak 200 GB, 149 GB are free" and row.seconds is None
    (row,) = measured(bout(prepare=never, flops=9e12), 60.0, rates={"fp32": 1e11})
    assert row.said.startswith("not begun: a call would take 100 s or more, its budget is 60 s; give more --minutes")


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
])  # fmt: skip
def test_a_lack_of_memory_is_a_row_and_the_others_go_on(hands, error):
    def fails():
        raise error

    good = BenchPiece(name="good", call=hands.work("good", 1.0))
    rows = measured(bout(BenchPiece(name="large", call=fails, batch=512), good), 30.0)
    assert {row.name: row.said for row in rows} == {"large": "out of memory", "good": ""}
    (row,) = measured(bout(prepare=fails), 30.0)
    assert row.said == "out of memory"


def test_a_missing_kernel_and_a_remark_at_the_end_are_said(hands):
    def fails():
        raise RuntimeError("No available kernel. Aborting execution.")

    piece = BenchPiece(name="good", call=hands.work("good", 1.0), after=lambda: f"{len(hands.order)} calls")
    rows = {row.name: row for row in measured(bout(BenchPiece(name="flash", call=fails), piece), 10.0)}
    assert rows["flash"].said == "this device has no such kernel"
    assert rows["good"].said == f"{1 + rows['good'].repetitions} calls" and rows["good"].repetitions > 3


def test_another_error_is_not_hidden(hands):
    def fails():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        measured(bout(BenchPiece(name="wrong", call=fails)), 30.0)


def test_a_stop_leaves_what_was_measured(hands):
    piece = BenchPiece(name="one", call=hands.work("one", 1.0))
    (row,) = measured(bout(piece), 60.0, stopped=lambda: hands.now >= 4.0)
    assert row.repetitions == 3 and row.seconds == 1.0


def test_spread_and_union():
    assert spread([3.0, 1.0, 2.0]) == (2.0, None, None)
    assert spread([float(n) for n in range(1, 11)]) == (5.5, 2.0, 9.0)
    assert list(united([(5, 6), (0, 2), (1, 3), (3, 4)])) == [(0, 4), (5, 6)]
