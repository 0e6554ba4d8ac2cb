"""A finished training goes on at another resolution: from its weights, without a new parameter, with what depends on the size made anew."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from commands import svgbench
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from safetensors.torch import load_file
from steps import Steps
from torch.testing import assert_close
from toys import in_child

from svgbench.config.build import build
from svgbench.config.derived import further_diffusion, start_of
from svgbench.config.networks import Decoder, Training
from svgbench.config.parse import override
from svgbench.errors import BadConfig
from svgbench.lab.configs import configs_of
from svgbench.lab.forecast import flops
from svgbench.lab.forecast.estimate import estimates
from svgbench.lab.plan import make_plan, nodes_of, resolve
from svgbench.machine.measure import count_flops
from svgbench.nets.blocks import grid_positions, rotary_angles
from svgbench.nets.ldm import LdmDecoder
from svgbench.stages.tokenizers import Shape
from svgbench.tables.collect import collect

STEP = "continued=[{resolution: 32, autoencoder: {images: 32}, diffusion: {images: 48}}]"
GRID = """base: smoke
run: c
set:
  data: {train_images: 32, val_images: 24}
  autoencoder: {training: {total_images: 32, checkpoint_images: 4}, loss: {adversarial_start_images: 16}}
  diffusion.training: {total_images: 32, checkpoint_images: 4}
  scores: {segmentation.enabled: false, probe.epochs: 1, resamples: 2}
  sampling: {count: 24, steps: [2], guidance: [1.0]}
axes:
  resolution:
    at-64:
      data.resolution: 64
      continued:
        - resolution: 32
          autoencoder: {images: 12, batch: 4, lr: 1.0e-12}
          diffusion: {images: 12, batch: 4, lr: 1.0e-12}
          adversarial_start_images: 4
