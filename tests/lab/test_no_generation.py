"""Runs without generation: no transformer is planned or trained, the rest is the same work, and each command says what is missing."""

from __future__ import annotations

import json

import pytest
from commands import svgbench

from svgbench import load_run
from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput
from svgbench.lab.configs import cells_of
from svgbench.lab.plan import make_plan, nodes_of, resolve

NAME = "dinov3-tiny.no-generation.limit-64.cc10f2"
GENERATION = {"references", "diffusion", "samples", "generation-scores", "second-generation-scores", "second-references", "overview"}


def nodes(*words, preset="tiny"):
    return nodes_of(resolve(build(override(list(words)), preset=preset)))


@pytest.mark.parametrize("words", [(), ("encoder.card=sd-vae",), ("scores.second_extractor=scenes-simclr",), ("sampling.shift=tuned",)])
@pytest.mark.parametrize("preset", ["tiny", "mini"])
def test_only_the_stages_of_generation_are_left_out_and_the_others_are_the_same_work(words, preset):
    whole, without = nodes(*words, preset=preset), nodes(*words, "generation=false", preset=preset)
    kept = {node.key for node in without}
    assert kept < {node.key for node in whole}
    left = {node.stage for node in whole if node.key not in kept}
    assert (
        {"diffusion", "samples", "generation-scores"} <= left <= GENERATION | {"shift-choice", "statistics", "autoencoder"}
    )  # a tuned shift has networks of its own
    assert {"reconstruction-scores", "probe-scores"} <= {node.stage for node in without}


def test_the_experiment_of_reconstruction_trains_no_transformer():
    configs = {name: config for name, (_, config) in cells_of("reconstruction", "tiny", None, None).items()}
    stages = {node.stage for node in make_plan(configs).nodes.values()}
    assert "reconstruction-scores" in stages and not stages & GENERATION


def test_a_configuration_of_before_has_generation_and_its_file_is_unchanged():
    config = build({}, preset="tiny")
    assert "generation" not in config.model_dump() and RunConfig.model_validate(config.model_dump()).generation
    assert RunConfig.model_validate(build({"generation": False}, preset="tiny").model_dump()).generation is False


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("no-generation")
    words = ("--encoder", "dinov3", "--no-generation", "--preset", "tiny", "--quick", "--threads", "1")
    done = svgbench("run", *words, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "### Reconstruction" in done.stdout and "### Generation" not in done.stdout
    return folder


def test_a_run_scores_reconstruction_and_perception(out):
    metrics = {row["metric"] for row in json.loads((out / NAME / "scores.json").read_text())}
    assert {"rfid", "psnr", "lpips", "probe_top1", "miou"} <= metrics and not metrics & {"gfid", "is", "kid", "precision"}
    assert "diffusion" not in {path.name for path in (out / "store").iterdir()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sample", NAME, "--to", "x.png"), "was made with --no-generation and has no samples; run its command again without it"),
        (("explain", NAME), "was made with --no-generation and has no transformer, so its gFID cannot be explained"),
    ],
)
def test_a_command_that_needs_samples_says_that_the_run_has_none(out, words, said):
    done = svgbench(*words, "--out", out)
    assert done.returncode == 2 and said in " ".join(done.stderr.split())


def test_figures_of_samples_are_left_out_with_the_reason(out):
    done = svgbench("figures", NAME, "--out", out, "--to", out / "figures")
    assert "was made with --no-generation and has no transformer" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_tokenizer_of_such_a_run_opens_and_its_model_does_not(out):
    run = load_run(out, NAME, device="cpu")
    assert run.tokenizer is not None
    with pytest.raises(BadInput, match="was made with --no-generation and has no diffusion stage"):
        _ = run.model
