"""The Frechet distance at infinitely many samples: known distances, the bias it takes away, subsets, intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import in_ranks

from svgbench.errors import NumericalError, SvgbenchError
from svgbench.machine.runtime import Runtime
from svgbench.machine.shares import shared
from svgbench.metrics.extrapolation import POINTS, at_infinity, frechet_at_infinity, subset_sizes
from svgbench.metrics.features import ImageFeatures
from svgbench.metrics.frechet import Gaussian, Moments, frechet_distance, frechet_replicates, jackknife_error, paired_replicates
from svgbench.metrics.generation import distance_scores, generation_scores
from svgbench.metrics.protocol import ImageGroup, Judge
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import Resampling

NONE = Resampling(resamples=0)
WIDTH = 16
SCALES = torch.linspace(0.4, 1.6, WIDTH).double()
REFERENCE = Gaussian(torch.zeros(WIDTH).double(), torch.eye(WIDTH).double())
KNOWN = WIDTH * 0.2**2 + ((1 - SCALES) ** 2).sum().item()
"""The distance of N(0.2, SCALES^2) from a standard normal, in closed form."""


def drawn(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * SCALES + 0.2


def of(x: torch.Tensor) -> float:
    return frechet_distance(Moments.empty(WIDTH).add(x).gaussian(), REFERENCE)


def test_a_line_over_1_over_n_is_read_at_zero():
    sizes = [10, 20, 40, 80]
    assert at_infinity(sizes, 3 + 7 / torch.tensor(sizes).double()).item() == pytest.approx(3, rel=1e-12)
    bent = torch.tensor([4.0, 3.1, 3.3, 2.9], dtype=torch.float64)
    expected = np.polyfit(1 / np.array(sizes), bent.numpy(), 1)[1]
    assert at_infinity(sizes, torch.stack([bent, bent + 1])).tolist() == pytest.approx([expected, expected + 1], rel=1e-9)


def test_on_gaussians_it_finds_the_known_distance_that_few_samples_exceed():
    many = torch.tensor([[of(x := drawn(400, seed)), frechet_at_infinity(x, REFERENCE, NONE)[0]] for seed in range(60)])
    (biased, found), errors = many.mean(0), many.std(0) / 60**0.5
    assert biased - KNOWN > 8 * errors[0]
    assert abs(found - KNOWN) < 3 * errors[1] and abs(found - KNOWN) < (biased - KNOWN) / 5


def test_its_interval_holds_the_known_distance_and_narrows_with_the_samples():
    def interval(count: int, seed: int) -> tuple[float, float]:
        value, replicates = frechet_at_infinity(drawn(count, seed), REFERENCE, Resampling(resamples=20, seed=seed))
        return Resampling(resamples=20).interval(value, replicates)

    found = [interval(400, seed) for seed in range(12)]
    assert sum(low < KNOWN < high for low, high in found) >= 9  # 12 expected of 95 %, 9 or more in 99.9 of 100 such tests
    (low, high), wide = interval(6400, 0), np.mean([high - low for low, high in found])
    assert 2 < wide / (high - low) < 8  # 4 in expectation


def test_subsets_are_those_of_the_papers_code_and_never_near_a_singular_covariance():
    assert subset_sizes(50_000, 2048) == [int(size) for size in np.linspace(5000, 50_000, POINTS).round()]
    assert subset_sizes(1000, 128)[0] == 256 and subset_sizes(1000, 128)[-1] == 1000
    assert subset_sizes(511, 128) == [] and len(subset_sizes(512, 128)) == POINTS
    assert frechet_at_infinity(drawn(63, 0), REFERENCE, NONE) is None


def features(x: torch.Tensor) -> ImageFeatures:
    return ImageFeatures(count=len(x), moments=Moments.empty(WIDTH).add(x), kept=x.float())


def test_scores_hold_it_under_its_own_protocol_beside_the_distance_of_n_samples():
    judge, group = Judge(name="net", digest="cd" * 32), ImageGroup(name="statistics", count=None, digest="ab" * 32)
    reference = Reference(group=group, gaussian=REFERENCE)
    scores = {s.metric: s for s in generation_scores(features(drawn(400, 1)), reference, judge=judge)}
    assert list(scores) == ["gfid", "gfid_infinity"]
    found = scores["gfid_infinity"]
    assert found.protocol.text == "fd-infinity-net@cdcdcdcd/statistics@abababab/balanced-400/line15-40-400/uint8-round/v1"
    assert found.low < found.value < found.high and "20 bootstrap resamples" in found.detail["interval"]
    second = distance_scores(features(drawn(400, 1)), reference, judge=judge, frechet="fd_dinov2")
    assert [s.metric for s in second] == ["fd_dinov2", "fd_dinov2_infinity"] and second[1].value == found.value
    again = generation_scores(features(drawn(400, 1)), reference, judge=judge)
    assert again[1] == found  # subsets and resamples are fixed


def test_ranks_share_the_resamples_and_get_the_bits_of_one_process():
    x, y, resampling = drawn(400, 1), drawn(400, 2), Resampling(resamples=5)
    counts, groups = resampling.counts(400), [Moments.empty(WIDTH).add(drawn(80, seed)) for seed in range(4)]

    def numbers(runtime):
        value, replicates = frechet_at_infinity(x, REFERENCE, resampling, runtime)
        others = frechet_replicates(x, REFERENCE, counts, runtime), paired_replicates(x, y, counts, runtime)
        return torch.cat([torch.tensor([value, jackknife_error(groups, REFERENCE, runtime)], dtype=torch.float64), replicates, *others])

    torch.set_num_threads(1)
    expected = numbers(None)
    assert len(expected) == 17 and len(expected.unique()) == 17

    def work():
        runtime = Runtime(device="cpu", threads=1, quiet=True).start()
        if not torch.equal(numbers(runtime), expected):
            raise SvgbenchError("other bits")
        runtime.stop()

    assert in_ranks(3, work) == [0, 0, 0]


def test_a_number_that_fails_in_one_process_ends_all():
    def work():
        runtime = Runtime(device="cpu", threads=1, quiet=True).start()

        def measure(number):
            if number == 1:
                raise NumericalError("not finite")
            return 1.0

        shared(4, measure, runtime)

    assert in_ranks(2, work) == [SvgbenchError.exit_status, NumericalError.exit_status]