"""


def config(*words):
    return resolve(build(override(words), preset="tiny"))


@pytest.mark.parametrize("side", [4, 5])
def test_interpolated_positions_are_pixarts_and_keep_those_of_the_first_grid_at_their_places(side):
    fine, first = grid_positions(32, 2 * side, 0.5), grid_positions(32, side)
    published = get_2d_sincos_pos_embed(32, 2 * side, base_size=side)
    assert_close(fine, torch.as_tensor(published).float(), atol=1e-5, rtol=0)
    assert torch.equal(fine.view(2 * side, 2 * side, 32)[::2, ::2].reshape(-1, 32), first)
    turned, old = rotary_angles(8, 2 * side, 0.5), rotary_angles(8, side)
    assert torch.equal(turned.view(2, 2 * side, 2 * side, 8)[:, ::2, ::2].reshape(2, -1, 8), old)


def test_recomputed_positions_count_on_past_the_first_grid():
    assert torch.equal(grid_positions(32, 8).view(8, 8, 32)[:4, :4].reshape(-1, 32), grid_positions(32, 4))


def test_the_shape_of_a_chain_remembers_the_first_resolution():
    once = Shape.at(256).continued(512, "interpolated")
    assert once == Shape(512, 256, 0.5) and once.continued(1024, "interpolated") == Shape(1024, 256, 0.25)
    assert once.continued(1024, "recomputed") == Shape(1024, 256, 0.5) and Shape.of(once.described()) == once
    assert Shape.at(256).described() == {"resolution": 256}  # as artifacts of one resolution always were


def test_a_continued_run_needs_the_work_of_the_run_before_and_shares_it():
    before, after = config("encoder.card=mae"), config("encoder.card=mae", "data.resolution=64", STEP)
    plan = make_plan({"before": before, "after": after})
    (start,) = plan.runs[1].behind
    assert start.why == "start" and start.config == before and set(start.nodes) <= {node.key for node in nodes_of(before)}
    assert [plan.nodes[key].stage for key in start.nodes] == ["images", "autoencoder", "statistics", "diffusion"]
    of_after = {plan.nodes[key].stage: plan.nodes[key] for key in plan.runs[1].nodes if key not in start.nodes}
    trained = {plan.nodes[key].stage: key for key in start.nodes}
    assert of_after["continued-autoencoder"].inputs["start"] == trained["autoencoder"]
    assert of_after["continued-diffusion"].inputs["start"] == trained["diffusion"]
    assert of_after["samples"].inputs["diffusion"] == of_after["continued-diffusion"].key
    assert not {"autoencoder", "diffusion"} & of_after.keys()


def test_two_continuations_are_the_first_one_continued():
    steps = STEP.removesuffix("]") + ", {resolution: 64, autoencoder: {images: 16}, diffusion: {images: 16}}]"
    once, twice = config("encoder.card=mae", "data.resolution=64", STEP), config("encoder.card=mae", "data.resolution=96", steps)
    assert start_of(twice) == once and start_of(start_of(once)) is None
    plan = make_plan({"twice": twice})
    assert sum(node.stage == "continued-diffusion" for node in plan.nodes.values()) == 2
    costs = estimates(plan).nodes
    trained = [costs[key].flops for key, node in plan.nodes.items() if node.stage.endswith("diffusion")]
    assert len(trained) == 3 and trained[2] < trained[1] < trained[0]


def test_a_run_that_continues_nothing_has_no_such_field():
    assert "continued" not in config().model_dump()


def test_a_decay_begins_with_the_continuation_and_ends_at_most_at_its_rate():
    step = STEP.replace("diffusion: {images", "diffusion: {lr: 1.0e-4, images")
    rates = "diffusion.training.optimiser={lr: 1.0e-3, schedule: linear, decay_start_images: 50000, final_lr: 2.0e-4}"
    whole = config("encoder.card=mae", "data.resolution=64", rates, step)
    part = further_diffusion(whole.diffusion, whole.continued[-1]).training
    assert (part.optimiser.lr, part.optimiser.decay_start_images, part.optimiser.final_lr) == (1e-4, 0, 1e-4)
    assert Training.model_validate(part.model_dump()) == part  # as the stage reads it


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("data.resolution=60", STEP), r"images of 60 px cannot be divided into the 8 px patches.*use 56 or 64"),
        (("data.resolution=64", STEP.replace("32,", "36,")), r"continued\.resolution 36: images of 36 px cannot be divided.*use 32 or 40"),
        (("data.resolution=40", "diffusion.transformer.patch=2", STEP), r"patch 2 does not divide the 5 x 5 latents"),
        (("data.resolution=32", STEP), r"continued\.resolution 32 is the resolution of the run itself"),
        (("data.resolution=64", "continued=[{resolution: 32, diffusion: {images: 8}}]"), r"continued\.autoencoder must state for how many"),
        (("data.resolution=64", "diffusion.dimension_shift=true", STEP), "dimension_shift would differ between the resolutions"),
        (("data.resolution=64", "diffusion.release={kind: sit, file: x.pt}", STEP), "this run uses a release"),
        (("data.resolution=64", "continued=[]"), r"continued must be a list of at least 1 entry"),
        (("data.resolution=64", "continued=[{resolution: 32}]"), r"continued\.0\.diffusion is missing"),
    ],
)
def test_a_continuation_that_cannot_be_meant_is_refused_in_a_sentence(words, sentence):
    with pytest.raises(BadConfig, match=sentence):
        build(override(["encoder.card=mae", *words]), preset="tiny")


def test_a_codec_goes_on_without_a_stage_one():
    plan = make_plan({"a": config("encoder.card=sd-vae", "data.resolution=64", "continued=[{resolution: 32, diffusion: {images: 8}}]")})
    stages = [node.stage for node in plan.nodes.values()]
    assert stages.count("adoption") == 1 and "continued-autoencoder" not in stages and "continued-diffusion" in stages


def test_the_papers_epochs_are_those_of_appendix_h():
    """arXiv 2510.15301, appendix H: 5 and 1 epochs of the autoencoder, 300, 25 and 1 of SiT, on ImageNet's 1,281,167 images."""
    configs = list(configs_of("continue-512", "paper", None, None, resolved=False).values())
    assert [one.data.resolution for one in configs] == [256, 512, 1024]
    assert configs[0].diffusion.training.total_images == 300 * 1_281_167
    steps = [(step.resolution, step.autoencoder.images, step.diffusion.images) for step in configs[2].continued]
    assert steps == [(256, 5 * 1_281_167, 25 * 1_281_167), (512, 1_281_167, 1_281_167)]
    assert configs[1].continued == configs[2].continued[:1]


