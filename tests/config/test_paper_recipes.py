"""The papers' recipes as experiments: what they set, and what makes two of them the same work."""

import math

import pytest

from svgbench.config.build import build, dimension_shift, reference_numbers
from svgbench.config.experiments import load_experiment, settings_of
from svgbench.errors import BadConfig
from svgbench.nets.flow import shift_time

RECIPES = ("dit", "sit", "sit-va-vae", "repa", "lightningdit", "rae", "svg")


def _built(name, preset="tiny", **more):
    return build({**settings_of(load_experiment(name), preset=preset), **more}, preset=preset)


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_stands_on_every_preset(name, preset):
    config, about = _built(name, preset), load_experiment(name)
    assert about.asks and about.compares and about.costs
    assert config.diffusion.objective == ("ddpm" if name == "dit" else "flow")
    assert config.encoder.card.endswith("-tiny") == (preset == "tiny")


@pytest.mark.parametrize("preset", ["tiny", "paper"])
def test_raes_shift_moves_times_as_its_formula_does(preset):
    """RAE: u <- a u / (1 + (a - 1) u) for time u = 1 - t, which is 1 at the noise, with a = sqrt(numbers / base) and a >= 1."""
    config = _built("rae", preset)
    numbers, base = {"tiny": (96 * 4 * 4, 4 * 8 * 8), "paper": (768 * 16 * 16, 4096)}[preset]
    a = math.sqrt(numbers / base)
    assert a > 1
    assert config.diffusion.shift == config.sampling.shift
    for t in (0.0, 0.1, 0.5, 0.9, 1.0):
        u = 1 - t
        assert shift_time(t, config.diffusion.shift) == pytest.approx(1 - a * u / (1 + (a - 1) * u), abs=1e-5)


@pytest.mark.parametrize(("preset", "base"), [("tiny", 256), ("small", 4096), ("paper", 4096)])
def test_raes_shift_is_one_for_the_reference_latent_and_never_moves_times_to_data(preset, base):
    assert reference_numbers(preset) == base
    assert dimension_shift(base, base) == dimension_shift(base / 4, base) == 1.0 and dimension_shift(4 * base, base) == 0.5
    codec = build({"encoder": {"card": "sd-vae"}, "sampling": {"dimension_shift": True}}, preset=preset)
    assert codec.sampling.shift == 1.0


def test_the_base_of_raes_shift_does_not_follow_the_resolution():
    """RAE's configuration of 512 px keeps 4096."""
    larger = build({"encoder": {"card": "dinov3"}, "data": {"resolution": 512}, "diffusion": {"dimension_shift": True}}, preset="paper")
    assert larger.diffusion.shift == pytest.approx(math.sqrt(4096 / (392 * 32 * 32)), abs=1e-6)


def test_repa_looks_at_block_eight_or_the_middle_of_a_shallow_transformer():
    assert _built("repa", "paper").diffusion.representation.block == 8
    assert _built("repa").diffusion.representation.block == 2
    assert _built("repa").diffusion.representation.encoder.card == "dinov2-tiny"


def test_what_a_run_does_not_use_is_not_in_it():
    plain, other = _built("sit"), _built("sit", autoencoder={"decoder": {"vit": {"width": 64}}})
    assert plain == other
    other = build({**settings_of(load_experiment("sit"), preset="tiny"), "diffusion": {"shift": 1.0, "transformer": {"qk_norm": False},
                   "representation": {"width": 7}}}, preset="tiny")  # fmt: skip
    assert plain == other


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"sampling": {"sampler": "ddim"}}, "does not fit diffusion.objective flow"),
        ({"diffusion": {"objective": "ddpm"}}, "use ddim or ddpm"),
        ({"diffusion": {"objective": "ddpm"}, "sampling": {"sampler": "ddim", "steps": [25, 2000]}}, "in 1 to 1000 of them, not 2000"),
        ({"sampling": {"against": "weak"}}, "set diffusion.weak_share"),
        ({"diffusion": {"transformer": {"learned_sigma": True}}}, "learned_sigma is for diffusion.objective ddpm"),
        ({"autoencoder": {"decoder": {"vit": {"width": 30, "heads": 4}}}}, "is not a multiple of"),
        ({"latents": {"scale": 1.0, "statistics": "x.pt"}}, "exclude each other"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(settings, sentence):
    with pytest.raises(BadConfig, match=sentence):
        build({"encoder": {"card": "mae"}, **settings}, preset="tiny")


def test_the_paper_presets_probe_has_dinos_thirteen_rates_scaled_by_its_batch():
    """facebookresearch/dinov2 and dinov3, eval/linear.py: base rates at 256 images, 10 epochs of 1250 updates, 8 processes of 128."""
    probe = build({}, preset="paper").scores.probe
    base = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
    assert probe.batch == 8 * 128 and probe.epochs == 10 and probe.neighbours == 20
    assert probe.learning_rates == pytest.approx([rate * probe.batch / 256 for rate in base])
