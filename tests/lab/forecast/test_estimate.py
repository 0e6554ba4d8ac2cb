"""What a plan is said to cost: updates as counted on the real tasks, evaluations as sampled, bytes and images as configured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from scenes import nyu

from svgbench.config.build import build
from svgbench.config.choices import SAMPLERS, evaluations
from svgbench.errors import BadData, UnknownName
from svgbench.lab.configs import configs_of
from svgbench.lab.forecast.estimate import (
    CHECKPOINTS,
    REFERENCE_IMAGES,
    assumptions,
    estimate,
    estimates,
    outline,
    update_flops,
)
from svgbench.lab.forecast.sizes import Counts, counts_of, sizes_of
from svgbench.lab.plan import make_plan
from svgbench.machine import checkpoints
from svgbench.machine.feed import loaded
from svgbench.machine.measure import count_flops
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch
from svgbench.metrics import features
from svgbench.metrics.perceptual import VggTaps
from svgbench.nets.classifier import ShapesVGG
from svgbench.nets.sampler import sample
from svgbench.stages import autoencoder, graph, tokenizers


def sized(preset="tiny", counts=None, **settings):
    config = build(settings, preset=preset)
    return sizes_of(config, counts or counts_of(config))


def by_stage(sizes):
    """Stage -> the estimate of its last cell."""
    return {stage.name: estimate(stage.name, cell, sizes) for stage, cell in outline(sizes.config, sizes.card.kind)}


SETTINGS = {
    "paper": ("paper", {}),
    "tiny": ("tiny", {}),
    "tiny without residual": ("tiny", {"autoencoder": {"residual": {"channels": 0}}}),
    "tiny with gradients through the statistics": ("tiny", {"autoencoder": {"align_gradient": True}}),
    "tiny with the ViT decoder": ("tiny", {"autoencoder": {"decoder": {"kind": "vit"}}}),
}


def test_features_of_several_blocks_are_kept_for_layer_subsets():
    blocks = {"encoder": {"features": {"layers": [2, 3, 4], "combine": "mean"}}}
    plain, several = sized("tiny", **blocks), sized("tiny", **blocks, autoencoder={"layer_subsets": 0.5})
    assert several.feature_bytes == 3 * plain.feature_bytes > 0


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("gan", [False, True])
def test_an_update_of_the_autoencoder_costs_what_is_counted(monkeypatch, name, gan):
    preset, settings = SETTINGS[name]
    sizes = sized(preset, Counts(10, 10, 10), **settings)
    part, side, channels = sizes.config.autoencoder, sizes.side, sizes.card.channels
    with torch.device("meta"):
        taps = VggTaps() if part.loss.network == "lpips" else ShapesVGG(classes=10, words=9)
        taps.requires_grad_(False)
        activations = taps if isinstance(taps, VggTaps) else taps.activations
        monkeypatch.setattr(autoencoder, "load_perceptual", lambda *_, **__: SimpleNamespace(activations=activations, weights=None))
        images = SimpleNamespace(rows=lambda indices: torch.zeros(len(indices), 3, side, side, dtype=torch.uint8))
        runtime, encoder = Runtime(device="meta", quiet=True), SimpleNamespace(channels=channels, stride=sizes.card.stride)
        made = tokenizers.build(encoder, part, side, runtime.torch_device)
        features = lambda indices, images: torch.zeros(len(indices), channels, sizes.grid, sizes.grid)  # noqa: E731
        task = autoencoder.AutoencoderTask(made, images, features, part, 0, runtime)
        batch = loaded(task, Batch(torch.arange(2), torch.arange(2), 2, images_seen=10**9 if gan else -1), runtime.torch_device)
        counted = count_flops(lambda: task.update(batch, lambda name: None)) / 2
    assert sum(update_flops(sizes, gan=gan)) == pytest.approx(counted, rel=2e-3)  # the alignment's own small products are not planned
    parameters = sum(p.numel() for module in (made.residual_encoder, made.decoder) if module is not None for p in module.parameters())
    assert estimate("autoencoder", {}, sizes).kept == 4 * parameters


def test_stage_one_at_the_paper_s_size_is_planned_at_the_counted_table_s_figure():
    sizes = sized("paper")
    assert (sum(update_flops(sizes, gan=True)) + sizes.features) / 1e9 == pytest.approx(966, abs=1)


@pytest.mark.parametrize(("sampler", "schedule"), [
    ("euler", "constant"), ("euler", "late"), ("euler", "early-0.3"), ("euler", "interval-0.1-0.5"), ("sde-euler", "linear"),
    ("heun", "constant"), ("heun", "interval-0.1-0.5"), ("midpoint", "constant"), ("midpoint", "early-0.3"), ("ddim", "late"),
    ("ddim", "early-0.5"), ("ddpm", "interval-0.2-0.6"), ("sde-euler", "early-0.45"),
])  # fmt: skip
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("zero_init", [0, 2])
def test_evaluations_are_those_that_sampling_makes(sampler, schedule, guidance, zero_init):
    zero_init = zero_init if SAMPLERS[sampler].zero_init else 0
    seen = []

    def says(x, t, labels):
        seen.append(len(x))
        return torch.zeros_like(x)

    says.classes, says.objective = 10, SAMPLERS[sampler].objective
    how = {"sampler": sampler, "schedule": schedule, "guidance": guidance, "shift": 0.3, "zero_init": zero_init}
    sample(says, torch.randn(1, 2, 2, 2), torch.zeros(1).long(), steps=7, **how)
    assert evaluations(steps=7, **how) == sum(seen)


def test_the_limits_are_those_of_the_stages():
    assert (REFERENCE_IMAGES, CHECKPOINTS) == (features.KEPT, checkpoints.MAX_KEPT + 1)


def test_an_unknown_sampler_is_refused_and_an_adaptive_one_is_not_counted():
    with pytest.raises(UnknownName, match="Did you mean 'euler'"):
        evaluations("eular", 7, 1.0, "constant", 1.0)
    assert evaluations("dopri5", 7, 1.0, "constant", 1.0) is None


def test_every_stage_is_estimated():
    sizes = sized()
    for stage in graph.STAGES:
        cell = {"sampling.steps": 5, "sampling.guidance": 2.0} if stage.name == "samples" else {}
        assert f"the stage {stage.name}" not in estimate(stage.name, cell, sizes).left_out, f"{stage.name} has no row in lab/estimate.py"
    assert estimate("a-new-one", {}, sizes).left_out == ("the stage a-new-one",)


def test_an_outline_has_the_stages_and_cells_of_the_plan():
    for encoder in ("dinov3", "sd-vae"):
        (config,) = (configs := configs_of(encoder, "tiny", None, None)).values()
        plan = make_plan(configs)
        kind = sizes_of(config, counts_of(config)).card.kind
        assert [(stage.name, cell) for stage, cell in outline(config, kind)] == [(n.stage, n.cell) for n in plan.nodes.values()]


def test_a_node_that_runs_share_is_counted_once_and_nothing_of_torch_s_is_opened():
    plan = make_plan(configs_of("dinov3", "tiny", None, None) | configs_of("dinov3", "tiny", ["diffusion.shift=1.0"], None))
    found = estimates(plan)
    assert found.nodes.keys() == plan.nodes.keys() and found.notes == []
    assert sum(node.stage == "autoencoder" for node in plan.nodes.values()) == 1


def test_imagenet_is_taken_for_what_was_published_while_it_is_not_here_and_for_its_files_when_it_is(tmp_path):
    paper = sized("paper")
    assert (paper.counts.train, paper.counts.val, paper.counts.classes) == (1281167, 50000, 1000)
    assert "ImageNet-1k" in assumptions(paper, [])[0]
    found = by_stage(paper)
    assert found["images"].kept == 1331167 * (3 * 256**2 + 8)
    assert found["samples"].kept == 50_000 * (196_608 + 8)
    fewer = sized("paper", data={"train_images": 1000})
    assert fewer.counts.train == 1000
    for split, count in (("train", 6), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / split / name / f"{number}.jpg").write_bytes(b"x")
    here = sized("paper", data={"source": str(tmp_path)})
    assert (here.counts.train, here.counts.val, here.counts.classes, here.counts.assumed) == (12, 4, 2, "")
    with pytest.raises(BadData, match="does not exist"):
        sized("paper", data={"source": str(tmp_path / "no")})


def test_what_is_in_memory_is_encoded_once_and_what_is_not_each_time_it_is_seen():
    small, large = (sized("paper", Counts(images, 100, 10), encoder={"precision": "fp32"}) for images in (2_000, 1_000_000))
    few, many = by_stage(small)["diffusion"], by_stage(large)["diffusion"]
    assert few.fp32 == 2 * 2_000 * small.encoding  # both ways round
    assert many.fp32 == small.config.diffusion.training.total_images * small.encoding
    assert (few.bf16, few.kept) == (many.bf16, many.kept)


def test_encoding_and_sampling_count_at_their_own_precision():
    counts = Counts(2_000, 100, 10)
    both, plain = sized("paper", counts), sized("paper", counts, encoder={"precision": "fp32"}, sampling={"precision": "fp32"})
    for stage in ("statistics", "reconstructions", "samples", "paper-probe-scores"):
        assert (by_stage(both)[stage].bf16, by_stage(both)[stage].fp32) == (by_stage(plain)[stage].fp32, 0.0) != (0.0, 0.0)
    decoded = by_stage(sized("paper", counts, sampling={"precision": "fp32"}))["samples"]
    assert decoded.bf16 == both.config.sampling.count * both.decoding < decoded.fp32


def test_kept_latents_spare_the_scores_their_encoding():
    kept, not_kept = sized(counts=Counts(1_000, 100, 10)), sized(counts=Counts(10_000_000, 100, 10))
    assert by_stage(kept)["pooled-latents"].flops == 0 and by_stage(kept)["statistics"].kept == 1100 * kept.latent_bytes
    assert by_stage(not_kept)["pooled-latents"].flops == 10_000_100 * not_kept.encoding and by_stage(not_kept)["statistics"].kept == 0


def test_a_codec_trains_no_autoencoder_and_a_teacher_is_part_of_repa():
    assert "autoencoder" not in by_stage(sized(encoder={"card": "sd-vae"}))
    plain, taught = sized(encoder={"card": "mae"}), sized(encoder={"card": "mae"}, diffusion={"representation": {"weight": 0.5}})
    assert taught.teacher.name == "dinov2-tiny"
    assert by_stage(taught)["diffusion"].flops > by_stage(plain)["diffusion"].flops


def test_what_nobody_counted_is_said():
    sizes = sized("paper", Counts(100, 10, 5), encoder={"card": "timm:vit_base_patch16_224.augreg_in1k"})
    assert sizes.encoding == sizes.residual.forward
    assert (
        assumptions(sizes, [])[0]
        == "not counted: the encoder timm:vit_base_patch16_224.augreg_in1k, whose operations per image are unknown"
    )
    adaptive = sized(sampling={"sampler": "dopri5"})
    assert any("dopri5" in word for word in by_stage(adaptive)["samples"].left_out)


def test_the_papers_heads_are_counted_by_their_crops(tmp_path):
    source = str(nyu(tmp_path / "nyu"))

    def of(stage, place=source, epochs=3):
        deconv = {"epochs": epochs, "crop": 32, "window_stride": 16}
        scores = {"protocol": "paper", "depth": {"source": place}, "paper": {"linear": {"epochs": epochs}, "deconv": deconv}}
        sizes = sized(scores=scores)
        return estimate(stage, {}, sizes), sizes

    probe, sizes = of("paper-probe-scores")
    assert (
        probe.fp32 == (3 * sizes.counts.train + sizes.counts.val) * sizes.encoding and probe.core_seconds == 2 * sizes.counts.train / 1000
    )
    once, thrice = of("paper-depth-scores", epochs=1)[0].fp32, of("paper-depth-scores")[0].fp32
    assert thrice == pytest.approx(3 * once) and once > 6 * sizes.encoding  # six images: an encoding and the head each
    assert of("paper-depth-scores", "nowhere")[0].left_out == ("depth crops of nowhere, which is not here",)