def test_a_decoder_keeps_its_attention_on_its_levels_and_its_work_is_counted_so():
    part = Decoder(base=8, multipliers=(1, 2, 2), blocks=1, attention=(8,))
    sizes = part.model_dump(exclude={"kind", "vit"})
    network = LdmDecoder(**sizes, z_channels=4, resolution=16)  # attention at 8 of 4, 8, 16
    with_it = count_flops(lambda: network(torch.zeros(1, 4, 8, 8)))
    assert with_it == flops.ldm_decoder(part, channels=4, resolution=32, first=16).forward
    assert with_it != flops.ldm_decoder(part, channels=4, resolution=32).forward


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The grid, run by its command: 32 px, then 64 px at a rate of next to nothing."""
    folder = tmp_path_factory.mktemp("continued")
    (folder / "grid.yaml").write_text(GRID)
    done = svgbench("ablate", folder / "grid.yaml", "--out", folder / "runs", "--threads", "1")
    assert done.returncode == 0, done.stderr
    return folder / "runs", done


def of(store, stage):
    (place,) = (path.parent for path in (store / stage).glob("*/manifest.json"))
    return place


@pytest.mark.parametrize(("stage", "file"), [("autoencoder", "autoencoder.safetensors"), ("diffusion", "sit.safetensors")])
def test_what_went_on_has_the_parameters_of_its_start_and_began_from_their_values(ran, stage, file):
    store = ran[0] / "store"
    before, after = load_file(of(store, stage) / file), load_file(of(store, f"continued-{stage}") / file)
    assert {name: tensor.shape for name, tensor in before.items()} == {name: tensor.shape for name, tensor in after.items()}
    fixed = [name for name in before if name.startswith("alignment.")]  # measured anew at the new resolution
    for name in before.keys() - set(fixed):
        assert_close(after[name], before[name], atol=1e-7, rtol=1e-5)
    assert all(not torch.equal(after[name], before[name]) for name in fixed)


def test_what_depends_on_the_resolution_is_made_for_it(ran):
    store = ran[0] / "store"
    about = json.loads((of(store, "continued-autoencoder") / "autoencoder.json").read_text())
    assert (about["resolution"], about["first"], about["spacing"]) == (64, 32, 0.5)
    sizes = json.loads((of(store, "continued-diffusion") / "sit.json").read_text())["sizes"]
    assert (sizes["grid"], sizes["spacing"]) == (8, 0.5)
    assert "spacing" not in json.loads((of(store, "diffusion") / "sit.json").read_text())["sizes"]
    means = [load_file(path)["mean"] for path in (store / "statistics").glob("*/statistics.safetensors")]
    assert len(means) == 2 and not torch.equal(*means)
    assert np.load(of(store, "samples") / "samples.npy").shape == (24, 3, 64, 64)
    assert np.load(of(store, "reconstructions") / "reconstructions.npy").shape == (24, 3, 64, 64)


def test_the_record_and_the_table_tell_of_both_trainings(ran):
    out, done = ran
    (record,) = collect(out)
    assert {row["images_seen"] for row in record.scores} == {32 + 12}
    assert {stage["why"] for stage in record.behind} == {"start"} and record.stage("diffusion")["stage"] == "continued-diffusion"
    assert "diffusion (start)" in done.stdout and "continued-diffusion" in done.stdout


def test_a_sample_is_drawn_at_the_new_resolution(ran, tmp_path):
    done = svgbench("sample", "c.at-64", "--to", tmp_path / "x.png", "--steps", "2", "--labels", "1", "--out", ran[0])
    assert done.returncode == 0, done.stderr


def test_a_continuation_that_was_killed_ends_with_the_bytes_of_the_uninterrupted_one(ran, tmp_path):
    """The finished artifact of the command, and one made again from the same inputs, killed at its second update."""
    shutil.copytree(ran[0] / "store", tmp_path / "store", symlinks=True)
    store, stage = tmp_path / "store", "continued-diffusion"
    whole = {path.name: path.read_bytes() for path in of(store, stage).glob("*.safetensors")}
    shutil.rmtree(of(store, stage))
    plan = make_plan(configs_of(str(ran[0].parent / "grid.yaml"), "tiny", None, None))
    steps = Steps(tmp_path)
    steps.nodes = list(plan.nodes.values())
    assert in_child(lambda: steps.run(stage), failpoint="training.updated:2") == -signal.SIGKILL
    assert in_child(lambda: steps.run(stage)) == 0
    assert {path.name: path.read_bytes() for path in of(store, stage).glob("*.safetensors")} == whole
