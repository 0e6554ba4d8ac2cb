"""Pooled latents: the same bits by any number of processes and from kept or encoded latents, mapped from disk, and probed there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from artifacts import SmallRun
from toys import in_ranks

from svgbench.errors import BadData, BrokenArtifact, SvgbenchError
from svgbench.stages import perception, pictures, statistics
from svgbench.stages.perception import open_pooled


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run up to its pooled latents, in one process."""
    run = SmallRun(tmp_path_factory.mktemp("small"), "scores.probe.epochs=2")
    run.make("images")
    run.autoencoder()
    run.make("statistics")
    run.make("pooled-latents")
    return run


@pytest.fixture
def again(small, tmp_path, monkeypatch):
    """A new empty place for pooled latents, in blocks of 16 images."""
    monkeypatch.setattr(perception, "BLOCK", 16)
    place = tmp_path / "pooled-latents"
    place.mkdir()
    monkeypatch.setitem(small.places, "pooled-latents", place)
    return place


def test_pooled_latents_are_the_means_of_the_kept_latents(small):
    pooled = open_pooled(small.places["pooled-latents"])
    for split, count in (("train", 70), ("val", 30)):
        kept = np.load(small.places["statistics"] / f"latents.{split}.npy").mean((2, 3), dtype=np.float64)
        assert pooled.vectors[split].shape == (count, 104) and pooled.labels[split].shape == (count,)
        np.testing.assert_allclose(pooled.vectors[split].numpy(), kept, rtol=1e-5, atol=1e-6)
    assert pooled.features == 96
    assert pooled.labels["train"].equal(torch.from_numpy(np.load(small.places["images"] / "train.labels.npy")))


def test_three_processes_write_the_same_bits(small, again):
    one = small.places["statistics"].parent / "pooled-latents"
    assert in_ranks(3, lambda: small.make("pooled-latents")) == [0, 0, 0]
    for name in ("train.npy", "val.npy", "train.labels.npy", "val.labels.npy", "pooled.json"):
        assert (again / name).read_bytes() == (one / name).read_bytes()


def test_two_processes_share_the_probes_and_write_the_bytes_of_one(small, tmp_path, monkeypatch):
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
    monkeypatch.setitem(small.places, "probe-scores", places[0])
    small.make("probe-scores")
    monkeypatch.setitem(small.places, "probe-scores", places[1])
    assert in_ranks(2, lambda: small.make("probe-scores")) == [0, 0]
    one, two = ((place / "scores.json").read_bytes() for place in places)
    assert one == two and len(json.loads(one)) == 12


def test_a_probe_that_fails_in_one_process_ends_all(small, tmp_path, monkeypatch):
    def scored(*args, latents, **more):
        if latents == "residual":  # the second process's
            raise BadData("it failed")
        return []

    monkeypatch.setattr(perception, "probe_scores", scored)
    monkeypatch.setitem(small.places, "probe-scores", tmp_path)
    assert in_ranks(2, lambda: small.make("probe-scores")) == [SvgbenchError.exit_status, BadData.exit_status]


def test_three_processes_share_the_reconstructions_and_write_the_bytes_of_one(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "BLOCK", 8)
    places = [tmp_path / name for name in ("one", "three")]
    for place, world in zip(places, (1, 3), strict=True):
        place.mkdir()
        monkeypatch.setitem(small.places, "reconstructions", place)
        if world == 1:
            small.make("reconstructions")
        else:
            assert in_ranks(world, lambda: small.make("reconstructions")) == [0] * world
            assert len(list((place / "checkpoints").glob("reconstructions.*.jsonl"))) == world  # each computed blocks
    one, three = ((place / "reconstructions.npy").read_bytes() for place in places)
    assert one == three and np.load(places[0] / "reconstructions.npy").shape == (30, 3, 32, 32)


def test_latents_that_were_too_large_to_keep_are_encoded_to_the_same_bits(small, again, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "KEPT_BYTES", 0)
    bare = tmp_path / "statistics"
    bare.mkdir()
    one = small.places["statistics"].parent / "pooled-latents"
    monkeypatch.setitem(small.places, "statistics", bare)
    small.make("statistics")
    assert not list(bare.glob("latents.*"))
    small.make("pooled-latents")
    assert (again / "train.npy").read_bytes() == (one / "train.npy").read_bytes()


def test_bfloat16_is_stored_as_its_bits_and_read_as_the_nearest_values(small, again, monkeypatch):
    exact = open_pooled(small.places["statistics"].parent / "pooled-latents")
    monkeypatch.setitem(small.slices, "pooled-latents", {"scores": {"probe": {"train_images": 40, "precision": "bf16"}}})
    small.make("pooled-latents")
    pooled = open_pooled(again)
    assert np.load(again / "train.npy").dtype == np.uint16
    assert json.loads((again / "pooled.json").read_text())["stored"] == "uint16 (the bits of bfloat16)"
    assert pooled.vectors["train"].dtype == torch.bfloat16 and pooled.vectors["train"].shape == (40, 104)
    assert pooled.vectors["train"].equal(exact.vectors["train"][:40].bfloat16())
    assert pooled.labels["train"].equal(exact.labels["train"][:40])


def test_latents_that_are_not_finite_are_named_by_their_image(small, again, monkeypatch):
    def broken(*_):
        def latents(indices):
            made = torch.zeros(len(indices), 104, 4, 4)
            made[indices == 37] = torch.nan
            return made

        return latents

    monkeypatch.setattr(perception, "_latents", broken)
    with pytest.raises(BadData, match="latents of train image 37 are not finite"):
        small.make("pooled-latents")
    assert not (again / "pooled.json").exists()


def test_a_file_of_another_size_is_a_broken_artifact(small, again):
    small.make("pooled-latents")
    np.save(again / "val.npy", np.zeros((3, 104), np.float32))
    with pytest.raises(BrokenArtifact, match=r"val\.npy: holds"):
        open_pooled(again)


def test_probes_read_the_mapped_files(small):
    manifest = {"files": {f"{split}.images.npy": "ab" * 32 for split in ("train", "val")}}
    (small.places["images"] / "manifest.json").write_text(json.dumps(manifest))
    scores = json.loads((small.make("probe-scores") / "scores.json").read_text())
    assert [(s["detail"]["latents"], s["metric"]) for s in scores] == [
        (latents, metric)
        for latents in ("features", "residual", "both")
        for metric in ("probe_top1", "probe_top5", "knn_top1", "logreg_top1")
    ]
    assert all(s["count"] == 30 and s["low"] <= s["value"] <= s["high"] for s in scores)
