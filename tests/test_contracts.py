"""What outside callers rely on: the verbs and options of the command line, exit statuses, names, the Python calls."""

from __future__ import annotations

import inspect

import pytest
import typer

import svgbench
from svgbench import errors
from svgbench.cli.main import app
from svgbench.config import cards

OPTIONS = {
    "run": {"--encoder", "--align", "--no-align", "--no-residual", "--no-generation", "--preset", "--data", "--weights", "--out", "--seed",
            "--set", "--limit", "--quick", "--print-config", "--shelf", "--device", "--threads", "--micro-batch", "--compile",
            "--no-compile", "--checkpoint-activations", "--shard", "--capture"},
    "ablate": {"--out", "--preset", "--data", "--only", "--set", "--limit", "--quick", "--shelf", "--device", "--threads", "--micro-batch",
               "--compile", "--no-compile", "--checkpoint-activations", "--shard", "--capture", "--engine", "--slots", "--ranks",
               "--sbatch", "--leave"},
    "plan": {"--out", "--preset", "--data", "--set", "--limit", "--quick", "--shelf", "--gpus", "--nodes", "--format"},
    "report": {"--out", "--format", "--layout", "--against", "--to", "--preset", "--data", "--set", "--limit", "--quick", "--shelf"},
    "figures": {"--out", "--to", "--preset", "--data", "--set", "--limit", "--quick", "--shelf", "--device", "--threads", "--only"},
    "explain": {"--out", "--to", "--format", "--device", "--threads"},
    "sample": {"--to", "--labels", "--steps", "--guidance", "--sampler", "--schedule", "--shift", "--seed", "--trained", "--out",
               "--device", "--zero-init"},
    "eval": {
        "--reference", "--extractor", "--extractor-weights", "--second-extractor", "--second-extractor-weights", "--fdr6", "--limit",
        "--resize", "--allow-doubles", "--format", "--device",
    },
    "import": {
        "--name", "--encoder", "--weights", "--weights-key", "--statistics", "--config", "--preset", "--out", "--set", "--shelf",
        "--device",
    },
    "pretrain": {"--out", "--device", "--threads", "--seed", "--check"},
    "doctor": {"--out", "--preset", "--encoder", "--data", "--set", "--shelf", "--gpus", "--format"},
    "runs": {"--out", "--format"},
    "gc": {"--out", "--shelf", "--unfinished", "--yes", "--format"},
    "fields": {"--format", "--markdown"},
    "cost": {
        "--batch", "--device", "--format", "--out", "--precision", "--preset", "--random-weights", "--repetitions", "--set", "--shelf",
        "--threads", "--warm-up", "--weights",
    },
    "audit": {"--out", "--reference", "--extractor", "--device", "--format"},
    "diagnose": {"--data", "--device", "--format", "--limit", "--out", "--preset", "--set", "--shelf", "--threads", "--to"},
    "bench": {
        "--against", "--batch", "--device", "--format", "--minutes", "--out", "--preset", "--set", "--shelf", "--stage", "--threads",
    },
}  # fmt: skip


def commands():
    return typer.main.get_command(app).commands


@pytest.mark.parametrize("verb", OPTIONS)
def test_a_verb_has_exactly_these_options(verb):
    """A new knob goes into the configuration tree (``--set``), not here."""
    found = {option for p in commands()[verb].params for option in p.opts if option.startswith("--")}
    assert found - {"--help"} == OPTIONS[verb]


def test_the_verbs_are_these():
    assert set(commands()) == {*OPTIONS, "encoders", "experiments", "data", "node"} and commands()["node"].hidden
    assert set(commands()["encoders"].commands) == {"list", "show", "check"}
    assert set(commands()["experiments"].commands) == {"list", "show", "settings"}
    assert set(commands()["data"].commands) == {"pack", "verify"}


def test_exit_statuses_are_those_of_the_contract():
    wanted = {
        "SvgbenchError": 1, "BadInput": 2, "UnknownName": 2, "BadConfig": 2, "BadData": 2, "BadWeights": 2, "CellsFailed": 3,
        "Interrupted": 4, "StorageError": 5, "NumericalError": 6, "Occupied": 7,
    }  # fmt: skip
    assert {name: getattr(errors, name).exit_status for name in wanted} == wanted


def test_families_and_cards_have_the_contract_s_names():
    names = set(cards.load_cards())
    assert cards.FAMILIES == ("dinov3", "dinov2", "mae", "siglip", "sd-vae", "va-vae")
    assert {f"{family}-tiny" for family in cards.FAMILIES} <= names
    assert {"dinov3-s16", "dinov3-s16plus", "dinov3-b16", "dinov3-l16", "dinov2-s14", "dinov2-b14", "dinov2-l14", "dinov2reg-s14",
            "mae-b16", "mae-l16", "siglip-b16", "siglip2-b16", "sd-vae-ema", "sd-vae-mse", "va-vae-f16d32"} <= names  # fmt: skip
    for family in cards.FAMILIES:
        assert cards.find(family, "tiny").name == f"{family}-tiny"
        assert cards.find(family, "paper").preset == "paper"


def test_the_python_calls_have_the_contract_s_signatures():
    assert list(inspect.signature(svgbench.load_encoder).parameters) == ["name", "weights", "device"]
    assert list(inspect.signature(svgbench.load_official).parameters) == ["kind", "path", "config", "weights_key"]
    assert list(inspect.signature(svgbench.sample).parameters)[:8] == [
        "model", "noise", "labels", "steps", "sampler", "shift", "guidance", "schedule",
    ]  # fmt: skip


def test_an_encoder_answers_as_the_contract_says():
    import torch

    encoder = svgbench.load_encoder("mae-tiny")
    features = encoder.encode(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, encoder.channels, 32 // encoder.stride, 32 // encoder.stride) and not features.requires_grad
    assert encoder.card.name == "mae-tiny"
