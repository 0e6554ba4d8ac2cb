"""Every recipe builds, learns and repeats; what it ships opens through its card and is worth its name."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svgbench.cli.main import main
from svgbench.errors import BadInput, UnknownName
from svgbench.images import scenes, shapes
from svgbench.machine.files import sha256_of
from svgbench.machine.order import Order
from svgbench.machine.runtime import Runtime
from svgbench.metrics.judges import weights_file
from svgbench.nets.classifier import ScenesCNN, ScenesVGG, ShapesCNN, ShapesVGG
from svgbench.pretraining import recipes
from svgbench.pretraining.families import card_of
from svgbench.pretraining.figures import figures
from svgbench.pretraining.pictures import Pictures
from svgbench.shelf import folder

SELF_SUPERVISED = ("dinov2-tiny", "dinov3-tiny", "mae-tiny", "siglip-tiny", "mae-mini", "siglip-mini")
ENCODERS = (*SELF_SUPERVISED, "dinov2-mini", "dinov3-mini", "sd-vae-tiny", "va-vae-tiny", "sd-vae-mini", "va-vae-mini")
RUNTIME = Runtime(device="cpu", quiet=True)


@pytest.fixture(scope="module")
def pictures():
    return Pictures.drawn(64, seed=5)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_shipped_encoder_is_small_and_has_the_digest_of_its_card(name):
    card = card_of(name)
    file = folder("encoders") / card.weights.file
    assert file.stat().st_size <= 4_000_000
    assert sha256_of(file) == card.weights.sha256
    assert card.trained_by == f"svgbench pretrain {name}"
    assert "PSNR" in card.note if "vae" in name else "probe" in card.note


@pytest.mark.parametrize("name", ENCODERS)
def test_a_shipped_encoder_has_the_size_its_card_says(name):
    card = card_of(name)
    count = sum(tensor.numel() for tensor in load_file(folder("encoders") / card.weights.file).values())
    assert count / 1e6 == pytest.approx(card.params_m, abs=0.01)


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_a_shipped_encoder_beats_its_own_random_weights(name):
    """By 20 points; the mini MAE keeps pixels and knows classes little."""
    found = figures(name, RUNTIME, train=1500, val=500, ridge=False)
    assert found["probe_top1"] >= found["probe_top1_random"] + (8 if name == "mae-mini" else 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2-mini", "dinov3-mini"])
def test_an_encoder_of_scenes_names_classes_and_loses_pixels_that_8_numbers_bring_back(name):
    """Gates, fixed before any Frechet distance of these images was seen (``reports/measured/tier.md``). The card's figures pass them, and
    half of the images give the same figures; the probe is lower with fewer training images."""
    probe, random, ridge, _, more, _ = (float(number) for number in re.findall(r"([\d.]+) (?:%|dB)", card_of(name).note))
    assert ridge <= 18 and more >= ridge + 3 and probe >= 60 and probe >= random + 30
    found = figures(name, RUNTIME, train=4500, val=500, untrained=False)
    assert [found["ridge_psnr"], found["ridge_psnr_8_more"]] == pytest.approx([ridge, more], abs=0.2)
    assert found["ridge_psnr_8_more"] >= found["ridge_psnr"] + 3
    assert probe - 8 <= found["probe_top1"] <= probe + 4


@pytest.mark.xfail(strict=True, reason="25.60 and 24.43 dB after 30 minutes each; the gate was not moved (reports/measured/tier.md)")
@pytest.mark.parametrize("name", ["sd-vae-mini", "va-vae-mini"])
def test_a_codec_of_scenes_passes_its_gate(name):
    (psnr,) = (float(number) for number in re.findall(r"([\d.]+) dB\.", card_of(name).note))
    assert psnr >= 28


@pytest.mark.parametrize("name, floor", [("sd-vae-tiny", 22.0), ("va-vae-tiny", 20.0), ("sd-vae-mini", 25.0), ("va-vae-mini", 20.0)])
def test_a_shipped_codec_reconstructs(name, floor):
    assert figures(name, RUNTIME, val=100)["psnr"] > floor


@pytest.mark.parametrize(
    "name, kind", [("shapes-cnn", ShapesCNN), ("shapes-lpips", ShapesVGG), ("scenes-cnn", ScenesCNN), ("scenes-lpips", ScenesVGG)]
)
def test_the_shipped_classifiers_name_unseen_images(name, kind):
    file = weights_file("pairs" if name.endswith("lpips") else "features", name)
    assert file.stat().st_size <= 2_000_000
    assert figures(name, RUNTIME, val=500)["top1"] > 88
    recipe = recipes.RECIPES[name]
    unseen = Pictures.drawn(500, seed=0, source=recipe.source, resolution=recipe.resolution, split="val")
    seen = kind.filled(load_file(file))(unseen.floats(torch.arange(500)))
    assert seen.features.shape == (500, 128)
    said = unseen.said(torch.arange(500))
    varying = (said.mean(0) > 0) & (said.mean(0) < 1)
    floor = 0.93 if recipe.source == "shapes" else 0.9  # a scene's caption names the hue of its nearest object alone
    assert ((seen.words > 0) == (said > 0.5)).float()[:, varying].mean() > floor


def test_the_judge_without_labels_knows_more_than_random_weights():
    assert weights_file("features", "scenes-simclr").stat().st_size <= 2_000_000
    found = figures("scenes-simclr", RUNTIME, train=1500, val=500)
    assert found["probe_top1"] >= found["probe_top1_random"] + 10


@pytest.mark.slow
@pytest.mark.parametrize("name, unit", [("mae-tiny", "%"), ("va-vae-tiny", "dB")])
def test_the_note_of_a_card_is_what_the_check_prints(name, unit, capsys):
    """Another processor's rounding may move a few images of the 2,000."""
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", name, "--check", "--device", "cpu"])
    assert ended.value.code == 0
    printed = list(json.loads(capsys.readouterr().out)["figures"].values())
    noted = [float(number) for number in re.findall(rf"([\d.]+) {unit}", card_of(name).note)]
    assert printed == pytest.approx(noted, abs=0.5)


