"""``svgbench import``: official files become runs that sample, and that every metric and grid accepts."""

from __future__ import annotations

import argparse
import json
import os

import commands
import pytest
import torch
import yaml
from official import ldm, rae
from plain_transformers import release
from safetensors.torch import load_file, save_file

from svgbench.cli.imports import CODECS, PARTS
from svgbench.releases.open import KINDS
from svgbench.releases.settings import SETTINGS

SMALL = ("data.train_images=48", "data.val_images=24", "sampling.count=24", "sampling.steps=[2]", "sampling.guidance=[1.0, 2.0]",
         "scores.resamples=3", "scores.probe.epochs=1", "scores.segmentation.enabled=false")  # fmt: skip


def svgbench(*words, status=0):
    """What the command said."""
    done = commands.svgbench(*words)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A SiT of random weights on the tiny SD-VAE, and the files it came from."""
    place = tmp_path_factory.mktemp("imported")
    torch.manual_seed(0)
    torch.save({"ema": release("sit", width=64, depth=2, channels=4, grid=8, patch=2)}, place / "sit.pt")
    (place / "sit.yaml").write_text("num_heads: 4\n")
    svgbench("import", "sit", place / "sit.pt", "--name", "mine", "--encoder", "sd-vae", "--config", place / "sit.yaml", "--preset", "tiny",
             "--out", place / "runs")  # fmt: skip
    return place


def test_an_imported_run_draws_samples(imported):
    sheet = imported / "sheet.png"
    svgbench("sample", "mine", "--to", sheet, "--labels", "1,2", "--steps", "2", "--out", imported / "runs")
    assert sheet.stat().st_size > 1000


@pytest.mark.slow
def test_every_metric_and_a_grid_accept_an_imported_run(imported):
    """The release's scale stands for statistics, nothing is trained, and cells of a grid on it differ where the grid says."""
    grid = imported / "grid.yaml"
    grid.write_text(yaml.safe_dump({"base": str(imported / "runs/mine/experiment.yaml"), "axes": {"sampling.shift": [1.0, 0.5]}}))
    svgbench("ablate", grid, "--out", imported / "runs", "--threads", 1, *(word for s in SMALL for word in ("--set", s)))
    rows = json.loads(svgbench("report", "--out", imported / "runs", "--format", "json").split("]\n")[0] + "]")
    runs = {row["run"] for row in rows}
    assert len(runs) == 2 and all(run.startswith("mine.sampling-shift-") for run in runs)
    assert {"gfid", "rfid", "psnr", "probe_top1"} <= {row["metric"] for row in rows}
    stages = {path.parent.name for path in (imported / "runs" / "store").glob("*/*") if path.is_dir()}
    assert "imported-diffusion" in stages and not stages & {"diffusion", "autoencoder", "statistics"}
    (stats,) = (imported / "runs/store/imported-statistics").glob("*/statistics.safetensors")
    assert load_file(stats)["std"].tolist() == pytest.approx([1 / 0.18215] * 4)


