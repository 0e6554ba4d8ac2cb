"""The paper's linear layer on crops: it learns, resumes exactly, is the same on two ranks, and stands in no ranking with DINOv3's probe."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from artifacts import SmallRun
from safetensors.torch import load_file
from toys import in_child, in_ranks

from svgbench.config.paper_heads import PaperDepth, PaperProbe, PaperSegmentation
from svgbench.machine import checkpoints
from svgbench.stages import paper_depth, paper_probe, paper_segmentation


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Images and an untrained autoencoder of a run by the paper's protocol."""
    words = ("scores.protocol=paper", "scores.paper.linear={epochs: 6, batch: 35, lr: 0.03, checkpoint_images: 105}")
    run = SmallRun(tmp_path_factory.mktemp("small"), *words)
    run.make("images")
    run.autoencoder()
    return run


def probed(small, place):
    """The stage's scores and layers, made in an own directory."""
    place.mkdir(exist_ok=True)
    small.places["paper-probe-scores"] = place
    small.make("paper-probe-scores")
    return json.loads((place / "scores.json").read_text()), load_file(place / "probes.safetensors")


@pytest.fixture(scope="module")
def quiet(small, tmp_path_factory):
    """An uninterrupted run, and where it is."""
    place = tmp_path_factory.mktemp("quiet")
    return place, *probed(small, place)


def test_the_layers_learn_features_residual_and_both_on_the_concatenated_latent(quiet):
    place, scores, layers = quiet
    lines = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    assert lines[0]["features"] > 2 and lines[-1]["both"] < 0.8 * lines[0]["both"] and lines[-1]["features"] < 0.8 * lines[0]["features"]
    assert [(s["metric"], s["detail"]["latents"]) for s in scores] == [
        (metric, latents) for latents in ("features", "residual", "both") for metric in ("probe_top1", "probe_top5")
    ]
    assert layers["both.weight"].shape[1] == layers["features.weight"].shape[1] + layers["residual.weight"].shape[1] == 104
    told = scores[0]["protocol"]
    assert (told["measure"], told["reference_count"], told["count"]) == ("paper-linear-crops", 70, 30)
    assert scores[4]["value"] > 20 and scores[5]["value"] >= scores[4]["value"]  # one of ten classes


def test_a_killed_and_resumed_probe_is_that_of_the_uninterrupted_run(small, quiet, tmp_path):
    rough = tmp_path / "rough"
    assert in_child(lambda: probed(small, rough), failpoint="training.updated:8") == -signal.SIGKILL
    assert checkpoints.list_checkpoints(rough / "checkpoints") and not (rough / "scores.json").exists()
    scores, layers = probed(small, rough)
    assert scores == quiet[1] and all(torch.equal(layers[name], tensor) for name, tensor in quiet[2].items())


def test_two_ranks_give_the_same_layers_but_for_rounding(small, quiet, tmp_path):
    assert in_ranks(2, lambda: probed_by_ranks(small, tmp_path)) == [0, 0]
    layers = load_file(tmp_path / "probes.safetensors")
    for name, tensor in quiet[2].items():
        torch.testing.assert_close(layers[name], tensor, rtol=1e-3, atol=1e-4)


def probed_by_ranks(small, place):
    small.places["paper-probe-scores"] = place
    small.make("paper-probe-scores")


def test_crops_are_other_ones_at_each_position_and_come_from_the_image_that_is_labelled(small, monkeypatch):
    from svgbench.images.store import open_images

    images = open_images(small.places["images"]).train
    made = [paper_probe._crop(images, PaperProbe(area=(1.0, 1.0)), 0, 5, position) for position in range(20)]
    whole = images.images[5].numpy().transpose(1, 2, 0)
    straight = [crop for crop in made if (crop.image == whole).all()]
    assert len(made) > len(straight) > 0  # others are mirrored or of another aspect
    assert {int(crop.target) for crop in made} == {int(images.labels[5])}
    small_ones = [paper_probe._crop(images, PaperProbe(), 0, 5, position).image for position in range(3)]
    assert not (small_ones[0] == small_ones[1]).all() and not (small_ones[1] == small_ones[2]).all()


def mmcv_rate(iteration: int, *, lr: float, least: float, power: float, warmup: int, ratio: float, total: int) -> float:
    """mmcv's PolyLrUpdaterHook with linear warm-up, before the update of an iteration counted from 0."""
    regular = (lr - least) * (1 - iteration / total) ** power + least
    return regular * (1 - (1 - iteration / warmup) * (1 - ratio)) if iteration < warmup else regular


def test_the_rate_of_segmentation_is_mmcvs():
    head = PaperSegmentation()
    for iteration in (0, 1, 750, 1499, 1500, 4000, 7999):
        wanted = mmcv_rate(iteration, lr=8e-5, least=1e-6, power=0.9, warmup=1500, ratio=1e-6, total=8000)
        assert paper_segmentation.rate(head, (iteration + 1) * 16) == pytest.approx(wanted, rel=1e-9)


def test_the_rate_of_depth_is_its_sources():
    """train.py of the source: steps from 1, half of the 25 epochs rounded down is 12."""
    head, iterations = PaperDepth(), 100
    for step in (1, 300, 1199, 1200, 1201, 2399, 2400, 2450, 2500):
        share = step / iterations / 12
        wanted = (5e-4 - 3e-5) * share**0.9 + 3e-5 if step < 1200 else max(3e-5, (3e-5 - 5e-4) * (share - 1) ** 0.9 + 5e-4)
        assert paper_depth.rate(head, 24 * iterations, step * 24) == pytest.approx(wanted, rel=1e-9)
    assert paper_depth.rate(PaperDepth(epochs=1), 100, 50) == pytest.approx(5e-4)


def test_only_weights_of_the_depth_head_decay():
    from svgbench.nets.paper_heads import DeconvHead

    decays, free = paper_depth.weights_and_others(DeconvHead(3, stride=8, filters=(4,), width=4, farthest=10.0, seed=0))
    assert all(p.ndim == 4 for p in decays["params"]) and free["weight_decay"] == 0 and all(p.ndim == 1 for p in free["params"])
    assert len(decays["params"]) == 4 and len(free["params"]) == 6
