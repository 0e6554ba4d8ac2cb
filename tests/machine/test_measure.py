"""Counted work and measured speed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from svgbench.machine import measure
from svgbench.machine.measure import Stopwatch, count_flops, gemm_rate, peak_memory, utilisation


def test_one_multiply_add_counts_as_two():
    layer, rows = nn.Linear(10, 20), torch.randn(3, 10)
    assert count_flops(lambda: layer(rows)) == 2 * 3 * 10 * 20
    image, convolution = torch.randn(1, 4, 8, 8), nn.Conv2d(4, 6, 3, padding=1)
    assert count_flops(lambda: convolution(image)) == 2 * 8 * 8 * 4 * 6 * 9


def test_the_backward_pass_of_a_layer_costs_twice_its_forward():
    layer, rows = nn.Linear(10, 20), torch.randn(3, 10, requires_grad=True)
    assert count_flops(lambda: layer(rows).sum().backward()) == 3 * 2 * 3 * 10 * 20


def test_the_machine_multiplies_at_a_rate_that_is_possible():
    rate = gemm_rate(torch.device("cpu"), "fp32", seconds=0.05)
    assert 1e8 < rate < 1e14


def test_utilisation_is_the_share_of_the_rate_that_the_model_uses():
    assert utilisation(100.0, 2e9, 1e12) == pytest.approx(0.2)
    assert utilisation(100.0, 2e9, 0.0) == 0.0


def test_peak_memory_is_bytes_of_this_process():
    assert 50e6 < peak_memory(torch.device("cpu")) < 1e12


def test_the_rate_leaves_out_the_first_stretch_of_each_start_and_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    for images, seconds, pause in ((10, 50.0, False), (20, 1.0, True), (30, 1.0, False)):
        watch.go()
        now[0] += seconds
        watch.stop(images, pause=pause)
        now[0] += 100.0 if pause else 0.0  # a checkpoint is written
    assert watch.seconds == 52.0 and watch.images_per_second(30) == 10.0
    again = Stopwatch(images_seen=30, **watch.state())
    for images, seconds in ((40, 50.0), (50, 1.0)):
        again.go()
        now[0] += seconds
        again.stop(images)
    assert again.seconds == 103.0 and again.images_per_second(50) == 10.0