def test_a_decoder_of_rae_joins_the_encoder_it_is_for_and_statistics_join_the_run(imported, tmp_path):
    save_file(rae(channels=96, width=32, grid=4, patch=8), tmp_path / "decoder.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"decoder_num_attention_heads": 4}))
    where = ("--out", tmp_path / "runs", "--preset", "tiny")
    svgbench("import", "rae-decoder", tmp_path / "decoder.safetensors", "--name", "rae", "--encoder", "dinov2",
             "--config", tmp_path / "config.json", *where)  # fmt: skip
    torch.save({"mean": torch.zeros(96, 4, 4), "var": torch.ones(96, 4, 4)}, tmp_path / "stats.pt")
    torch.save(release("ddt", width=64, depth=4, channels=96, wide=384), tmp_path / "ddt.pt")
    (tmp_path / "ddt.json").write_text(json.dumps({"num_heads": [4, 6]}))
    files = ("--statistics", tmp_path / "stats.pt", "--config", tmp_path / "ddt.json")
    svgbench("import", "ddt", tmp_path / "ddt.pt", "--name", "rae", *files, *where)
    said = yaml.safe_load((tmp_path / "runs/rae/config.yaml").read_text())
    assert said["diffusion"]["release"]["config"] == {"noise_at": 1, "num_heads": [4, 6]}
    assert said["autoencoder"]["release"]["kind"] == "rae-decoder"
    svgbench("sample", "rae", "--to", tmp_path / "s.png", "--labels", "1", "--steps", "2", "--out", tmp_path / "runs")


def test_what_did_not_fit_is_not_remembered_and_another_transformer_brings_its_own_sampling(imported, tmp_path):
    where = ("--out", tmp_path / "runs", "--preset", "tiny", "--config", imported / "sit.yaml")
    first = ("import", "sit", imported / "sit.pt", "--name", "x", "--encoder", "sd-vae", *where)
    torch.save({"mean": torch.zeros(1, 7, 1, 1), "std": torch.ones(1, 7, 1, 1)}, tmp_path / "wrong.pt")
    said = svgbench(*first, "--statistics", tmp_path / "wrong.pt", status=2)
    assert "7 channels, the latents have 4" in said and not (tmp_path / "runs/x/experiment.yaml").exists()
    svgbench(*first)
    assert yaml.safe_load((tmp_path / "runs/x/experiment.yaml").read_text())["set"]["sampling"]["guided_channels"] == 3
    torch.save(release("lightningdit", width=64, depth=2, channels=4, grid=8), tmp_path / "other.pt")
    torch.save({"mean": torch.zeros(1, 4, 1, 1), "std": torch.ones(1, 4, 1, 1)}, tmp_path / "stats.pt")
    svgbench("import", "lightningdit", tmp_path / "other.pt", "--name", "x", "--statistics", tmp_path / "stats.pt", *where)
    said = yaml.safe_load((tmp_path / "runs/x/experiment.yaml").read_text())["set"]
    assert said["diffusion"]["release"]["kind"] == "lightningdit" and said["sampling"]["schedule"] == "interval-0.11-1"
    assert said["latents"] == {"statistics": str(tmp_path / "stats.pt"), "scale": None}


def test_the_command_knows_every_kind_that_opens():
    assert {*PARTS, *CODECS} == set(KINDS) and set(SETTINGS) <= set(PARTS)


def test_what_cannot_be_joined_is_refused_in_a_sentence(imported, tmp_path):
    where = ("--out", tmp_path / "runs", "--preset", "tiny")
    sit = imported / "sit.pt"
    said = svgbench("import", "sit", sit, "--name", "x", *where, status=2)
    assert "name it: --encoder CARD" in said
    said = svgbench("import", "sot", sit, "--name", "x", *where, status=2)
    assert "Did you mean 'sit'" in said
    said = svgbench("import", "sit", tmp_path / "no.pt", "--name", "x", *where, status=2)
    assert "does not exist" in said
    said = svgbench("import", "sit", sit, "--name", "x", "--encoder", "va-vae", "--config", imported / "sit.yaml", *where, status=2)
    assert "4 channels, the autoencoder gives 32" in said
    said = svgbench("import", "svg-dit", sit, "--name", "x", "--encoder", "sd-vae", *where, status=2)
    assert "looks like" in said and "Traceback" not in said


def test_weights_are_chosen_by_their_key_and_the_manifest_says_which(imported, tmp_path):
    """Averaged weights without a word, others by --weights-key; each is a network of its own, and the table names it."""
    torch.manual_seed(1)
    raw, averaged = (release("sit", width=64, depth=1, channels=4, grid=8, patch=2) for _ in range(2))
    torch.save({"model": raw, "model_ema": averaged, "args": argparse.Namespace(lr=1)}, tmp_path / "run.pt")
    words = ("import", "sit", tmp_path / "run.pt", "--name", "x", "--encoder", "sd-vae", "--config", imported / "sit.yaml",
             "--preset", "tiny", "--out", tmp_path / "runs")  # fmt: skip
    said = svgbench(*words)
    assert "took the averaged weights under 'model_ema'" in said and "| model_ema" in said
    assert "| model " in svgbench(*words, "--weights-key", "model")
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "runs/store/imported-diffusion").glob("*/manifest.json")]
    assert sorted(manifest["cost"]["weights_key"] for manifest in manifests) == ["model", "model_ema"]
    assert "contains no weights under 'ema'. Did you mean 'model_ema'" in svgbench(*words, "--weights-key", "ema", status=2)


