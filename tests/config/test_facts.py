"""The preset ``paper`` and the recipes at it against tables of published facts (``facts/``): field, value, and its source, which is an
article, a file of the authors' code, or 'ours' with the reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from svgbench.config import cards
from svgbench.config.build import build
from svgbench.config.experiments import load_experiment, settings_of
from svgbench.config.fields import fields_of
from svgbench.config.schema import RunConfig
from svgbench.lab.configs import configs_of

FACTS = Path(__file__).parent / "facts"
FIELDS = tuple(fields_of(RunConfig))


def facts(name: str) -> list[dict[str, str]]:
    """The rows of a table of facts."""
    return list(csv.DictReader((FACTS / f"{name}.csv").read_text().splitlines()))


def value_of(config: RunConfig, field: str) -> Any:
    """A field as in JSON; None below a part that is not there."""
    value: Any = config
    for part in field.split("."):
        value = None if value is None else getattr(value, part)
    return json.loads(json.dumps(value))


def at_paper(recipe: str) -> RunConfig:
    """A recipe as it is run at the preset ``paper``."""
    return build(settings_of(load_experiment(recipe), preset="paper"), preset="paper")


PAPER = facts("preset-paper")
RECIPES = {recipe: [row for row in facts("recipes") if row["recipe"] == recipe] for recipe in {r["recipe"]: 0 for r in facts("recipes")}}


def is_a_source(text: str) -> bool:
    """An article, a file of a repository, or 'ours: reason'."""
    return text.startswith(("arXiv ", "ours: ")) or ("/" in text.split(" ")[0] and len(text.split(" ")) > 1)


def test_every_fact_names_its_source():
    for row in (*PAPER, *(row for rows in RECIPES.values() for row in rows)):
        assert is_a_source(row["source"]), row


def test_every_field_of_the_preset_paper_is_what_its_source_says():
    assert [row["field"] for row in PAPER] == list(FIELDS), "name every field of a configuration in facts/preset-paper.csv, with its source"
    config = build({}, preset="paper")
    wrong = {row["field"]: value_of(config, row["field"]) for row in PAPER if value_of(config, row["field"]) != json.loads(row["value"])}
    assert not wrong


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_at_paper_is_its_authors_own(recipe):
    config = at_paper(recipe)
    found = {row["field"]: value_of(config, row["field"]) for row in RECIPES[recipe]}
    assert found == {row["field"]: json.loads(row["value"]) for row in RECIPES[recipe]}


@pytest.mark.parametrize("recipe", RECIPES)
def test_whatever_a_recipe_changes_of_the_preset_has_a_source(recipe):
    preset, config = build({}, preset="paper"), at_paper(recipe)
    changed = {field for field in FIELDS if value_of(config, field) != value_of(preset, field)}
    codec = cards.find(config.encoder.card, "paper").kind == "codec"
    unused = {field for field in changed if codec and field.startswith("autoencoder.")}  # a codec is adopted, nothing is trained
    assert changed - {row["field"] for row in RECIPES[recipe]} == unused


def test_the_recipes_that_are_held_are_those_of_the_grid():
    cells = load_experiment("recipes").axes["recipe"]
    assert set(cells) == set(RECIPES) and all(cell["base"] == name for name, cell in cells.items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_at_tiny_a_recipe_keeps_its_character_at_the_tiers_size(recipe):
    """Objective, network, times, losses, guidance's interval, channels and other prediction, clip and the shape of the rate's schedule are
    the recipe's; length, batch, average, rate, count of steps and scales are the tier's."""
    tiny, paper = build(settings_of(load_experiment(recipe), preset="tiny"), preset="tiny"), at_paper(recipe)
    kept = (
        "diffusion.objective", "diffusion.prediction", "diffusion.time", "diffusion.direction", "diffusion.representation.weight",
        "diffusion.transformer.qk_norm", "diffusion.transformer.norm", "diffusion.transformer.mlp", "diffusion.transformer.position",
        "diffusion.transformer.time", "diffusion.transformer.learned_sigma", "diffusion.training.optimiser.max_gradient_norm",
        "diffusion.training.optimiser.betas", "sampling.schedule", "sampling.guided_channels", "sampling.against", "autoencoder.noise",
        "autoencoder.decoder.kind",
    )  # fmt: skip
    assert {field: value_of(tiny, field) for field in kept} == {field: value_of(paper, field) for field in kept}
    preset = build({}, preset="tiny")
    sized = ["diffusion.training.total_images", "diffusion.training.batch", "diffusion.training.ema", "sampling.guidance"]
    sized += ["sampling.steps"] if recipe != "mar" else []  # its rounds are at most the tokens
    assert [value_of(tiny, field) for field in sized] == [value_of(preset, field) for field in sized]


@pytest.mark.parametrize("recipe", ["dit", "sit", "repa"])
def test_sd_vae_latents_have_one_scale_at_every_preset(recipe):
    """0.18215, the released codec's; of the tiny codec that of its own latents."""
    for preset, expected in {"tiny": (None, "scalar"), "small": (0.18215, "channel"), "paper": (0.18215, "channel")}.items():
        latents = build(settings_of(load_experiment(recipe), preset=preset), preset=preset).latents
        assert (latents.scale, latents.standardise) == expected


@pytest.mark.parametrize("grid", ["few-step", "scaling", "convergence"])
@pytest.mark.parametrize("preset", ["tiny", "paper"])
def test_a_comparison_gives_each_baseline_its_own_recipe_and_all_the_same_training(grid, preset):
    configs = configs_of(grid, preset, None, None, resolved=False)
    seen = set()
    for name, config in configs.items():
        own = "dinov3" in name
        assert (config.diffusion.transformer.qk_norm, config.diffusion.shift) == ((True, 0.4) if own else (False, 1.0))
        assert config.sampling.guided_channels == (3 if "sd-vae" in name else None)
        assert config.latents.scale == (0.18215 if "sd-vae" in name and preset == "paper" else None)
        training = config.diffusion.training
        seen.add(
            (training.total_images, training.batch, training.ema, training.optimiser.lr, config.sampling.labels, config.sampling.count)
        )
    assert len(seen) == 1 and any("sd-vae" in name for name in configs)
    if preset == "paper":
        assert seen.pop()[0] == 102_400_000  # 80 epochs
