"""The diffusion stage's losses: one big batch equals its pieces, and a rank without images still reports every loss."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from products import Products
from safetensors.torch import load_file, save_file
from torch import nn
from toys import in_ranks

from svgbench.config import schema
from svgbench.config.build import build
from svgbench.errors import BadConfig
from svgbench.machine import gradients as sums
from svgbench.machine.feed import loaded
from svgbench.machine.order import Batch
from svgbench.machine.runtime import Runtime
from svgbench.nets import flow
from svgbench.nets.latents import LatentStats
from svgbench.nets.representation import Projector
from svgbench.nets.sit import SiT
from svgbench.stages.diffusion import DiffusionTask

SIZES = {"channels": 4, "grid": 4, "width": 32, "depth": 2, "heads": 2, "classes": 3}


def _task(micro_batch=None, teacher=False, precision="fp32", **settings):
    torch.manual_seed(0)
    model = SiT(**SIZES, learned_sigma=settings.get("objective") == "ddpm")
    for layer in (model.final, model.modulation):
        nn.init.normal_(layer.weight, std=0.1)
    latents, features = torch.randn(6, 4, 4, 4), torch.randn(6, 8, 4, 4)
    watched = None
    if teacher:
        watched = SimpleNamespace(projector=Projector(32, 16, 8), weight=0.5, block=1, features=lambda i, flip: features[i])
    part = schema.Diffusion(flip=False, training={"total_images": 6, "batch": 6, "precision": precision}, **settings)
    stats = LatentStats(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    runtime = Runtime(device="cpu", threads=1, micro_batch=micro_batch, quiet=True)
    return DiffusionTask(model, lambda i, flip: latents[i], torch.tensor([0, 1, 2, 0, 1, 2]), stats, part, 3, runtime, watched)


def _gradients(task, batch):
    losses = task.update(loaded(task, batch, torch.device("cpu")), lambda name: None)
    return losses, {f"{m}.{n}": p.grad for m, module in task.modules.items() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "settings", [{}, {"prediction": "data", "time": "logit-normal", "direction": 0.5}, {"objective": "ddpm"}, {"teacher": True}]
)
def test_pieces_of_a_batch_add_up_to_it(settings):
    batch = Batch(indices=torch.arange(6), positions=torch.arange(100, 106), size=6, images_seen=0)
    whole, one = _gradients(_task(**settings), batch)
    parts, many = _gradients(_task(micro_batch=4, **settings), batch)
    assert whole.keys() == parts.keys() and all(torch.allclose(whole[n], parts[n], rtol=1e-5) for n in whole)
    assert one.keys() == many.keys() and all(torch.allclose(one[n], many[n], rtol=1e-3, atol=1e-6) for n in one)


@pytest.mark.parametrize("micro", [None, 2])
def test_two_ranks_sum_the_gradients_of_one_process_during_the_last_backward_pass(tmp_path, monkeypatch, micro):
    monkeypatch.setattr(sums, "BUCKET_BYTES", 1 << 14)

    def work():
        runtime = Runtime(device="cpu", threads=1).start()
        task = _task(micro_batch=micro, teacher=True)
        summed = sums.GradientSums(task.optimisers, runtime)

        def apply(name):
            assert len(summed._buckets[name]) > 1 and all(bucket.sum is not None for bucket in summed._buckets[name])
            summed.summed(name)

        mine = torch.arange(6)[runtime.rank :: 2]
        task.update(loaded(task, Batch(mine, mine + 100, 6, reducing=summed.reducing), torch.device("cpu")), apply)
        save_file(
            {f"{m}.{n}": p.grad.clone() for m, module in task.modules.items() for n, p in module.named_parameters()},
            tmp_path / f"{runtime.rank}",
        )
        runtime.stop()

    assert in_ranks(2, work) == [0, 0]
    _, whole = _gradients(_task(teacher=True), Batch(indices=torch.arange(6), positions=torch.arange(100, 106), size=6))
    for rank in (0, 1):
        found = load_file(tmp_path / f"{rank}")
        assert whole.keys() <= found.keys()
        assert all(torch.allclose(gradient, whole.get(n, torch.zeros(())), rtol=1e-3, atol=1e-6) for n, gradient in found.items())


def test_repas_loss_reaches_the_projector_and_the_blocks_before_its_tap_only_beside_the_flows_own():
    batch = Batch(indices=torch.arange(6), positions=torch.arange(6), size=6, images_seen=0)
    losses, gradients = _gradients(_task(teacher=True), batch)
    assert set(losses) == {"loss", "representation"} and -1 <= losses["representation"] <= 1
    alone, without = _gradients(_task(), batch)
    assert torch.equal(losses["loss"], alone["loss"])
    assert any(name.startswith("projector.") for name in gradients)
    assert not torch.allclose(gradients["sit.blocks.0.attn.proj.weight"], without["sit.blocks.0.attn.proj.weight"])
    assert torch.allclose(gradients["sit.blocks.1.attn.proj.weight"], without["sit.blocks.1.attn.proj.weight"])


@pytest.mark.parametrize("teacher", [False, True])
def test_a_rank_without_images_reports_the_same_losses(teacher):
    nothing = torch.arange(0)
    losses, _ = _gradients(_task(teacher=teacher), Batch(indices=nothing, positions=nothing, size=6, images_seen=0))
    assert set(losses) == ({"loss", "representation"} if teacher else {"loss"}) and not any(losses.values())


def test_lightningdits_direction_loss_is_added_with_its_weight():
    """1 - cosine over channels, as ``torch.nn.functional.cosine_similarity(model_output, ut, dim=1)`` in hustvl/LightningDiT, transport.py;
    known values: 0 for equal, 1 for orthogonal, 2 for opposite directions, whatever the length."""
    ahead = torch.tensor([1.0, 2.0])[None, :, None, None].expand(3, 2, 4, 4)
    across = torch.tensor([2.0, -1.0])[None, :, None, None].expand(3, 2, 4, 4)
    found = flow.misdirection(torch.stack([5 * ahead[0], across[0], -ahead[0]]), ahead)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 2.0]))
    batch = Batch(indices=torch.arange(6), positions=torch.arange(6), size=6, images_seen=0)
    losses, gradients = _gradients(_task(direction=0.5), batch)
    alone, without = _gradients(_task(), batch)
    doubled = _gradients(_task(direction=1.0), batch)[1]
    assert set(losses) == {"loss", "direction"} and torch.equal(losses["loss"], alone["loss"])
    for name, gradient in without.items():  # the gradient is linear in the weight
        torch.testing.assert_close(doubled[name] - gradient, 2 * (gradients[name] - gradient), rtol=1e-3, atol=1e-6)
    with pytest.raises(BadConfig, match=r"diffusion\.direction needs a velocity model, diffusion\.objective flow"):
        build({"diffusion": {"objective": "ddpm", "direction": 1.0}, "sampling": {"sampler": "ddim"}}, preset="tiny")


@pytest.mark.parametrize("settings", [{}, {"objective": "ddpm"}, {"teacher": True}])
def test_no_product_is_fp32_in_a_bf16_training(settings):
    batch = Batch(indices=torch.arange(6), positions=torch.arange(6), size=6, images_seen=0)
    found = []
    for precision in ("bf16", "fp32"):
        with Products() as products:
            _gradients(_task(precision=precision, **settings), batch)
        found.append(products)
    assert found[0].fp32 == [] and found[0].bf16 > 20
    assert len(found[1].fp32) > 20 and found[1].bf16 == 0