def test_what_a_training_made_is_what_its_figures_are_of(tmp_path, monkeypatch):
    """Weights handed over are measured in place of the shipped ones."""
    _short("shapes-cnn", 1, monkeypatch)
    made = recipes.pretrain("shapes-cnn", tmp_path, RUNTIME)
    assert figures("shapes-cnn", RUNTIME, weights=Path(made["file"]), val=200)["top1"] < 30


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_a_recipe_learns(name, pictures):
    """Twelve updates on the same 16 images (a view of them where the objective makes views) lower what is minimised."""
    recipe = recipes.RECIPES[name]
    training = recipe.training
    if recipe.source == "scenes":
        pictures = Pictures.drawn(64, seed=5, source="scenes", resolution=64)
    optimiser = training.optimiser.model_copy(update={"lr": 2e-3})
    shipped = recipes.build(name, pictures, RUNTIME, training=training.model_copy(update={"optimiser": optimiser}))
    total = {"sd-vae": ("l1",), "va-vae": ("l1",), "mae": ("painted",), "siglip": ("sigmoid",), "dinov2": ("ibot",), "dinov3": ("ibot",)}
    dense = name in ("dinov2-mini", "dinov3-mini")
    watched = (
        ("patches",) if dense else ("contrast",) if name == "scenes-simclr" else total.get(name.rpartition("-")[0], ("class", "words"))
    )

    def apply(which):
        optimiser = shipped.task.optimisers[which]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    history = []
    for number in range(12):
        losses = shipped.task.update(Order(16, seed=0).batch(16 * number, 16), apply)
        assert all(torch.isfinite(loss) and not loss.requires_grad for loss in losses.values())
        history.append(sum(float(losses[key]) for key in watched))
    assert sum(history[-3:]) < sum(history[:3])
    assert all(parameter.grad is None for parameter in shipped.network.parameters())


