"""Planned peak memory: near what PyTorch's allocator counted at the paper's sizes, and every stage of the preset fits one H200."""

from __future__ import annotations

import pytest
import torch

from svgbench.config.build import build
from svgbench.config.choices import MEMORY_SHARE, PIECE
from svgbench.lab.forecast.estimate import Estimate, estimate, outline
from svgbench.lab.forecast.memory import GIB, MEMORY, Peak, fitting, map_elements, on_gpus, peak, remarks
from svgbench.lab.forecast.sizes import Counts, sizes_of
from svgbench.lab.forecast.speed import pace_of
from svgbench.machine.memory import Memory
from svgbench.nets.ldm import LdmDecoder
from svgbench.stages.graph import by_name
from svgbench.tables.planned import stage_table

IMAGENET = Counts(1_281_167, 50_000, 1000)


def sized(preset="paper", **settings):
    return sizes_of(build(settings, preset=preset), IMAGENET)


def stage_one(precision):
    return sized(autoencoder={"training": {"precision": precision}})


@pytest.mark.parametrize(("stage", "sizes", "images", "compiled", "counted"), [
    ("diffusion", sized(), 256, False, 146.7e9), ("diffusion", sized(), 256, True, 104.5e9),
    ("autoencoder", stage_one("bf16"), 64, False, 50.0e9), ("autoencoder", stage_one("bf16"), 64, True, 33.0e9),
])  # fmt: skip
def test_a_planned_peak_is_near_the_one_that_the_allocator_counted(stage, sizes, images, compiled, counted):
    assert peak(stage, sizes, local=images, compiled=compiled).total == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize(("precision", "compiled", "counted"), [("fp32", False, 77.7e9), ("bf16", True, 87.7e9)])
def test_the_peak_of_micro_batches_is_near_the_counted_one(precision, compiled, counted):
    """512 images on one GPU, as many at once as a training chose there."""
    assert on_gpus(peak("autoencoder", stage_one(precision), compiled=compiled), 1).total == pytest.approx(counted, rel=0.03)


def test_every_stage_of_the_preset_paper_fits_one_gpu_without_flags():
    sizes = sized()
    peaks = {stage.name: peak(stage.name, sizes) for stage, _ in outline(sizes.config, sizes.card.kind)}
    planned = {name: on_gpus(made, 1) for name, made in peaks.items() if made}
    assert {"autoencoder", "diffusion", "samples", "statistics", "reconstructions"} <= planned.keys()
    assert all(made.total <= MEMORY * MEMORY_SHARE for made in planned.values())
    found = Memory(fits=fitting(peaks["autoencoder"]), image=1, room=fitting(peaks["autoencoder"]))  # what a training would count
    limit = found.limit(512, PIECE)
    assert (planned["autoencoder"].images, planned["autoencoder"].kept) == (limit, found.held(limit)) and limit == 64
    assert planned["diffusion"].images == 256 and on_gpus(peaks["diffusion"], 8).images == 32
    said = remarks([(name, made) for name, made in peaks.items() if made], 1)
    start = f"autoencoder in micro-batches of 64 (activations of {found.held(limit)} kept): 512 images at once would take "
    assert len(said) == 1 and said[0].startswith(start)
    assert remarks([(name, made) for name, made in peaks.items() if made], 8) == []


def test_a_stage_that_does_not_fit_is_warned_of():
    large = Peak(states=150 * GIB, image=GIB, images=8)
    assert fitting(large) == 0 and on_gpus(large, 1).images == 1
    assert remarks([("diffusion", large)] * 2, 1) == ["diffusion does not fit: planned peak 151 GiB of the 139 GiB of an H200."]
    assert fitting(Peak(states=0.0, image=GIB, images=1000)) == int(139 * MEMORY_SHARE)


def test_a_plan_for_gpus_shows_the_memory_of_each_stage():
    rows = [(by_name("diffusion"), {}, Estimate(peak=Peak(1e9, 1e9, 8))), (by_name("overview"), {}, Estimate())]
    table = stage_table("t", rows, [], pace_of(4))
    assert table.columns[-1] == "GPU memory" and [row[-1] for row in table.rows] == ["3 GB", "-"]
    assert "GPU memory" not in stage_table("t", rows, [], pace_of(0)).columns
    assert estimate("diffusion", {}, sized()).peak == peak("diffusion", sized())


def test_the_elements_of_the_decoder_are_those_that_its_layers_take_in():
    """Inputs of the decoder's convolutions, norms and activations on one image, counted on meta tensors."""
    part, taken = build({}, preset="paper").autoencoder.decoder, []
    with torch.device("meta"):
        decoder = LdmDecoder(**part.model_dump(exclude={"kind", "vit"}), z_channels=392, out_channels=3, resolution=256)
        for module in decoder.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.GroupNorm):
                times = 2 if isinstance(module, torch.nn.GroupNorm) else 1  # its output is the input of an activation
                module.register_forward_pre_hook(lambda _, inputs, times=times: taken.append(times * inputs[0].numel()))
        decoder(torch.zeros(1, 392, 16, 16))
    assert map_elements(part, 256) == pytest.approx(sum(taken), rel=0.1)
