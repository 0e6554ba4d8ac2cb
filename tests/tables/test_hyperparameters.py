"""Table 5: the hyperparameters of an experiment's cells, from their configurations."""

from __future__ import annotations

import json

import pytest
from commands import svgbench

from svgbench.config.schema import RunConfig
from svgbench.tables.hyperparameters import DERIVED, groups, value


def test_every_row_is_a_field_or_a_fact():
    paths = [path for rows in groups().values() for path in rows.values()]
    assert len(set(paths)) == len(paths) > 30
    for path in paths:
        assert (
            path in DERIVED
            or value(RunConfig(), path) is not None
            or path in ("diffusion.transformer.patch", "sampling.guided_channels", "latents.scale")
        ), path


def test_the_sizes_of_the_paper_s_models_follow_from_their_configurations():
    """Parameters of SiT's sizes as published (arXiv 2401.08740, table 1: S 33M, B 130M, L 458M, XL 675M); latents of SVG, the SD-VAE."""
    done = svgbench("experiments", "settings", "scaling", "--preset", "paper", "--format", "json")
    found = {record["name"]: record for record in json.loads(done.stdout)}
    for size, millions in (("S", 33), ("B", 130), ("L", 458), ("XL", 675)):
        assert float(found[f"size={size}, sd-vae"]["parameters"].removesuffix("M")) == pytest.approx(millions, rel=5e-3)
    svg = found["size=XL, dinov3"]
    assert (svg["latent"], svg["updates"], svg["diffusion.training.optimiser.betas"]) == ("16x16x392", "400,000", [0.9, 0.999])
    assert found["size=XL, sd-vae"]["latent"] == "32x32x4" and found["size=XL, sd-vae"]["autoencoder.training.batch"] is None
    assert svg["latents.standardise"] == "channel"
    words = ("experiments", "settings", "svg", "--set", "latents.scale=0.5", "--format", "json")
    assert json.loads(svgbench(*words).stdout)[0]["latents.standardise"] is None  # a factor takes its place


def test_cells_that_differ_in_their_seed_are_one_column_and_ddpm_has_no_shift():
    lines = svgbench("experiments", "settings", "recipes").stdout.splitlines()
    head, rows = lines[2], {tuple(cell.strip() for cell in line.split("|")[1:3]): line.split("|")[3].strip() for line in lines[4:] if line}
    assert [word.strip() for word in head.split("|")[3:-1]] == ["dit", "sit", "sit-va-vae", "repa", "lightningdit", "rae", "mar", "svg"]
    assert rows["training", "predicts"] == "noise" and rows["training", "shift"] == "-" and rows["sampling", "sampler"] == "ddpm"


def test_an_unknown_name_is_answered_with_its_neighbour():
    done = svgbench("experiments", "settings", "recipe")
    assert done.returncode == 2 and "Did you mean 'recipes'" in done.stderr
