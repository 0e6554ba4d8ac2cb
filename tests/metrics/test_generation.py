"""IS, KID, precision and recall against torch-fidelity's own functions on the same features."""

from __future__ import annotations

import pytest
import torch

from svgbench.config.records import SamplingProtocol
from svgbench.errors import BadData
from svgbench.metrics.features import ImageFeatures
from svgbench.metrics.frechet import Moments, frechet_distance
from svgbench.metrics.generation import check_counts, distance_scores, generation_scores, inside, kernel_distance
from svgbench.metrics.inception_score import ClassSums, inception_replicates
from svgbench.metrics.protocol import ImageGroup, Judge
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import Resampling, chosen


def drawn(count: int, seed: int = 0, shift: float = 0.0, width: int = 16) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


GROUP = ImageGroup(name="train", count=600, digest="ab" * 32)
JUDGE = Judge(name="net", digest="cd" * 32)


def features(x: torch.Tensor, logits=None, *, keep: int | None = None, spatial=None) -> ImageFeatures:
    """What a pass over images with these features and logits would leave; spatial features in ten groups."""
    rows = chosen(len(x) if keep is None else keep, len(x))
    classes = None if logits is None else ClassSums.empty(len(x), logits.shape[1]).add(logits, 0)
    groups = () if spatial is None else tuple(Moments.empty(spatial.shape[1]).add(spatial[g::10]) for g in range(10))
    kept_logits = None if logits is None else logits[rows]
    return ImageFeatures(
        count=len(x), moments=Moments.empty(x.shape[1]).add(x), kept=x[rows], logits=kept_logits, classes=classes, spatial=groups
    )  # fmt: skip


def score_all(samples: ImageFeatures, reference: ImageFeatures | Reference, **more):
    against = reference if isinstance(reference, Reference) else Reference.of(reference, GROUP)
    return {s.metric: s for s in generation_scores(samples, against, judge=JUDGE, **more)}


def test_inception_score_equals_torch_fidelitys():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = drawn(237, width=12) * 2
    sums = ClassSums.empty(237, 12)
    for start in (0, 100, 200):
        sums.add(logits[start : start + 100], start)
    assert sums.score() == pytest.approx(isc_features_to_metric(logits)["inception_score_mean"], rel=1e-9)


def test_inception_score_of_certain_and_balanced_classes_is_their_number():
    logits = torch.eye(5).repeat(20, 1) * 100
    parts = ClassSums.empty(100, 5).parts
    each_part_balanced = torch.empty(100, dtype=torch.int64)
    for part in range(10):
        each_part_balanced[parts == part] = torch.arange(10)
    assert inception_replicates(logits, each_part_balanced[None]).item() == pytest.approx(5.0)


def test_the_interval_of_an_inception_score_is_of_the_same_ten_part_statistic_as_the_value():
    logits = drawn(130, width=6) * 3
    draws = Resampling(resamples=4, seed=3).draws(130)
    expected = [ClassSums.empty(130, 6).add(logits[rows], 0).score() for rows in draws]
    assert inception_replicates(logits, draws).tolist() == pytest.approx(expected, rel=1e-12)
    one_part = [(x := logits[rows].double().softmax(1), (x * (x / x.mean(0)).log()).sum(1).mean().exp().item())[1] for rows in draws]
    assert min(b - a for a, b in zip(expected, one_part, strict=True)) > 0.1  # of all together is another statistic
    assert "each of 10 parts" in score_all(features(drawn(130), logits), features(drawn(150)))["is"].detail["interval"]


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


def test_precision_and_recall_of_ten_thousand_against_fifty_thousand_in_small_are_adms():
    """By another implementation: nearest neighbours of scikit-learn, float64, in the proportion of ADM's evaluator: 1 reference image to 5
    samples, all of both."""
    from scipy.spatial.distance import cdist
    from sklearn.neighbors import NearestNeighbors

    samples, real = drawn(500, shift=0.6, width=4), drawn(100, seed=1, width=4)

    def balls(centres):
        return NearestNeighbors(n_neighbors=4).fit(centres).kneighbors(centres)[0][:, 3]  # the first is the point itself

    x, y = samples.double().numpy(), real.double().numpy()
    between = cdist(x, y)
    precision, recall = (between <= balls(y)[None, :]).any(1).mean(), (between <= balls(x)[:, None]).any(0).mean()
    beside = ImageGroup(name="images", count=100, digest="ef" * 32)
    statistics = ImageGroup(name="statistics", count=None, digest="ef" * 32)
    reference = Reference(group=statistics, gaussian=features(drawn(400, seed=2, width=4)).moments.gaussian(), kept=real, kept_group=beside)
    scores = score_all(features(samples), reference)
    assert (scores["precision"].value, scores["recall"].value) == (pytest.approx(precision), pytest.approx(recall))
    assert 0.5 < precision < 0.95 and abs(recall - precision) > 0.02
    assert scores["precision"].protocol.text == "pr-net@cdcdcdcd/images-100@efefefef/balanced-500/k3-500x100/uint8-round/v1"
    assert "statistics@efefefef" in scores["gfid"].protocol.text and "images-100@efefefef" in scores["kid"].protocol.text


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
    samples = features(drawn(200, shift=0.3), drawn(200, seed=5, width=7), spatial=drawn(200, seed=6))
    how = SamplingProtocol(sampler="euler", steps=25, guidance=1.0, shift=0.15)
    scores = score_all(samples, features(drawn(600, seed=1), spatial=drawn(600, seed=7)), sampling=how)
    assert list(scores) == ["gfid", "gfid_infinity", "sfid", "is", "kid", "precision", "recall"]
    made = "fd-net@cdcdcdcd/train-600@abababab/balanced-200/uint8-round/euler-shift0.15-25steps-guidance1/v1"
    assert scores["gfid"].protocol.text == made
    assert len({s.protocol.text for s in scores.values()}) == 6
    for score in scores.values():
        assert score.low <= score.value <= score.high
        assert score.count == 200 and score.protocol.sampling.steps == 25
        assert ("jackknife" if score.metric == "sfid" else "bootstrap") in score.detail["interval"]
    assert "reference images" in scores["recall"].detail["interval"]


