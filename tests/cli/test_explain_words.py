"""``explain`` on a tiny codec run, and what it refuses, in one sentence and before anything is measured."""

from __future__ import annotations

import importlib.util
import itertools
import json

import pytest
from commands import svgbench
from fake_runs import gfid, score, write
from PIL import Image

from svgbench.config.build import build

GRID = """base: smoke
run: small
set:
  encoder.card: sd-vae
  data: {train_images: 64, val_images: 24}
  diffusion.training: {total_images: 32, batch: 16, checkpoint_images: 32}
  sampling: {count: 40, steps: [1, 2, 4], guidance: [1.0]}
  scores: {resamples: 3, segmentation.enabled: false, probe: {epochs: 1, learning_rates: [0.1]}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A codec's run with fewer validation images than samples."""
    place = tmp_path_factory.mktemp("explained")
    (place / "grid.yaml").write_text(GRID)
    done = svgbench("ablate", place / "grid.yaml", "--out", place / "runs", "--threads", "1")
    assert done.returncode == 0, done.stderr
    return place / "runs"


def test_a_run_is_explained_once_and_drawn(finished):
    picture = finished / "waterfall.png"
    first = svgbench("explain", "small", "--out", finished, "--threads", "1", "--to", picture)
    assert first.returncode == 0, first.stderr
    assert "small: from real images to its samples" in first.stdout and "do not add up exactly" in first.stdout
    with Image.open(picture) as image:
        assert image.width == 1400
    again = svgbench("explain", "small", "--out", finished, "--threads", "1", "--format", "json")
    assert again.returncode == 0 and again.stderr == ""  # nothing was computed
    (found,) = json.loads(again.stdout)
    levels = {one["name"]: one for one in found["levels"]}
    assert list(levels) == ["real", "decoder", "noised", "infinite_steps", "samples", "all_samples"]
    assert {levels[name]["count"] for name in ("real", "decoder", "noised", "samples")} == {24} and levels["all_samples"]["count"] == 40
    rows = json.loads(svgbench("report", "small", "--out", finished, "--format", "json").stdout)
    scored = {row["steps"]: row for row in rows if row["metric"] == "gfid"}
    assert levels["all_samples"]["value"] == scored[4]["value"]
    assert levels["decoder"]["protocol"].startswith("fd-shapes-cnn@") and "/train-64@" in levels["decoder"]["protocol"]
    values = [one["value"] for one in found["levels"]]
    assert [one["step"] for one in found["levels"][1:]] == pytest.approx([b - a for a, b in itertools.pairwise(values)])
    assert all(0 < error < 2 for error in found["error"]["by_channel"]) and len(found["error"]["by_channel"]) == 4
    parts = {one["name"]: one for one in found["parts"]}
    assert 0 <= parts["memorised"]["value"] <= 1 and parts["memorised_control"]["count"] == 24
    assert parts["guidance"]["value"] is None and "sampling.guidance" in parts["guidance"]["how"]


def test_csv_has_a_line_for_each_number(finished):
    lines = svgbench("explain", "small", "--out", finished, "--threads", "1", "--format", "csv").stdout.splitlines()
    assert lines[0].startswith("table,row,run,column") and sum(",FD,noised," in line for line in lines) == 1


@pytest.fixture
def out(tmp_path):
    """Runs without artifacts: one with a gFID, one without."""
    config = build({}, preset="tiny").model_dump(mode="json")
    write(tmp_path / "runs" / "a", [gfid("a", 40.0)], config=config)
    write(tmp_path / "runs" / "b", [score("b", "rfid", 4.0)], config=config)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["c"], "no run named 'c'"),
        (["b"], "run 'b' has no gfid to explain; run its command again"),
        (["a"], "run 'a' has no finished samples at 25 steps and guidance 1; run its command again"),
        (["a", "--to", "x.svg"], "--to x.svg must end in .png"),
        (["a", "--to", "."], "is a directory, not a file that can be written"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(out, words, sentence):
    done = svgbench("explain", *words, "--out", out)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (out / "store" / "explanation").exists()


def test_a_figure_without_its_package_names_the_extra(out, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    done = svgbench("explain", "a", "--out", out, "--to", "x.png")
    assert done.returncode == 2 and "pip install 'svgbench[figures]'" in done.stderr
