"""Stage 1's update: micro-batches make the big batch's gradients, the encoder gets none, and one image costs what the budget allows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from svgbench.config import schema
from svgbench.config.build import build
from svgbench.machine.feed import Rows, loaded
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch
from svgbench.stages import autoencoder, tokenizers

torch.set_num_threads(1)


class Patches(torch.nn.Module):
    """An encoder of 5 channels and stride 8."""

    channels, stride = 5, 8

    def __init__(self, channels=5, stride=8):
        super().__init__()
        self.channels, self.stride = channels, stride
        self.layer = torch.nn.Conv2d(3, channels, stride, stride=stride).requires_grad_(False)

    def encode(self, images):
        return self.layer(images)


class Pictures:
    """An image set in memory."""

    def __init__(self, count, side):
        self._images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)

    def __len__(self):
        return len(self._images)

    def batch(self, indices):
        return self._images[torch.as_tensor(indices)]

    def rows(self, indices):
        return Rows(self._images, indices)


def settings(**over) -> schema.Autoencoder:
    part = build({}, preset="tiny").autoencoder
    residual = part.residual.model_copy(update={"layers": 1, "width": 32, "heads": 2, "mlp": 64})
    decoder = part.decoder.model_copy(update={"base": 8, "multipliers": (1, 1, 2, 2)})
    loss = part.loss.model_copy(update={"adversarial_start_images": 100, "discriminator_base": 8})
    return part.model_copy(update={"residual": residual, "decoder": decoder, "loss": loss, **over})


def task(part, micro=None):
    torch.manual_seed(0)
    encoder, images, runtime = Patches(), Pictures(12, 32), Runtime(device="cpu", micro_batch=micro, quiet=True)
    features = tokenizers.Cached(encoder.encode, images, runtime, label="features")
    made = tokenizers.build(encoder, part, 32, runtime.torch_device)
    return autoencoder.AutoencoderTask(made, images, features, part, 3, runtime), encoder


def gradients(part, micro, images_seen):
    """Gradients of both networks at the moment they would be applied, and the losses."""
    made, encoder = task(part, micro)
    found = {}

    def apply(name):
        found.update({f"{name}.{n}": p.grad.clone() for n, p in made.modules[name].named_parameters() if p.grad is not None})

    batch = Batch(torch.arange(8), torch.arange(8) + images_seen, 8, images_seen)
    losses = made.update(loaded(made, batch, torch.device("cpu")), apply)
    assert all(p.grad is None for p in encoder.parameters())
    return found, losses


@pytest.mark.parametrize("align", ["none", "batch", "frozen", "channel"])
@pytest.mark.parametrize("images_seen", [0, 1000], ids=["before the GAN term", "with the GAN term"])
def test_micro_batches_make_the_gradients_of_the_big_batch(align, images_seen):
    part = settings(align=align)
    (whole, whole_losses), (pieces, piece_losses) = (gradients(part, micro, images_seen) for micro in (None, 3))
    assert whole.keys() == pieces.keys() and any(name.startswith("discriminator.") for name in whole) == (images_seen > 100)
    assert any("residual_encoder" in name for name in whole)
    largest = max(gradient.abs().max().item() for name, gradient in whole.items() if name.startswith("tokenizer."))
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=2e-3, atol=1e-5 * largest)
    for name in whole_losses:
        assert piece_losses[name].item() == pytest.approx(whole_losses[name].item(), rel=1e-4)


def test_an_update_is_the_same_twice():
    (first, _), (second, _) = (gradients(settings(), None, 1000) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_moments_that_fix_the_alignment_are_those_of_the_training_images():
    part = settings()
    made, encoder = task(part)
    tokenizer, images, runtime = made.modules["tokenizer"], Pictures(12, 32), Runtime(device="cpu", quiet=True)
    features = tokenizers.Cached(encoder.encode, images, runtime, label="features")
    tokenizer.alignment.freeze(autoencoder.moments(tokenizer, features, images, runtime))
    aligned = tokenizer.encode(tokenizers.to_floats(images.batch(torch.arange(12)), runtime.torch_device))[:, 5:]
    wanted = features.gather(lambda x: x).transpose(0, 1).flatten(1)
    found = aligned.transpose(0, 1).flatten(1)
    assert found.mean().item() == pytest.approx(wanted.mean().item(), abs=1e-3)
    assert found.std(1).mean().item() == pytest.approx(wanted.std(1).mean().item(), rel=1e-3)


def test_stage_one_at_the_paper_s_size_costs_at_most_970_gflop_an_image(monkeypatch):
    """Counted without numbers (meta tensors): residual 19, decoder 759, VGG 120, discriminator; the frozen encoder is 16 more."""
    from svgbench.machine.measure import count_flops
    from svgbench.metrics.perceptual import VggTaps

    part, runtime = schema.Autoencoder(), Runtime(device="meta", quiet=True)
    with torch.device("meta"):
        vgg, encoder = VggTaps().requires_grad_(False), Patches(384, 16)
        monkeypatch.setattr(autoencoder, "load_perceptual", lambda *_, **__: SimpleNamespace(activations=vgg, weights=None))
        images = SimpleNamespace(rows=lambda indices: torch.zeros(len(indices), 3, 256, 256, dtype=torch.uint8))
        made = tokenizers.build(encoder, part, 256, runtime.torch_device)
        one = autoencoder.AutoencoderTask(made, images, lambda indices, images: torch.zeros(len(indices), 384, 16, 16), part, 0, runtime)
        batch = loaded(one, Batch(torch.arange(2), torch.arange(2), 2, images_seen=10**9), runtime.torch_device)
        flops = count_flops(lambda: one.update(batch, lambda name: None)) / 2 + 16e9
    assert 900e9 < flops <= 970e9


def test_the_limit_of_the_adaptive_weight_binds_in_the_update():
    """Where it binds, the GAN's part of the decoder's gradient is proportional to the limit, also over micro-batches."""

    def at_last(limit, micro=None):
        loss = settings().loss.model_copy(update={"adaptive_limit": limit})
        return gradients(settings(loss=loss), micro, 1000)[0]["tokenizer.decoder.conv_out.weight"]

    without, tight, doubled, free = at_last(1e-9), at_last(0.01), at_last(0.02, micro=3), at_last(None)
    assert 0 < (tight - without).norm() < 0.5 * (free - without).norm()
    assert (doubled - without - 2 * (tight - without)).norm() < 0.02 * (doubled - without).norm()


@pytest.mark.parametrize(("align", "strength"), [("token", 1.0), ("frozen", 0.5)])
def test_micro_batches_make_the_same_gradients_with_tokenwise_and_partial_alignment(align, strength):
    part = settings(align=align, align_strength=strength)
    (whole, _), (pieces, _) = (gradients(part, micro, 0) for micro in (None, 3))
    largest = max(gradient.abs().max().item() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=2e-3, atol=1e-5 * largest)
