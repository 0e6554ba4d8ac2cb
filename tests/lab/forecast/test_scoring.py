"""The arithmetic of scores as planned: products as counted by torch, and times of the order that a finished run needed."""

from __future__ import annotations

import pytest
import torch

from svgbench.config.build import build
from svgbench.config.scoring import Probe
from svgbench.lab.forecast import scoring
from svgbench.lab.forecast.estimate import estimate
from svgbench.lab.forecast.sizes import Counts, sizes_of
from svgbench.lab.forecast.speed import CORE, Pace
from svgbench.machine.measure import count_flops
from svgbench.metrics import features, frechet, generation, logistic
from svgbench.metrics.probe import knn, linear_probe
from svgbench.metrics.resampling import Resampling

TWO_CORES = Pace(0, {name: 2 * rate for name, rate in CORE.items()}, "")
FINISHED = {"probe-scores": 10.6, "segmentation-scores": 3.1}
"""Seconds that stages of a finished run of the preset tiny took on one thread of a busy 2-core machine, by their manifests."""


def test_the_limits_are_those_of_the_metrics():
    assert (scoring.KERNEL_IMAGES, scoring.GROUPS) == (generation.KERNEL_IMAGES, features.GROUPS)


@pytest.mark.parametrize("stage", FINISHED)
def test_the_tiny_preset_s_probes_are_planned_at_the_order_of_a_finished_run(stage):
    config = build({}, preset="tiny")
    sizes = sizes_of(config, Counts(10_000, 2_000, 10))
    planned = TWO_CORES.seconds(estimate(stage, {}, sizes), stage)
    assert FINISHED[stage] / 3 < planned < FINISHED[stage] * 3


def test_products_of_the_probes_are_those_that_torch_counts():
    width, train, val, classes = 40, 2_000, 500, scoring.THIN
    settings = Probe(epochs=3, learning_rates=(0.1, 1.0), logreg_c=(0.1,), logreg_iterations=5)
    x, y = torch.randn(train, width), torch.arange(train) % classes
    sets = x, y, torch.randn(val, width), torch.arange(val) % classes
    counted = count_flops(lambda: linear_probe(*sets, settings)) + count_flops(lambda: knn(*sets, settings.neighbours))
    planned = scoring.probes(width, train, val, classes, settings.model_copy(update={"logreg_iterations": 0}))
    assert planned.operations == pytest.approx(counted, rel=0.25)  # the choice of the learning rate is not planned
    sweep = count_flops(lambda: logistic.logistic_regression(*sets, settings.logreg_c, iterations=settings.logreg_iterations))
    evaluations = sweep / (4 * width * classes * train)
    assert 0.5 < (settings.logreg_iterations * 2) / evaluations < 2


@pytest.mark.parametrize("paired", [False, True])
def test_products_of_a_frechet_distance_are_those_that_torch_counts(paired):
    images, width, resamples = 300, 24, 4
    x, y = torch.randn(images, width), torch.randn(images, width)
    reference, counts = frechet.Moments.empty(width).add(y).gaussian(), Resampling(resamples=resamples).counts(images)
    made = frechet.paired_replicates if paired else frechet.frechet_replicates
    counted = count_flops(lambda: made(x, y if paired else reference, counts))
    drawn = 0.63  # share of the images that a resample holds
    products = resamples * ((2 if paired else 1) * drawn * 2 * images * width**2 + 4 * width**3)
    assert counted == pytest.approx(products, rel=0.15)
    assert scoring.frechet(images, width, resamples, paired=paired) > counted


def test_products_of_a_kernel_distance_and_of_precision_and_recall_are_those_that_torch_counts():
    samples, reference, width = 300, 400, 24
    x, y = torch.randn(samples, width), torch.randn(reference, width)
    counts = Resampling(resamples=4).counts(samples)
    counted = count_flops(lambda: generation.kernel_distance(x, y, counts))
    assert scoring.kernel(samples, reference, width, 4) / scoring.DOUBLE == pytest.approx(counted, rel=0.1)
    assert scoring.precision_recall(samples, reference, width) == 2 * width * 4 * samples**2


def test_more_images_classes_and_resamples_cost_more():
    few = scoring.probes(100, 1_000, 100, 100, Probe())
    assert scoring.probes(100, 2_000, 100, 100, Probe()).operations > 1.9 * few.operations
    assert scoring.probes(100, 1_000, 100, 200, Probe()).operations > 1.9 * few.operations
    assert scoring.frechet(1_000, 64, 50) == 51 * scoring.frechet(1_000, 64, 0)
