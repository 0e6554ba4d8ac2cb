"""Tables say which rows the diffusion model cannot tell apart."""

from __future__ import annotations

import pytest
from fake_runs import gfid, score, seal_record, write

from svgbench.cli.reports import tables_for
from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.config.records import RUN_FORMAT, unseal
from svgbench.tables.collect import collect

RUNS = {
    "residual": ("1", "autoencoder.align=none"),
    "residual-then-frozen": ("1", "autoencoder.align=none", "latents.align=frozen"),
    "residual-then-whiten": ("1", "autoencoder.align=none", "latents.align=whiten"),
    "frozen": ("2",),
    "half": ("3", "autoencoder.align_strength=0.5"),
    "token": ("4", "autoencoder.align=token"),
    "frozen-scalar": ("2", "latents.standardise=scalar"),
    "frozen-then-none-scalar": ("2", "latents.align=none", "latents.standardise=scalar"),
    "features-only": ("5", "autoencoder.residual.channels=0"),
    "batch": ("6", "autoencoder.align=batch"),
    "batch-again": ("6", "autoencoder.align=batch", "sampling.shift=0.3"),
}


@pytest.fixture
def notes(tmp_path):
    def made(*names, seeds=(0, 1)):
        for name in names:
            weights, *words = RUNS[name]
            for seed in seeds:
                run = name + (f".seed-{seed}" if seed else "")
                config = build(override([*words, f"seed={seed}"]), preset="tiny")
                scores = [gfid(name, 5.0, seed=seed), score(name, "psnr", 20.0, seed)]
                write(tmp_path / run, scores, config=config.model_dump(mode="json"))
                about = unseal((tmp_path / run / "run.json").read_bytes(), RUN_FORMAT)
                about.pop("files", None)
                entry = {"stage": "autoencoder", "key": f"{weights}{seed}", "cell": {}, "seconds": 1.0, "cost": {}, "host": {}}
                seal_record(tmp_path / run, {**about, "stages": [entry, *about["stages"]]})
        tables = tables_for(collect(tmp_path), [])
        said = {note for table in tables for note in table.notes if "only scale and shift channels" in note}
        assert not any(note in said for table in tables for note in table.notes if table.title == "Reconstruction")
        return sorted(note.split(" give")[0].split(" only")[0] for note in said)

    return made


def test_two_alignments_on_the_same_weights_are_one_function_of_the_image_under_channel_statistics(notes):
    assert notes("residual", "residual-then-frozen") == ["same latents: residual and residual-then-frozen"]


def test_alignments_that_were_trained_apart_are_seen_through_stage_1_alone(notes):
    rows = "frozen; half; residual and residual-then-frozen"
    assert notes("residual", "residual-then-frozen", "frozen", "half", "token", "features-only", "residual-then-whiten") == [
        f"equal up to stage 1: the alignments of {rows}",
        "same latents: residual and residual-then-frozen",
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("frozen-scalar", "frozen-then-none-scalar"),
        ("frozen", "frozen-scalar"),
        ("token", "frozen"),
        ("residual-then-whiten", "residual"),
        ("features-only", "frozen"),
        ("batch", "batch-again"),
    ],
)
def test_rows_that_the_diffusion_model_tells_apart_are_not_noted(notes, names):
    assert notes(*names, seeds=(0,)) == []