def test_scores_against_bare_statistics_are_those_that_need_no_more():
    bare = Reference(group=GROUP, gaussian=features(drawn(60)).moments.gaussian())
    assert list(score_all(features(drawn(50)), bare)) == ["gfid"]
    assert list(score_all(features(drawn(50), drawn(50, width=5), spatial=drawn(50)), bare)) == ["gfid", "is"]


def test_few_samples_are_marked_singular():
    assert score_all(features(drawn(12)), features(drawn(60)))["gfid"].detail["singular"] is True


def test_without_resamples_there_is_no_interval():
    scores = score_all(features(drawn(50)), features(drawn(60)), resampling=Resampling(resamples=0))
    assert scores["gfid"].low is None and scores["gfid"].detail["interval"] == "none"


def test_an_interval_from_a_part_of_the_samples_is_as_wide_as_one_from_all():
    x, logits, reference = drawn(2000, shift=0.5), drawn(2000, seed=5, width=7), features(drawn(3000, seed=1))
    how = {"resampling": Resampling(resamples=200)}
    whole, part = score_all(features(x, logits), reference, **how), score_all(features(x, logits, keep=500), reference, **how)
    for metric in ("gfid", "is"):
        assert part[metric].value == whole[metric].value and part[metric].protocol == whole[metric].protocol
        width = [scores[metric].high - scores[metric].low for scores in (whole, part)]
        assert width[1] / width[0] == pytest.approx(1, abs=0.3)
        assert "500 of 2000 samples" in part[metric].detail["interval"]
    assert "k3-500x500" in part["precision"].protocol.text and part["precision"].count == 2000


def test_a_second_extractor_is_asked_for_its_distance_alone_and_by_its_own_name():
    found = distance_scores(features(drawn(50)), Reference.of(features(drawn(60)), GROUP), judge=JUDGE, frechet="fd_dinov2")
    assert [score.metric for score in found] == ["fd_dinov2"]
    assert found[0].value == frechet_distance(features(drawn(50)).moments.gaussian(), features(drawn(60)).moments.gaussian())


def test_the_spatial_distance_is_that_of_all_groups_together():
    samples, reference = features(drawn(90), spatial=drawn(90, shift=1)), features(drawn(80), spatial=drawn(80, seed=1))
    whole = Moments.empty(16).add(drawn(90, shift=1)).gaussian()
    expected = frechet_distance(whole, Moments.empty(16).add(drawn(80, seed=1)).gaussian())
    found = score_all(samples, reference)["sfid"]
    assert found.value == pytest.approx(expected, rel=1e-12) and found.protocol.text.startswith("fd-spatial-net@")
    assert score_all(samples, reference, resampling=Resampling(resamples=0))["sfid"].low is None


@pytest.mark.parametrize(
    "counts, words",
    [
        ({"samples": 9, "neighbours": 3}, "there are 9 samples, and an Inception score over 10 parts needs 10 or more"),
        ({"samples": 3, "neighbours": 3, "classes": False}, "there are 3 samples, and precision and recall by neighbour 3 need 4"),
        ({"samples": 1, "neighbours": 1, "classes": False}, "there are 1 samples, and a Frechet distance needs 2"),
        ({"samples": 20, "reference": 3, "neighbours": 3}, "there are 3 reference images"),
    ],
)
def test_fewer_images_than_a_metric_needs_are_refused(counts, words):
    with pytest.raises(BadData, match=words):
        check_counts(**counts)


def test_scores_refuse_too_few_samples_too():
    with pytest.raises(BadData, match="Inception score"):
        score_all(features(drawn(8), drawn(8, width=3)), features(drawn(60)))
    with pytest.raises(BadData, match="needs 10 images"):
        ClassSums.empty(8, 3).add(drawn(8, width=3), 0).score()