def _short(name, updates, monkeypatch):
    recipe = recipes.RECIPES[name]
    training = recipe.training.model_copy(update={"total_images": 8 * updates, "batch": 8, "checkpoint_images": 8})
    monkeypatch.setitem(recipes.RECIPES, name, dataclasses.replace(recipe, training=training, images=32))


@pytest.mark.parametrize("name", ["mae-tiny", "shapes-lpips"])
def test_the_same_command_gives_the_same_file(name, tmp_path, monkeypatch):
    _short(name, 3, monkeypatch)
    first, second = (recipes.pretrain(name, tmp_path / place, RUNTIME) for place in ("a", "b"))
    assert first["sha256"] == second["sha256"] == sha256_of(tmp_path / "a" / f"{name}.safetensors")
    assert first["images_seen"] == 24 and first["updates"] == 3
    assert all(t.dtype == torch.float16 for t in load_file(first["file"]).values())


def test_self_distillation_resumes_with_equal_bits(tmp_path, monkeypatch):
    """Teacher, centres and optimiser are all in the checkpoint: a run stopped after two of four updates ends as the whole one did."""
    _short("dinov2-tiny", 4, monkeypatch)
    whole = recipes.pretrain("dinov2-tiny", tmp_path / "whole", RUNTIME)
    from svgbench.machine import training

    class Stopped(BaseException):
        pass

    def stop_after_two(name):
        if name == "training.saved":
            seen.append(name)
            if len(seen) == 2:
                raise Stopped

    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(training, "failpoint", stop_after_two)
        with pytest.raises(Stopped):
            recipes.pretrain("dinov2-tiny", tmp_path / "parts", RUNTIME)
    resumed = recipes.pretrain("dinov2-tiny", tmp_path / "parts", RUNTIME)
    assert resumed["sha256"] == whole["sha256"]


def test_a_family_means_its_tiny_card(tmp_path, monkeypatch):
    _short("mae-tiny", 1, monkeypatch)
    assert recipes.pretrain("mae", tmp_path, RUNTIME)["name"] == "mae-tiny"


def test_another_seed_is_another_pretraining_of_the_same_images(tmp_path, monkeypatch):
    _short("mae-tiny", 1, monkeypatch)
    files = [Path(recipes.pretrain("mae-tiny", tmp_path, RUNTIME, seed=seed)["file"]) for seed in (0, 1, 2)]
    assert [file.name for file in files] == ["mae-tiny.safetensors", "mae-tiny.seed-1.safetensors", "mae-tiny.seed-2.safetensors"]
    assert len({sha256_of(file) for file in files}) == 3


def test_an_unknown_recipe_offers_its_neighbours(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'dinov3-tiny'"):
        recipes.pretrain("dino-v3", tmp_path, RUNTIME)


def test_many_processes_are_refused_because_losses_compare_the_whole_batch(tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match="one process"):
        recipes.pretrain("mae", tmp_path, RUNTIME)


def test_no_recipe_sees_the_images_that_measure_it():
    seeds = [recipe.seed for recipe in recipes.RECIPES.values()]
    assert 0 not in seeds and len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("source, world", [("shapes", shapes), ("scenes", scenes)])
def test_captions_become_word_numbers_and_back(source, world):
    pictures = Pictures.drawn(48, seed=3, source=source, resolution=24)
    drawn = world.draw(range(48), seed=3, resolution=24, split="train", captions=True)
    assert (pictures.side, pictures.classes) == (24, len(world.CLASSES))
    assert [" ".join(pictures.words[number] for number in row) for row in pictures.captions.tolist()] == drawn.captions
    assert pictures.said(torch.arange(48)).sum(1).tolist() == [len(set(caption.split())) for caption in drawn.captions]
