"""Every real stage, killed or stopped anywhere, ends with the bytes of the uninterrupted one. ``SVGBENCH_SOAK=HOURS`` kills for so long."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import ade20k, nyu
from steps import Steps, small_blocks
from toys import in_child, in_ranks

from svgbench.errors import Interrupted
from svgbench.machine.signals import name_of
from svgbench.stages import graph

STAGES = (
    "images", "references", "originals", "autoencoder", "statistics", "diffusion", "samples", "reconstructions",
    "reconstruction-scores", "generation-scores", "pooled-latents", "probe-scores", "segmentation-scores",
    "dense-segmentation-scores", "depth-scores", "overview",
)  # fmt: skip
BLOCKED = {
    "references": 9, "originals": 6, "statistics": 15, "samples": 5, "reconstructions": 6, "reconstruction-scores": 12,
    "generation-scores": 5, "pooled-latents": 15, "dense-segmentation-scores": 2, "depth-scores": 2,
}  # fmt: skip
"""Stages that work in blocks, and how many they have here."""
HEAD = "{total_images: 32, batch: 8, lr: 0.05, lr_warmup_images: 8, checkpoint_images: 16"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nobody disturbed, with both kinds of dense prediction, and the seconds of each stage."""
    root = tmp_path_factory.mktemp("steps")
    for module in ("timm", "torch_fidelity", "scipy.linalg", *(stage.worker.partition(":")[0] for stage in graph.STAGES)):
        importlib.import_module(module)  # so that the seconds are those of a child, which need not import them
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        own = Steps(root / "own")
        dense = Steps(
            root / "dense", f"scores.segmentation.source={ade20k(root / 'ade')}", f"scores.depth.source={nyu(root / 'nyu')}",
            f"scores.segmentation.head={HEAD}, classes: 4, crop: 32, stride: 21}}",
            f"scores.depth.head={HEAD}, bins: 16, crop: [32, 48]}}",
        )  # fmt: skip
        seconds = {}
        for steps in (own, dense):
            steps.seconds = seconds
            if steps is dense:
                (root / "dense" / "store").symlink_to(root / "own" / "store")
            for stage in dict.fromkeys(node.stage for node in steps.nodes):
                begun = time.monotonic()
                if steps.run(stage):
                    seconds[stage] = time.monotonic() - begun
        yield {stage: dense if "dense" in stage or "depth" in stage else own for stage in STAGES}


def trial(finished: dict[str, Steps], stage: str, place: Path) -> Steps:
    """A store in which only this stage is to be done."""
    steps = Steps(place, finished=finished[stage])
    steps.link(stage)
    return steps


def killed_at_random(finished: dict[str, Steps], stage: str, place: Path, moments: random.Random, kills: int) -> int:
    """Kills a stage so often at random moments, lets it end, compares; gives how many kills met it at work."""
    steps, met = trial(finished, stage, place), 0
    for _ in range(kills):
        status = in_child(lambda: steps.run(stage), kill_after=moments.uniform(0, 1.1 * finished[stage].seconds[stage]))
        assert status in (0, -signal.SIGKILL)
        met += status != 0
    assert in_child(lambda: steps.run(stage)) == 0
    assert steps.artifact(stage) == finished[stage].artifact(stage)
    times = steps.times_computed()
    assert sum(times.values()) - len(times) <= met
    return met


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in BLOCKED])
def test_a_stage_killed_at_random_ends_with_the_bytes_of_the_quiet_one(finished, tmp_path, stage):
    killed_at_random(finished, stage, tmp_path / "trial", random.Random(stage), 1)


@pytest.mark.skipif("SVGBENCH_SOAK" not in os.environ, reason="hours are given in SVGBENCH_SOAK")
def test_every_stage_is_killed_for_hours(finished, tmp_path):
    moments, end = random.Random(0), time.monotonic() + 3600 * float(os.environ["SVGBENCH_SOAK"])
    kills, trials = dict.fromkeys(STAGES, 0), 0
    while time.monotonic() < end:
        for stage in STAGES:
            kills[stage] += killed_at_random(finished, stage, tmp_path / "trial", moments, 4)
            shutil.rmtree(tmp_path / "trial")
            trials += 1
    sys.stdout.write(f"\n{trials} trials, {sum(kills.values())} kills met a stage at work, 0 violations: {kills}\n")


@pytest.mark.parametrize("stage", BLOCKED)
def test_a_killed_stage_computes_no_finished_block_again(finished, tmp_path, stage):
    steps, blocks = trial(finished, stage, tmp_path), BLOCKED[stage]
    point = f"blocks.rows:{(blocks + 2) // 2}"
    assert in_child(lambda: steps.run(stage), failpoint=point) == -signal.SIGKILL
    assert in_child(lambda: steps.run(stage)) == 0
    assert steps.artifact(stage) == finished[stage].artifact(stage)
    assert sorted(steps.times_computed().values()) == [1] * (blocks - 1) + [2]  # the rows without their line in the journal


