"""What a training is said to cost: the same operations whether latents are kept or not and at any micro-batch, and a named rate."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from svgbench.config import schema
from svgbench.config.build import build
from svgbench.machine import measure
from svgbench.machine.feed import TableRows
from svgbench.machine.measure import CountedWork, apart, count_work, gemm_name, precision_used
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import TrainingReport
from svgbench.nets.chunks import chunk_size, in_chunks
from svgbench.nets.execution import checkpoint_activations
from svgbench.nets.latents import LatentStats
from svgbench.nets.sit import SiT
from svgbench.stages import autoencoder, cost, diffusion, tokenizers

torch.set_num_threads(1)
CPU = torch.device("cpu")


class Padded(torch.nn.Module):
    """An encoder of 8 px patches that pads its images to a full chunk, as the real ones do."""

    def __init__(self, channels=5, stride=8):
        super().__init__()
        self.channels, self.stride = channels, stride
        self.layer = torch.nn.Conv2d(3, channels, stride, stride=stride).requires_grad_(False)

    def encode(self, images):
        return in_chunks(self.layer, images, chunk_size(images.device, *images.shape[2:]))


class Pictures:
    """An image set in memory."""

    def __init__(self, count, side):
        self._images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)

    def __len__(self):
        return len(self._images)

    def rows(self, indices):
        return TableRows(self._images, indices)

    def batch(self, indices):
        return self.rows(indices).read()


def settings():
    part = build({}, preset="tiny").autoencoder
    residual = part.residual.model_copy(update={"layers": 1, "width": 32, "heads": 2, "mlp": 64})
    decoder = part.decoder.model_copy(update={"base": 8, "multipliers": (1, 1, 2, 2)})
    loss = part.loss.model_copy(update={"adversarial_start_images": 100, "discriminator_base": 8})
    return part.model_copy(update={"residual": residual, "decoder": decoder, "loss": loss})


def second(micro=None, *, compile=False):
    """Stage 2 on the latents of 12 images of 16 px."""
    encoder, images, runtime = Padded(), Pictures(12, 16), Runtime(device="cpu", micro_batch=micro, quiet=True)
    latents = tokenizers.Cached(encoder.encode, images, runtime, label="latents")
    part = build({}, preset="tiny").diffusion
    model = SiT(channels=5, grid=2, classes=3, width=32, depth=2, heads=2)
    if compile:
        for block in model.blocks:
            block.compile(backend="eager")
    stats = LatentStats(torch.zeros(5), torch.ones(5))
    return diffusion.DiffusionTask(model, latents, torch.zeros(12, dtype=torch.int64), stats, part, 0, runtime)


def first(micro=None):
    """Stage 1 around the same encoder."""
    part, encoder, images, runtime = settings(), Padded(), Pictures(12, 32), Runtime(device="cpu", micro_batch=micro, quiet=True)
    features = tokenizers.Cached(encoder.encode, images, runtime, label="features")
    return autoencoder.AutoencoderTask(tokenizers.build(encoder, part, 32, CPU), images, features, part, 3, runtime)


def encoder_flops(side):
    return 2 * 5 * (side // 8) ** 2 * 3 * 64


@pytest.mark.parametrize("micro", [None, 1, 3])
def test_an_image_costs_the_same_with_latents_in_memory_or_not_and_at_any_micro_batch(monkeypatch, micro):
    kept = diffusion.update_work(second()), autoencoder.update_work(first(), 1000)
    monkeypatch.setattr(tokenizers, "CACHE_BYTES", 0)
    online = diffusion.update_work(second(micro)), autoencoder.update_work(first(micro), 1000)
    assert [work.model for work in online] == [work.model for work in kept] and all(work.model > 0 for work in kept)
    assert [work.apart for work in kept] == [0, 0]
    assert [work.apart for work in online] == [encoder_flops(16), encoder_flops(32)]  # one image, not a padded chunk


def test_compiled_blocks_are_counted_as_they_are_written():
    assert diffusion.update_work(second(compile=True)) == diffusion.update_work(second())


def test_the_probe_leaves_no_gradients():
    task = first()
    assert autoencoder.update_work(task, 1000).model > autoencoder.update_work(task, -1).model
    assert all(parameter.grad is None for module in task.modules.values() for parameter in module.parameters())


def test_activations_that_are_computed_again_do_not_count():
    plain, task = diffusion.update_work(second()), second()
    checkpoint_activations(task.modules["sit"])
    assert diffusion.update_work(task) == plain
    assert all(block.checkpointing for block in task.modules["sit"].blocks)  # the training computes them again
    blocks = [made.modules["sit"].blocks[0] for made in (second(), task)]
    once, again = (
        count_work(lambda block=block: block(torch.ones(1, 4, 32, requires_grad=True), torch.ones(1, 6, 32), None).sum().backward(), 1)
        for block in blocks
    )  # fmt: skip
    assert again.model > once.model


def test_what_runs_apart_is_taken_from_the_count_once_for_each_call():
    layer, frozen = torch.nn.Linear(4, 6), torch.nn.Linear(4, 4)
    marked, rows = apart(frozen), torch.randn(2, 4)
    assert count_work(lambda: layer(marked(marked(rows))), 2) == CountedWork(2 * 4 * 6, 2 * 2 * 4 * 4)
    assert torch.equal(marked(rows), frozen(rows))


def test_updates_at_the_paper_s_size_stay_within_their_budgets(monkeypatch):
    """Counted without numbers (meta tensors), as the stages count them; the frozen encoder (16 GFLOP) is apart."""
    from svgbench.metrics.perceptual import VggTaps

    runtime = Runtime(device="meta", quiet=True)
    with torch.device("meta"):
        vgg, encoder, part = VggTaps().requires_grad_(False), Padded(384, 16), schema.Autoencoder()
        monkeypatch.setattr(autoencoder, "load_perceptual", lambda *_, **__: SimpleNamespace(activations=vgg, weights=None))
        images = SimpleNamespace(rows=lambda indices: torch.zeros(len(indices), 3, 256, 256, dtype=torch.uint8))
        made = tokenizers.build(encoder, part, 256, runtime.torch_device)
        one = autoencoder.AutoencoderTask(made, images, lambda indices, images: torch.zeros(len(indices), 384, 16, 16), part, 0, runtime)
        assert 900e9 < autoencoder.update_work(one, 10**9).model <= 970e9 - 16e9
        config = build({}, preset="paper")
        model = SiT(channels=392, grid=16, classes=1000, **config.diffusion.transformer.model_dump())
        latents, stats = (lambda indices, flip: torch.zeros(len(indices), 392, 16, 16)), LatentStats(torch.zeros(392), torch.ones(392))
        labels = torch.zeros(12, dtype=torch.int64)
        training = config.diffusion.training.model_copy(update={"precision": "fp32"})  # there is no autocast of meta tensors
        part = config.diffusion.model_copy(update={"training": training})
        two = diffusion.DiffusionTask(model, latents, labels, stats, part, 0, runtime)
        assert 700e9 < diffusion.update_work(two).model <= 716e9


def test_the_manifest_names_the_rate_that_the_utilisation_is_a_share_of():
    report = TrainingReport(
        images_seen=10, updates=1, seconds=1.0, images_per_second=10.0, peak_memory_bytes=1, losses={}, skipped=0, averages=None
    )  # fmt: skip
    found = cost.cost_of(report, CountedWork(50, 7), cost.ProductRate(1000.0, "bf16, 8192 x 8192 x 8192"), torch.nn.Linear(1, 1))
    assert (found["flops_per_image"], found["encoder_flops_per_image"], found["utilisation"]) == (50, 7, 0.5)
    assert (found["product_rate"], found["product_rate_of"]) == (1000.0, "bf16, 8192 x 8192 x 8192")
    measured = cost.product_rate(Runtime(device="cpu"), "fp32")
    assert measured.name == "fp32, 1024 x 1024 x 1024" and measured.flops_per_second > 1e8


def test_fp32_on_a_gpu_is_called_tf32_where_convolutions_or_products_may_use_it(monkeypatch):
    gpu = torch.device("cuda")
    for products, convolutions in (("highest", False), ("highest", True), ("high", False), ("high", True)):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda products=products: products)
        monkeypatch.setattr(torch.backends.cudnn, "conv", SimpleNamespace(fp32_precision="tf32" if convolutions else "ieee"))
        assert precision_used(gpu, "fp32") == ("fp32" if (products, convolutions) == ("highest", False) else "tf32")
    assert precision_used(gpu, "bf16") == "bf16" and precision_used(CPU, "fp32") == "fp32"
    assert gemm_name(gpu, "tf32") == "tf32, 8192 x 8192 x 8192"


def test_tf32_products_leave_the_setting_as_it_was(monkeypatch):
    assert torch.get_float32_matmul_precision() == "highest"
    with measure.float32_products("high"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"