def test_a_codec_s_key_reaches_its_encoder(tmp_path):
    states = [ldm(channels=4, base=32, attention=()) for _ in range(2)]
    torch.save({"first": states[0], "second": states[1]}, tmp_path / "codec.ckpt")
    words = ("import", "vavae", tmp_path / "codec.ckpt", "--name", "c", "--preset", "tiny", "--out", tmp_path / "runs")
    assert "choose by --weights-key" in svgbench(*words, status=2)
    assert "contains no weights under 'nothing'" in svgbench(*words, "--weights-key", "nothing", status=2)
    assert "codec.ckpt for 'va-vae-f16d32' does not match" in svgbench(*words, "--weights-key", "second", status=2)


@pytest.mark.parametrize("content", ["half a file", "another kind"])
def test_a_transformer_before_its_autoencoder_is_opened_or_refused(imported, tmp_path, content):
    """No stage takes it over yet, so the command opens it itself."""
    torch.save({"ema": release("ddt", width=64, depth=4, channels=96, wide=384)}, tmp_path / "ddt.pt")
    (tmp_path / "ddt.yaml").write_text("num_heads: [4, 6]\n")
    words = ("--name", "w", "--encoder", "dinov2", "--config", tmp_path / "ddt.yaml", "--preset", "tiny", "--out", tmp_path / "runs")
    said = svgbench("import", "ddt", tmp_path / "ddt.pt", *words)
    assert "Opened for w" in said and "opens as 'ddt'; import the autoencoder" in said and "Imported" not in said
    if content == "half a file":
        (tmp_path / "bad.pt").write_bytes((tmp_path / "ddt.pt").read_bytes()[:5000])
        assert "truncated or not a weights file" in svgbench("import", "ddt", tmp_path / "bad.pt", *words, status=2)
    else:
        assert "RAE's transformer" in svgbench("import", "svg-dit", tmp_path / "ddt.pt", *words, status=2)
    torch.save({"mean": torch.zeros(96, 4, 4)}, tmp_path / "stats.pt")
    said = svgbench("import", "ddt", tmp_path / "ddt.pt", *words, "--statistics", tmp_path / "stats.pt", status=2)
    assert "stats.pt holds mean instead of" in said


@pytest.mark.parametrize("kind, option, words", [
    ("vavae", "--weights", "has no use"), ("svg-autoencoder", "--weights", "has no use"),
    ("sdvae", "--config", "the card 'sd-vae-ema', which takes no --config"),
])  # fmt: skip
def test_a_file_that_a_kind_would_never_open_is_refused(imported, tmp_path, kind, option, words):
    where = ("--name", "x", "--preset", "tiny", "--out", tmp_path / "runs")
    assert words in svgbench("import", kind, imported / "sit.pt", option, imported / "sit.yaml", *where, status=2)
    assert not (tmp_path / "runs").exists()


def test_files_that_are_not_there_or_are_not_files_are_refused_at_once(imported, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    sit = ("import", "sit", imported / "sit.pt", "--name", "x", "--encoder", "sd-vae", "--preset", "tiny", "--out", tmp_path / "runs")
    for option in ("--statistics", "--weights", "--config"):
        assert f"the file {tmp_path / 'none'} does not exist" in svgbench(*sit, option, tmp_path / "none", status=2)
    assert "not a regular file" in svgbench(*sit, "--statistics", tmp_path / "pipe", status=2)
    assert "not a regular file" in svgbench("import", "sit", tmp_path / "pipe", *sit[3:], status=2)