def test_samples_killed_in_every_block_are_drawn_once_but_for_the_blocks_in_hand(finished, tmp_path):
    steps, deaths = trial(finished, "samples", tmp_path), 0
    while in_child(lambda: steps.run("samples"), failpoint="blocks.rows:2") == -signal.SIGKILL:
        deaths += 1
    assert deaths == 4 and steps.artifact("samples") == finished["samples"].artifact("samples")
    assert sorted(steps.times_computed().values()) == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("stage", ["probe-scores", "segmentation-scores"])
def test_a_probe_killed_at_every_state_it_saves_ends_with_the_scores_of_the_quiet_one(finished, tmp_path, stage):
    steps, deaths = trial(finished, stage, tmp_path), 0
    while in_child(lambda: steps.run(stage), failpoint="steps.saved:3") == -signal.SIGKILL:
        deaths += 1
    assert deaths >= {"probe-scores": 12, "segmentation-scores": 1}[stage]
    assert steps.artifact(stage) == finished[stage].artifact(stage)


@pytest.mark.parametrize("point", ["file.before_rename", "file.renamed", "tree.renamed"])
@pytest.mark.parametrize("stage", ["samples", "generation-scores"])
def test_a_kill_at_any_write_of_a_commit_costs_no_block(finished, tmp_path, stage, point):
    steps, kills, number = trial(finished, stage, tmp_path), 0, 1
    while in_child(lambda: steps.run(stage), failpoint=f"{point}:{number}") == -signal.SIGKILL:
        kills, number = kills + 1, number + 1
    assert kills > 0 and steps.artifact(stage) == finished[stage].artifact(stage)
    assert set(steps.times_computed().values()) <= {1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("stage", ["samples", "references"])
def test_a_signal_ends_the_block_in_hand_at_once_and_keeps_the_finished_ones(finished, tmp_path, monkeypatch, stage, number):
    from svgbench.metrics.features import Extractor
    from svgbench.stages.samples import Generator

    steps, kind, name = trial(finished, stage, tmp_path), *((Generator, "batches") if stage == "samples" else (Extractor, "__call__"))
    original, calls = getattr(kind, name), []

    def slow(self, *words, **more):
        calls.append(time.monotonic())
        if len(calls) == 4:
            os.kill(os.getpid(), number)
            for _ in range(200):
                time.sleep(0.1)  # a long block
        return original(self, *words, **more)

    monkeypatch.setattr(kind, name, slow)
    saved = "24 of 40" if stage == "samples" else "16 of 70"  # the first call of an extractor asks its widths
    with pytest.raises(Interrupted, match=rf"stopped by {name_of(number)} after {saved} images, which are saved"):
        steps.run(stage)
    assert time.monotonic() - calls[-1] < 5
    steps.run(stage)
    assert steps.artifact(stage) == finished[stage].artifact(stage)
    assert sorted(steps.times_computed().values())[-2:] == [1, 2]


def test_ranks_that_were_killed_are_gone_on_with_by_any_number_of_ranks(finished, tmp_path):
    for stage, world in (("samples", 1), ("references", 1), ("pooled-latents", 3)):
        steps = trial(finished, stage, tmp_path / stage)
        statuses = in_ranks(2, lambda: steps.work(stage), failpoints={1: "blocks.rows:2"})  # noqa: B023
        assert all(statuses) and len(set(steps.times_computed())) >= 3
        begun = len(steps.times_computed())
        assert in_ranks(world, lambda: steps.run(stage)) == [0] * world  # noqa: B023
        assert steps.artifact(stage) == finished[stage].artifact(stage)
        times = steps.times_computed()
        assert sum(times.values()) - len(times) <= 2 and len(times) > begun


def test_a_reference_that_is_a_folder_of_images_goes_on_too(finished, tmp_path):
    random_ = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        Image.fromarray(random_.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    quiet, rough = (Steps(tmp_path / name, f"scores.reference={tmp_path / 'pictures'}") for name in ("quiet", "rough"))
    for steps in (quiet, rough):
        (steps.root / "store").mkdir()
        (steps.root / "store" / "images").symlink_to(finished["images"].root / "store" / "images")
    quiet.run("references")
    assert in_child(lambda: rough.run("references"), failpoint="blocks.rows:3") == -signal.SIGKILL
    rough.run("references")
    assert rough.artifact("references") == quiet.artifact("references")
    assert sorted(rough.times_computed().values()) == [1, 1, 2]
