"""IS, KID, precision and recall against torch-fidelity's own functions on the same features."""

from __future__ import annotations

import pytest
import torch

from svgbench.config.records import SamplingProtocol
from svgbench.errors import BadData
from svgbench.metrics.features import Features
from svgbench.metrics.frechet import Moments
from svgbench.metrics.generation import generation_scores, inception_replicates, inception_score, inside, kernel_distance
from svgbench.metrics.protocol import ImageGroup, Judge
from svgbench.metrics.resampling import Resampling, chosen


def drawn(count: int, seed: int = 0, shift: float = 0.0, width: int = 16) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def features(x: torch.Tensor, logits: torch.Tensor | None = None) -> Features:
    return Features(count=len(x), moments=Moments.empty(x.shape[1]).add(x), kept=x, logits=logits)


def score_all(samples: Features, reference, **more):
    group = ImageGroup(name="train", count=600, digest="ab" * 32)
    return {
        s.metric: s
        for s in generation_scores(samples, reference, judge=Judge(name="net", digest="cd" * 32), reference_images=group, **more)
    }


def test_inception_score_equals_torch_fidelitys():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = drawn(237, width=12) * 2
    assert inception_score(logits) == pytest.approx(isc_features_to_metric(logits)["inception_score_mean"], rel=1e-9)


def test_inception_score_of_certain_and_balanced_classes_is_their_number():
    logits = torch.eye(5).repeat(20, 1) * 100
    assert inception_replicates(logits, torch.ones(1, 100).double()).item() == pytest.approx(5.0)


def test_kernel_distance_equals_torch_fidelitys_on_one_full_subset():
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = drawn(150).double(), drawn(150, seed=1, shift=0.2).double()
    expected = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=150, verbose=False)["kernel_inception_distance_mean"]
    assert kernel_distance(x, y, block=64)[0] == pytest.approx(expected, rel=1e-9)


def test_resampled_kernel_distances_with_every_image_once_are_the_distance():
    x, y = drawn(60), drawn(90, seed=1)
    value, again = kernel_distance(x, y, torch.ones(2, 60).double(), block=17)
    assert again.tolist() == pytest.approx([value, value], rel=1e-12)


def test_kernel_distance_of_the_same_distribution_is_zero_on_average():
    values = torch.tensor([kernel_distance(drawn(80, seed=s), drawn(80, seed=s + 500))[0] for s in range(60)])
    assert abs(values.mean()) < 3 * values.std() / 60**0.5


def test_precision_and_recall_equal_torch_fidelitys():
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = drawn(300, width=4), drawn(300, seed=1, shift=0.7, width=4)
    expected = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=10000, save_cpu_ram=False, verbose=False)
    assert inside(x, y, 3, block=64).double().mean().item() == pytest.approx(expected["precision"], abs=0.005)
    assert inside(y, x, 3, block=64).double().mean().item() == pytest.approx(expected["recall"], abs=0.005)


def test_samples_far_from_the_reference_have_no_precision_and_no_recall():
    assert not inside(drawn(50), drawn(50, shift=100), 3).any()
    with pytest.raises(BadData, match="neighbour"):
        inside(drawn(5), drawn(3), 3)


@pytest.mark.parametrize("labels", [torch.arange(9600) % 12, torch.arange(9600) // 800])
def test_a_choice_of_the_reference_holds_every_class_in_whatever_order_they_stand(labels):
    found = labels[chosen(4800, 9600)].bincount(minlength=12)
    assert found.sum() == 4800 and (found - 400).abs().max() < 80
    assert chosen(5, 3).tolist() == [0, 1, 2]


def test_scores_carry_interval_count_protocol_and_detail():
    samples, reference = features(drawn(200, shift=0.3), drawn(200, seed=5, width=7)), features(drawn(600, seed=1))
    scores = score_all(samples, reference, sampling=SamplingProtocol(sampler="euler", steps=25, guidance=1.0, shift=0.15))
    assert list(scores) == ["gfid", "is", "kid", "precision", "recall"]
    assert scores["gfid"].protocol.text == (
        "fd-net@cdcdcdcd/train-600@abababab/balanced-200/uint8-round/euler-shift0.15-25steps-guidance1/v1"
    )
    assert len({s.protocol.text for s in scores.values()}) == 4
    for score in scores.values():
        assert score.low <= score.value <= score.high
        assert score.count == 200 and score.protocol.sampling.steps == 25 and "bootstrap" in score.detail["interval"]
    assert "reference images" in scores["recall"].detail["interval"]


def test_scores_against_bare_statistics_are_those_that_need_no_more():
    assert list(score_all(features(drawn(50)), features(drawn(60)).moments.gaussian())) == ["gfid"]


def test_few_samples_are_marked_singular():
    assert score_all(features(drawn(12)), features(drawn(60)))["gfid"].detail["singular"] is True


def test_without_resamples_there_is_no_interval():
    scores = score_all(features(drawn(50)), features(drawn(60)), resampling=Resampling(resamples=0))
    assert scores["gfid"].low is None and scores["gfid"].detail["interval"] == "none"


def test_samples_that_lost_features_are_refused():
    partly = Features(count=50, moments=Moments.empty(16).add(drawn(50)), kept=drawn(20), logits=None)
    with pytest.raises(BadData, match="keep all"):
        score_all(partly, features(drawn(60)))
