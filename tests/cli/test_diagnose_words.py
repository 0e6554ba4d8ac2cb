"""``diagnose``: a card from the store the second time, the same numbers however they were computed, and one sentence for a wrong word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import svgbench
from PIL import Image

from svgbench.config.records import Manifest
from svgbench.lab.inventory import needed, unused
from svgbench.machine.runtime import Runtime
from svgbench.metrics.latent_figures import DECODED, FIGURES
from svgbench.stages import diffusability, graph

ASKED = ("diagnose", "dinov3", "va-vae", "--preset", "tiny", "--limit", 120, "--threads", 1, "--device", "cpu")
NAMES = {one.name for one in FIGURES}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cards")


@pytest.fixture(scope="module")
def cards(place) -> list[dict]:
    done = svgbench(*ASKED, "--out", place / "runs", "--format", "json", "--to", place / "card.png")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def scores(card: dict) -> dict[str, dict]:
    return {score["metric"]: score for score in card["scores"]}


def test_every_figure_is_there_with_its_interval_or_a_reason(cards):
    for card in cards:
        assert set(scores(card)) | set(card["missing"]) == NAMES and not set(scores(card)) & set(card["missing"])
        assert all(score["low"] <= score["value"] <= score["high"] for score in card["scores"])
        assert all("limit-120" in score["protocol"] and "standardised-by-channel" in score["protocol"] for score in card["scores"])
        assert all(reason.endswith(".") for reason in card["missing"].values())
    features, codec = cards
    assert features["latent"] == [96, 4, 4] and set(features["missing"]) >= DECODED and not DECODED & set(codec["missing"])
    assert features["images"] == 120 and features["classes"] == 10
    levels = [scores(codec)[f"noise_psnr_{noise:g}"]["value"] for noise in (0.0, 0.1, 0.3, 1.0)]
    assert levels == sorted(levels, reverse=True) and levels[0] > levels[-1] + 1
    assert 0 < scores(codec)["viv_gaussian"]["value"] < 1.7 and scores(codec)["ifid"]["value"] > 0


def test_the_picture_has_something_on_it(cards, place):
    with Image.open(place / "card.png") as picture:
        assert picture.width >= 1000 and np.asarray(picture.convert("L")).std() > 5


def test_the_second_time_nothing_is_computed_and_a_terminal_of_80_columns_suffices(cards, place, monkeypatch):
    monkeypatch.setattr(graph, "worker", lambda stage: pytest.fail(f"{stage.name} ran again"))
    table = svgbench(*ASKED, "--out", place / "runs")
    assert table.returncode == 0 and "written" not in table.stderr
    lines = table.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if line.startswith("|"))
    assert [line for line in lines if line.startswith("- -: figures of a decoder, dinov3: it has no decoder")]
    csv = svgbench(*ASKED, "--out", place / "runs", "--format", "csv").stdout
    row = next(line for line in csv.splitlines() if ",dinov3,kurtosis," in line.replace("excess kurtosis,kurtosis", "kurtosis"))
    assert f"{scores(cards[0])['kurtosis']['value']}" in row


def test_numbers_do_not_depend_on_who_encodes_which_block(cards, place, tmp_path, monkeypatch):
    """Ranks share the blocks of images; here the blocks are others, and their number too."""
    found = next(
        path for path in (place / "runs" / "store" / "diffusability").glob("*/manifest.json") if b'"limit": 120' in path.read_bytes()
    )
    manifest = Manifest.read(found.read_bytes())
    store = place / "runs" / "store"
    inputs = {"images": next((store / "images").glob(f"{manifest.inputs['images'][:32]}*")),
              "autoencoder": next((store / "adoption").glob(f"{manifest.inputs['autoencoder'][:32]}*"))}  # fmt: skip
    monkeypatch.setattr(diffusability, "BLOCK", 37)
    diffusability.latents(manifest.slice, inputs, tmp_path, Runtime(device="cpu", quiet=True, threads=1))
    for name in ("scores.json", "diffusability.json"):
        assert (tmp_path / name).read_bytes() == (found.parent / name).read_bytes()


def test_gc_removes_cards_of_encoders_because_no_run_needs_them(cards, place):
    keys, _ = needed(place / "runs")
    assert {one.stage for one in unused(place / "runs", keys, unfinished=False)} >= {
        "images",
        "adoption",
        "diffusability",
        "interpolated-distance",
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("dinvo3",), "no card or run named 'dinvo3'. Did you mean 'dinov3'"),
        (("dinov3", "--to", "card.txt"), "--to card.txt is no picture; give a file that ends in .png or .svg"),
        (("dinov3", "--limit", 3), "data.limit 3 is too few for 20 neighbours"),
        (("dinov3", "--set", "encodr.card=mae"), "encodr"),
        (("dinov3", "--preset", "small"), "dinov3-s16plus"),
    ],
)
def test_a_wrong_word_is_one_sentence(tmp_path, words, sentence):
    preset = () if "--preset" in words else ("--preset", "tiny")
    done = svgbench("diagnose", *words, *preset, "--out", tmp_path / "runs", "--threads", 1)
    assert done.returncode in (1, 2), done.stderr
    assert sentence in done.stderr.splitlines()[-1] and "fault of svgbench" not in done.stderr
